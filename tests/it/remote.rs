//! Clients by TCP: who is let in, as whom, and for how long; bytes both ways; and that they take
//! from others no more than their share.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use goumem::blocking::{Client, RemoteClient, RemoteClientBuilder, wait};
use goumem::{Error, PoolOptions, Reason};
use goumemd::{Config, TcpOptions};
use harness::{PATIENCE, TestDaemon, eventually};

mod bytes;
mod cable;
mod certificates;
mod crowd;
mod pools;
mod proof;
mod reload;
mod sessions;

use cable::Cable;
use certificates::Authority;

const MIB: u64 = 1 << 20;
const ALICE: &str = "alice-has-this-token";
const BOB: &str = "bob-has-another-token";

/// Configures TCP on a loopback address, as any other would have to be: TLS, and a proof of who
/// comes, either kind. The files for it go to one directory.
fn secured(config: &mut Config, files: &Path) {
    let ca = Authority::new();
    ca.write(&files.join("ca.pem"));
    let (certificate, key) = ca.server().write(files, "server");
    let tokens = files.join("tokens");
    write_secret(&tokens, &format!("alice: {ALICE}\nbob: {BOB}\n"));
    config.tcp = Some("127.0.0.1:0".parse().unwrap());
    config.tcp_options = TcpOptions {
        tls_cert: Some(certificate),
        tls_key: Some(key),
        tokens_file: Some(tokens),
        ..TcpOptions::default()
    };
}

/// Configures TCP with tokens, but without TLS.
fn with_tokens(config: &mut Config, files: &Path) {
    secured(config, files);
    config.tcp_options.tls_cert = None;
    config.tcp_options.tls_key = None;
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Sets up a client of an address with TLS.
fn over_tls(daemon: &TestDaemon, files: &Path) -> RemoteClientBuilder {
    Client::builder()
        .address(format!("https://{}", daemon.tcp().unwrap()))
        .ca_file(files.join("ca.pem"))
}

/// Sets up a client of an address without TLS.
fn plainly(address: SocketAddr) -> RemoteClientBuilder {
    Client::builder().address(format!("http://{address}"))
}

fn connect(builder: RemoteClientBuilder) -> RemoteClient {
    builder.connect().unwrap()
}
