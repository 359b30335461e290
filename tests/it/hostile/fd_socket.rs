//! The socket that hands out memory, and clients that speak nothing it knows, or do not listen.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;

use goumem_shm::os::Access;
use goumem_shm::os::fd_pass;
use goumem_shm::os::frame::{MapReply, MapRequest, MapStatus, REPLY_BYTES, REQUEST_BYTES};
use harness::Random;

use super::*;

#[test]
fn client_that_never_reads_its_replies_holds_up_nobody() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let request = MapRequest {
        access: Access::ReadOnly,
        token: rpc.token.clone().try_into().unwrap(),
        pool_id: rpc.create_pool("p", MIB),
    };
    let before = fds_of(&mut daemon);
    let mut deaf: Vec<_> = (0..32).map(|_| fd_socket(daemon.socket())).collect();
    for socket in &mut deaf {
        socket.set_nonblocking(true).unwrap();
        // Until the daemon takes no more, because its replies stay where they are.
        let full = loop {
            if let Err(error) = socket.write_all(&request.encode()) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    others_are_served(daemon.socket());
    drop(deaf);
    fds_come_down_to(&mut daemon, before);
    daemon.is_well();
}

#[test]
fn frames_of_garbage_get_an_answer_or_the_end_and_their_fds_are_closed() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let good = MapRequest {
        access: Access::ReadWrite,
        token: rpc.token.clone().try_into().unwrap(),
        pool_id,
    };
    let before = fds_of(&mut daemon);
    let mut random = Random::new(7);
    let null = fs::File::open("/dev/null").unwrap();
    for round in 0..400 {
        let mut frame = good.encode();
        // A byte of it spoilt, or all of them.
        let spoilt = if round % 2 == 0 { 1 } else { REQUEST_BYTES };
        for _ in 0..spoilt {
            let at = random.index(REQUEST_BYTES);
            frame[at] = random.below(256).try_into().unwrap();
        }
        let mut socket = fd_socket(daemon.socket());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        fd_pass::send(&socket, &frame, &[null.as_fd(); 16]).unwrap();
        let mut reply = [0; REPLY_BYTES];
        let (n, fds) = fd_pass::recv(&socket, &mut reply, 2).unwrap();
        assert_eq!(n, REPLY_BYTES);
        let status = MapReply::decode(&reply).unwrap().status;
        // The spoilt byte may be one that was so before, or the other kind of access.
        assert_eq!(fds.is_empty(), status != MapStatus::Ok);
        if status == MapStatus::BadFrame {
            let end = socket.read(&mut reply);
            assert!(!matches!(end, Ok(1..)), "nothing after a bad frame");
        }
    }
    others_are_served(daemon.socket());
    fds_come_down_to(&mut daemon, before);
    daemon.is_well();
}
