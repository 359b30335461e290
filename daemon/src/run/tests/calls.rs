//! Calls over the sockets: what the edge adds to the core, which has tests of its own.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use goumem_proto::v1::byte_service_client::ByteServiceClient;
use goumem_shm::os::frame::{MapReply, MapRequest, MapStatus, REPLY_BYTES};
use goumem_shm::os::{self, fd_pass, paths};

use super::*;

#[tokio::test]
async fn errors_carry_their_reason_over_the_wire() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let mut pools = PoolServiceClient::new(session.channel.clone());

    let open = |name: &str| v1::OpenPoolRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    let status = pools.open(session.with(open("none"))).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::NotFound, Reason::PoolNotFound)
    );
    let status = pools.open(session.with(open("no/name"))).await.unwrap_err();
    assert_eq!(reason(&status), Reason::InvalidField);

    let alloc = || v1::AllocRequest {
        pool_id,
        spec: Some(v1::BlockSpec {
            size_bytes: 1,
            ..Default::default()
        }),
        request_id: 0,
    };
    let status = pools.alloc(alloc()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unauthenticated, Reason::SessionRequired)
    );
    let stranger = Session {
        token: vec![7; 16],
        ..session.clone()
    };
    let status = pools.alloc(stranger.with(alloc())).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Aborted, Reason::SessionExpired)
    );
    let garbled = Session {
        token: vec![7; 3],
        ..session.clone()
    };
    let status = pools.alloc(garbled.with(alloc())).await.unwrap_err();
    assert_eq!(reason(&status), Reason::InvalidField);
    daemon.end().await;
}

#[tokio::test]
async fn block_is_allocated_written_read_and_freed_by_rpc() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let handle = session.alloc(pool_id, 200_000).await;
    let mut bytes = ByteServiceClient::new(session.channel.clone());

    let text: Vec<u8> = (0..150_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let pieces: Vec<_> = [&text[..100_000], &text[100_000..]]
        .iter()
        .enumerate()
        .map(|(i, piece)| v1::WriteRequest {
            handle: (i == 0).then_some(handle),
            offset_bytes: if i == 0 { 10 } else { 0 },
            data: piece.to_vec().into(),
        })
        .collect();
    let reply = bytes
        .write(session.with(tokio_stream::iter(pieces)))
        .await
        .unwrap();
    assert_eq!(reply.into_inner().written_bytes, 150_000);

    let read = |offset_bytes, length_bytes| v1::ReadRequest {
        handle: Some(handle),
        offset_bytes,
        length_bytes,
    };
    let replies = bytes
        .read(session.with(read(0, 0)))
        .await
        .unwrap()
        .into_inner();
    let pieces: Vec<_> = replies.collect().await;
    assert_eq!(pieces.len(), 4, "pieces of 64 KiB");
    let found: Vec<u8> = pieces
        .into_iter()
        .flat_map(|piece| piece.unwrap().data)
        .collect();
    assert_eq!(found.len(), 200_000);
    assert!(
        found[..10].iter().all(|&byte| byte == 0),
        "alloc by RPC is zeroed"
    );
    assert!(found[10..150_010] == text);

    let status = bytes
        .read(session.with(read(200_000, 1)))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), Reason::OutOfRange);

    let mut pools = PoolServiceClient::new(session.channel.clone());
    let free = || v1::FreeRequest {
        handle: Some(handle),
        request_id: 0,
    };
    pools.free(session.with(free())).await.unwrap();
    let status = pools.free(session.with(free())).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = bytes.read(session.with(read(0, 0))).await.unwrap_err();
    assert_eq!(reason(&status), Reason::StaleHandle);
    daemon.end().await;
}

#[tokio::test]
async fn waiter_gets_the_arena_that_is_returned() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_arena_pool("a", 1).await;
    let arena = session.get_arena(pool_id, 0).await.unwrap();
    let status = session.get_arena(pool_id, 0).await.unwrap_err();
    assert_eq!(reason(&status), Reason::NoFreeArena);
    let status = session.get_arena(pool_id, 5).await.unwrap_err();
    assert_eq!(reason(&status), Reason::DeadlineExceeded);
    assert_eq!(session.n_waiting("a").await, 0);

    let waiter = session.clone();
    let waiting = tokio::spawn(async move { waiter.get_arena(pool_id, 60_000).await });
    until(async || session.n_waiting("a").await == 1).await;
    let give_back = v1::ReturnArenaRequest {
        arena: Some(arena),
        request_id: 0,
    };
    let mut pools = ArenaPoolServiceClient::new(session.channel.clone());
    pools.r#return(session.with(give_back)).await.unwrap();
    let got = within(waiting).await.unwrap().unwrap();
    assert_ne!(got, arena, "another life of it");
    daemon.end().await;
}

#[tokio::test]
async fn waiter_that_goes_away_leaves_the_line() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_arena_pool("a", 1).await;
    session.get_arena(pool_id, 0).await.unwrap();
    let waiter = session.clone();
    let waiting = tokio::spawn(async move { waiter.get_arena(pool_id, 60_000).await });
    until(async || session.n_waiting("a").await == 1).await;
    waiting.abort();
    until(async || session.n_waiting("a").await == 0).await;
    daemon.end().await;
}

#[tokio::test]
async fn fd_socket_hands_out_memory_to_the_session_only() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let token: [u8; 16] = session.token.clone().try_into().unwrap();
    let fd_socket = paths::fd_socket_path(&daemon.socket).unwrap();
    let asking = tokio::task::spawn_blocking(move || {
        let socket = UnixStream::connect(fd_socket).unwrap();
        let ask = |token, pool_id| {
            let request = MapRequest {
                access: os::Access::ReadWrite,
                token,
                pool_id,
            };
            fd_pass::send(&socket, &request.encode(), &[]).unwrap();
            receive_reply(&socket)
        };
        // Many requests on one connection, good and bad.
        let (reply, fds) = ask(token, pool_id);
        assert_eq!(
            (reply.status, reply.n_fds, fds.len()),
            (MapStatus::Ok, 2, 2)
        );
        assert_eq!(ask([0; 16], pool_id).0.status, MapStatus::BadToken);
        assert_eq!(ask(token, pool_id ^ 1).0.status, MapStatus::NotFound);
        assert_eq!(ask(token, 0).0.status, MapStatus::NotFound);
        assert_eq!(ask(token, pool_id).0.status, MapStatus::Ok);

        fd_pass::send(&socket, &[b'x'; 32], &[]).unwrap();
        assert_eq!(receive_reply(&socket).0.status, MapStatus::BadFrame);
        let closed = fd_pass::recv(&socket, &mut [0; 16], 0).unwrap();
        assert_eq!(closed.0, 0, "a bad frame ends the connection");
    });
    within(asking).await.unwrap();
    daemon.end().await;
}

fn receive_reply(socket: &UnixStream) -> (MapReply, Vec<OwnedFd>) {
    let mut frame = [0; REPLY_BYTES];
    let (n, fds) = fd_pass::recv(socket, &mut frame, 2).unwrap();
    assert_eq!(n, REPLY_BYTES);
    (MapReply::decode(&frame).unwrap(), fds)
}

#[tokio::test]
async fn remote_session_works_but_may_not_map() {
    let daemon = TestDaemon::start_with(|config| {
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
    });
    let address = format!("http://{}", daemon.tcp.unwrap());
    let channel = Endpoint::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = v1::OpenSessionRequest {
        label: String::new(),
        ttl_ms: 60_000,
        ..Default::default()
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    let opened = sessions.open(request).await.unwrap().into_inner();
    assert!(!opened.may_map && opened.fd_socket.is_empty());
    assert_eq!(opened.ttl_ms, 60_000);

    let remote = Session {
        channel,
        token: opened.token,
    };
    let pool_id = remote.create_pool("p").await;
    remote.alloc(pool_id, 100).await;
    // The same token over the Unix socket is another caller.
    let thief = Session {
        channel: daemon.channel().await,
        ..remote.clone()
    };
    let mut sessions = SessionServiceClient::new(thief.channel.clone());
    let status = sessions
        .resume(thief.with(v1::ResumeSessionRequest {}))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), Reason::SessionExpired);
    daemon.end().await;
}
