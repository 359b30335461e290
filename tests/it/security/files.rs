//! Files of pools that are not as the daemon left them: what cannot be believed is not served, and
//! stays as it is for whoever can mend it.

use std::os::unix::fs::FileExt as _;

use harness::Random;

use super::*;

const HALVES: [&str; 2] = ["control", "data"];

fn file(daemon: &DaemonProcess, pool: &str, half: &str) -> PathBuf {
    let name = format!("{pool}.{half}.goumem");
    daemon.directory().join("data").join(name)
}

/// Creates a file-backed pool with a block that is kept under a name.
fn create(rpc: &Rpc, name: &str) {
    let create = v1::CreatePoolRequest {
        name: name.to_owned(),
        capacity_bytes: MIB,
        backing: v1::Backing::File.into(),
        ..Default::default()
    };
    let pool = call!(*rpc, pools.create(create)).unwrap().pool.unwrap();
    let block = rpc.alloc(pool.pool_id, 1000).unwrap();
    rpc.write(block, 0, &[7; 1000]).unwrap();
    let publish = v1::PublishRequest {
        handle: Some(block),
        name: "n".to_owned(),
        ..Default::default()
    };
    call!(*rpc, pools.publish(publish)).unwrap();
}

/// Returns what the named block of a pool holds, if the pool is served.
fn contents(rpc: &Rpc, name: &str) -> Option<Vec<u8>> {
    let open = v1::OpenPoolRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    let pool = call!(*rpc, pools.open(open)).ok()?.pool.unwrap();
    let lookup = v1::LookupRequest {
        pool_id: pool.pool_id,
        name: "n".to_owned(),
    };
    let handle = call!(*rpc, pools.lookup(lookup)).ok()?.handle.unwrap();
    rpc.read(handle, 0, 0).ok()
}

/// Has a daemon write pools, spoils their files while none runs, and starts the next.
fn spoilt(names: &[&str], spoil: impl FnOnce(&DaemonProcess)) -> (DaemonProcess, Rpc) {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    for name in names.iter().chain(&["good"]) {
        create(&rpc, name);
    }
    daemon.kill();
    spoil(&daemon);
    let mut daemon = daemon.next(PUPPETS);
    let rpc = daemon.rpc();
    assert_eq!(contents(&rpc, "good").unwrap(), [7; 1000]);
    daemon.is_well();
    (daemon, rpc)
}

#[test]
fn truncated_files_are_refused_and_left_as_they_are() {
    let names = ["a", "b", "c", "d"];
    let lengths = [
        ("control", 100),
        ("control", 8192),
        ("data", 100),
        ("data", 1 << 19),
    ];
    let (daemon, rpc) = spoilt(&names, |daemon| {
        for (name, (half, length)) in names.iter().zip(lengths) {
            let path = file(daemon, name, half);
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(length).unwrap();
        }
    });
    for (name, (half, length)) in names.iter().zip(lengths) {
        assert_eq!(contents(&rpc, name), None, "{name}");
        assert!(
            daemon.log().contains(&format!("\"pool\":\"{name}\"")),
            "{}",
            daemon.log()
        );
        assert_eq!(
            fs::metadata(file(&daemon, name, half)).unwrap().len(),
            length
        );
    }
}

#[test]
fn files_of_another_version_are_refused_and_left_as_they_are() {
    let names = ["next", "last", "other"];
    let versions = [2u32, 0, u32::MAX];
    let (daemon, rpc) = spoilt(&names, |daemon| {
        for (name, version) in names.iter().zip(versions) {
            for half in HALVES {
                let path = file(daemon, name, half);
                let file = fs::File::options().write(true).open(path).unwrap();
                // Bits 63 to 32 of the second word (docs/layout.md).
                file.write_at(&version.to_le_bytes(), 12).unwrap();
            }
        }
    });
    for (name, version) in names.iter().zip(versions) {
        assert_eq!(contents(&rpc, name), None, "{name}");
        let bytes = fs::read(file(&daemon, name, "control")).unwrap();
        assert_eq!(bytes[12..16], version.to_le_bytes());
    }
    assert!(daemon.log().contains("version"), "{}", daemon.log());
}

#[test]
fn files_with_flipped_bits_are_refused_or_served_without_what_is_spoilt() {
    let names: Vec<_> = (0..40).map(|i| format!("p{i}")).collect();
    let refs: Vec<_> = names.iter().map(String::as_str).collect();
    let mut random = Random::new(11);
    let (mut daemon, rpc) = spoilt(&refs, |daemon| {
        for (i, name) in names.iter().enumerate() {
            let path = file(daemon, name, HALVES[i % 2]);
            let file = fs::File::options()
                .read(true)
                .write(true)
                .open(path)
                .unwrap();
            // The header, or the tables behind it.
            let end = if i % 4 < 2 { 128 } else { 40_000 };
            for _ in 0..8 {
                let at = random.below(end);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << random.below(8);
                file.write_at(&byte, at).unwrap();
            }
        }
    });
    let mut served = 0;
    for name in &names {
        let stat = v1::StatPoolRequest { name: name.clone() };
        if call!(rpc, pools.stat(stat)).is_err() {
            continue;
        }
        served += 1;
        // What it says, it says without a fault; and it works, or says why not.
        drop(contents(&rpc, name));
        let open = v1::OpenPoolRequest {
            name: name.clone(),
            ..Default::default()
        };
        let pool = call!(rpc, pools.open(open)).unwrap().pool.unwrap();
        if let Ok(block) = rpc.alloc(pool.pool_id, 1000) {
            rpc.write(block, 0, &[1; 1000]).unwrap();
            rpc.free(block).unwrap();
        }
    }
    assert!((1..names.len()).contains(&served), "{served} served");
    daemon.is_well();
}
