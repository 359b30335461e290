//! Large transfers: all of them arrive, and a slow reader costs a window.

use goumem_proto::v1;
use harness::{DaemonProcess, Rpc, rpc};

use super::*;
use crate::PUPPETS;

const LARGE: u64 = 64 * MIB;

/// Bytes that say where they belong.
fn pattern(len: u64) -> Vec<u8> {
    let words = (0..len / 8).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// FNV-1a, which depends on the place of each byte.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(sum, step)
}

#[test]
fn sixty_four_mebibytes_arrive_both_ways_over_tls() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| secured(config, files));
    let alice = connect(over_tls(&daemon, files).token(ALICE));
    let pool = alice.create_pool("p", PoolOptions::new(2 * LARGE)).unwrap();
    let bytes = pattern(LARGE);
    let expected = checksum(0, &bytes);
    let block = pool.alloc_bytes(bytes).unwrap();
    let mut reader = wait(block.reader(0, LARGE)).unwrap();
    let (mut sum, mut len) = (0, 0);
    while let Some(piece) = wait(reader.next()).unwrap() {
        sum = checksum(sum, &piece);
        len += piece.len() as u64;
    }
    assert_eq!((len, sum), (LARGE, expected));
    // A part in the middle, as one.
    let part = wait(block.read(LARGE / 2 + 8, MIB)).unwrap();
    assert_eq!(
        part[..8],
        (LARGE / 16 + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()
    );
    assert_eq!(part.len() as u64, MIB);
}

#[test]
fn transfer_goes_on_over_another_connection_when_its_own_breaks() {
    let daemon = TestDaemon::start_with(|config| {
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
    });
    let cable = Cable::to(daemon.tcp().unwrap());
    let alice = connect(plainly(cable.address));
    let pool = alice.create_pool("p", PoolOptions::new(32 * MIB)).unwrap();
    let bytes = pattern(16 * MIB);
    let block = pool.alloc_bytes(bytes.clone()).unwrap();
    let mut reader = wait(block.reader(0, 16 * MIB)).unwrap();
    let mut found = Vec::new();
    while let Some(piece) = wait(reader.next()).unwrap() {
        let before = found.len() as u64 / (4 * MIB);
        found.extend(piece);
        if found.len() as u64 / (4 * MIB) != before {
            cable.cut();
            cable.mend();
        }
    }
    assert!(found == bytes, "of {} bytes some are wrong", found.len());
}

#[test]
fn slow_readers_cost_a_window_each_and_hold_up_nobody() {
    // Free a moment ago, and nobody else's since.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let listen = address.to_string();
    let setup = harness::Setup::default();
    let mut daemon = DaemonProcess::start_with(PUPPETS, &setup, &["--tcp", &listen]).unwrap();
    let alice = connect(plainly(address));
    let pool = alice.create_pool("p", PoolOptions::new(2 * LARGE)).unwrap();
    let block = pool.alloc(LARGE).unwrap();
    wait(block.write(0, vec![1; 1 << 20])).unwrap();
    let before = private_bytes_of(&mut daemon);
    // 1 GiB on one connection, and as much on 16 that read nothing at all.
    let mut readers: Vec<_> = (0..16)
        .map(|_| wait(block.reader(0, LARGE)).unwrap())
        .collect();
    for reader in &mut readers {
        assert!(wait(reader.next()).unwrap().is_some());
    }
    let mut raw = Vec::new();
    for _ in 0..16 {
        let rpc = Rpc::connect_tcp(address);
        let token = rpc.open_session().token;
        let rpc = rpc.with_token(token);
        let read = v1::ReadRequest {
            handle: Some(block.handle().into()),
            ..Default::default()
        };
        let stream = rpc::wait(rpc.bytes().read(rpc.with(read))).unwrap();
        raw.push((rpc, stream));
    }
    daemon.client().ping().unwrap();
    alice.ping().unwrap();
    let set_aside = private_bytes_of(&mut daemon).saturating_sub(before);
    assert!(set_aside < 128 * MIB, "{set_aside} bytes set aside");
    // One that goes on gets the rest.
    let mut last = readers.pop().unwrap();
    drop(readers);
    let mut len = 0;
    while let Some(piece) = wait(last.next()).unwrap() {
        len += piece.len() as u64;
    }
    assert!(len > LARGE - MIB && len < LARGE, "{len}");
    daemon.is_well();
}

/// Returns how much memory a daemon has for itself, in bytes.
fn private_bytes_of(daemon: &mut DaemonProcess) -> u64 {
    let pid = daemon.puppet().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}
