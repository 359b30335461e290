//! Compiles `goumem/v1/goumem.proto` in pure Rust: no `protoc` on the user's machine.

use std::path::PathBuf;

use prost::Message as _;

fn main() {
    println!("cargo::rerun-if-changed=goumem/v1/goumem.proto");
    let files = protox::compile(["goumem/v1/goumem.proto"], ["."])
        .unwrap_or_else(|error| panic!("goumem.proto: {error:?}"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // compile_fds writes no descriptor set, and reflection needs one.
    std::fs::write(out.join("goumem_descriptor.bin"), files.encode_to_vec())
        .expect("OUT_DIR is writable");
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let (package, service) = (file.package(), service.name());
                methods.push(format!("{package}.{service}/{}", method.name()));
            }
        }
    }
    methods.sort_unstable();
    std::fs::write(out.join("goumem_methods.rs"), format!("&{methods:?}"))
        .expect("OUT_DIR is writable");
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .bytes(".goumem.v1.ReadReply.data")
        .bytes(".goumem.v1.WriteRequest.data")
        // It carries the session's token; model/session.rs writes a Debug that hides it.
        .skip_debug([".goumem.v1.OpenSessionReply"])
        .compile_fds(files)
        .expect("protox accepted the file, so code generation does");
}
