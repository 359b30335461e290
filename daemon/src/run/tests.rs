//! A whole daemon in this process, talked to over its sockets.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use goumem_proto::model::SESSION_METADATA_KEY;
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_proto::v1;
use goumem_proto::v1::arena_pool_service_client::ArenaPoolServiceClient;
use goumem_proto::v1::byte_service_client::ByteServiceClient;
use goumem_proto::v1::daemon_service_client::DaemonServiceClient;
use goumem_proto::v1::pool_service_client::PoolServiceClient;
use goumem_proto::v1::session_service_client::SessionServiceClient;
use goumem_shm::os;
use goumem_shm::os::frame::{MapReply, MapRequest, MapStatus, REPLY_BYTES};
use goumem_shm::os::{fd_pass, paths};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1 as reflection, v1alpha as old_reflection};

use super::*;

/// Longer than anything takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon, and what belongs to it.
struct TestDaemon {
    socket: PathBuf,
    tcp: Option<std::net::SocketAddr>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    _directory: tempfile::TempDir,
}

impl TestDaemon {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::private(directory.path());
        change(&mut config);
        let listeners = Listeners::bind(&config).unwrap();
        let shutdown = CancellationToken::new();
        Self {
            socket: config.socket.clone(),
            tcp: listeners.tcp_address(),
            running: tokio::spawn(run(config, listeners, shutdown.clone())),
            shutdown,
            _directory: directory,
        }
    }

    async fn channel(&self) -> Channel {
        let address = format!("unix://{}", self.socket.display());
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    async fn end(self) {
        self.shutdown.cancel();
        within(self.running).await.unwrap().unwrap();
        assert!(!self.socket.exists());
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes no time")
}

/// A session: a channel and its token.
#[derive(Clone)]
struct Session {
    channel: Channel,
    token: Vec<u8>,
}

impl Session {
    async fn open(channel: Channel) -> Self {
        let request = v1::OpenSessionRequest {
            label: "test".to_owned(),
            ttl_ms: 0,
        };
        let mut sessions = SessionServiceClient::new(channel.clone());
        let opened = sessions.open(request).await.unwrap().into_inner();
        Self {
            channel,
            token: opened.token,
        }
    }

    fn with<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = MetadataValue::from_bytes(&self.token);
        request.metadata_mut().insert_bin(SESSION_METADATA_KEY, token);
        request
    }

    async fn create_pool(&self, name: &str) -> u32 {
        let create = v1::CreatePoolRequest {
            name: name.to_owned(),
            capacity_bytes: 4 << 20,
            // For everybody: a remote client is no user of this machine.
            permissions: Some(v1::Permissions {
                mode: 0o666,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut pools = PoolServiceClient::new(self.channel.clone());
        let reply = pools.create(self.with(create)).await.unwrap();
        reply.into_inner().pool.unwrap().pool_id
    }

    async fn create_arena_pool(&self, name: &str, arenas: u32) -> u32 {
        let create = v1::CreateArenaPoolRequest {
            name: name.to_owned(),
            arenas,
            arena_bytes: 4096,
            ..Default::default()
        };
        let mut pools = ArenaPoolServiceClient::new(self.channel.clone());
        let reply = pools.create(self.with(create)).await.unwrap();
        reply.into_inner().pool.unwrap().pool_id
    }

    async fn alloc(&self, pool_id: u32, size_bytes: u64) -> v1::Handle {
        let alloc = v1::AllocRequest {
            pool_id,
            spec: Some(v1::BlockSpec {
                size_bytes,
                ..Default::default()
            }),
            request_id: 0,
        };
        let mut pools = PoolServiceClient::new(self.channel.clone());
        let reply = pools.alloc(self.with(alloc)).await.unwrap();
        reply.into_inner().block.unwrap().handle.unwrap()
    }

    async fn get_arena(&self, pool_id: u32, wait_ms: u64) -> Result<v1::Handle, Status> {
        let get = v1::GetArenaRequest {
            pool_id,
            wait_ms,
            request_id: 0,
        };
        let mut pools = ArenaPoolServiceClient::new(self.channel.clone());
        let reply = pools.get(self.with(get)).await?;
        Ok(reply.into_inner().arena.unwrap())
    }

    async fn n_waiting(&self, name: &str) -> u32 {
        let stat = v1::StatPoolRequest {
            name: name.to_owned(),
        };
        let mut pools = ArenaPoolServiceClient::new(self.channel.clone());
        let reply = pools.stat(self.with(stat)).await.unwrap();
        reply.into_inner().waiting
    }
}

async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    within(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

fn reason(status: &Status) -> Reason {
    ErrorDetail::from_status(status)
        .unwrap_or_else(|| panic!("not ours: {status:?}"))
        .reason
}

#[tokio::test]
async fn daemon_answers_and_leaves_nothing_behind() {
    let daemon = TestDaemon::start();
    let mut client = DaemonServiceClient::new(daemon.channel().await);
    client.ping(v1::PingRequest {}).await.unwrap();
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.pid, std::process::id());
    assert!(info.fd_socket.ends_with("goumemd.fd.sock"));
    daemon.end().await;
}

#[tokio::test]
async fn two_daemons_live_in_one_process() {
    let (one, other) = (TestDaemon::start(), TestDaemon::start());
    let session = Session::open(one.channel().await).await;
    session.create_pool("here").await;
    let mut client = DaemonServiceClient::new(other.channel().await);
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.pools, info.sessions), (0, 0));
    one.end().await;
    client.ping(v1::PingRequest {}).await.unwrap();
    other.end().await;
}

#[tokio::test]
async fn health_tells_of_every_service() {
    let daemon = TestDaemon::start();
    let mut health = HealthClient::new(daemon.channel().await);
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let reply = health.check(request).await.unwrap().into_inner();
        assert_eq!(reply.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    daemon.end().await;
}

#[tokio::test]
async fn reflection_of_both_versions_lists_every_service() {
    let daemon = TestDaemon::start();
    let channel = daemon.channel().await;

    let list = reflection::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let reply = replies.into_inner().next().await.unwrap().unwrap();
    assert_lists_services(&format!("{reply:?}"));

    let list =
        old_reflection::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = old_reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut client =
        old_reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let reply = replies.into_inner().next().await.unwrap().unwrap();
    assert_lists_services(&format!("{reply:?}"));
    daemon.end().await;
}

fn assert_lists_services(reply: &str) {
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(reply.contains(service), "{service} in {reply}");
    }
}

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
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, Reason::PoolNotFound));
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
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, Reason::SessionRequired));
    let stranger = Session {
        token: vec![7; 16],
        ..session.clone()
    };
    let status = pools.alloc(stranger.with(alloc())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, Reason::SessionExpired));
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
    let reply = bytes.write(session.with(tokio_stream::iter(pieces))).await.unwrap();
    assert_eq!(reply.into_inner().written_bytes, 150_000);

    let read = |offset_bytes, length_bytes| v1::ReadRequest {
        handle: Some(handle),
        offset_bytes,
        length_bytes,
    };
    let replies = bytes.read(session.with(read(0, 0))).await.unwrap().into_inner();
    let pieces: Vec<_> = replies.collect().await;
    assert_eq!(pieces.len(), 4, "pieces of 64 KiB");
    let found: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap().data).collect();
    assert_eq!(found.len(), 200_000);
    assert!(found[..10].iter().all(|&byte| byte == 0), "alloc by RPC is zeroed");
    assert!(found[10..150_010] == text);

    let status = bytes.read(session.with(read(200_000, 1))).await.unwrap_err();
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
        assert_eq!((reply.status, reply.n_fds, fds.len()), (MapStatus::Ok, 2, 2));
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
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let request = v1::OpenSessionRequest {
        label: String::new(),
        ttl_ms: 60_000,
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
    let status = sessions.resume(thief.with(v1::ResumeSessionRequest {})).await.unwrap_err();
    assert_eq!(reason(&status), Reason::SessionExpired);
    daemon.end().await;
}

#[tokio::test]
async fn silent_remote_session_ends_by_itself() {
    let daemon = TestDaemon::start_with(|config| {
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
    });
    let address = format!("http://{}", daemon.tcp.unwrap());
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let request = v1::OpenSessionRequest {
        label: String::new(),
        ttl_ms: 100,
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    sessions.open(request).await.unwrap();
    let daemons = DaemonServiceClient::new(channel);
    until(async || {
        let mut daemons = daemons.clone();
        daemons.info(v1::InfoRequest {}).await.unwrap().into_inner().sessions == 0
    })
    .await;
    daemon.end().await;
}

#[tokio::test]
async fn free_memory_goes_back_to_the_system_by_itself() {
    let daemon = TestDaemon::start_with(|config| {
        config.limits.purge_after = Duration::from_millis(20);
    });
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let daemons = DaemonServiceClient::new(session.channel.clone());
    let committed = async || {
        let mut daemons = daemons.clone();
        let info = daemons.info(v1::InfoRequest {}).await.unwrap();
        info.into_inner().committed_bytes
    };
    let handle = session.alloc(pool_id, 2 << 20).await;
    let before = committed().await;
    let mut pools = PoolServiceClient::new(session.channel.clone());
    let free = v1::FreeRequest {
        handle: Some(handle),
        request_id: 0,
    };
    pools.free(session.with(free)).await.unwrap();
    until(async || committed().await + (2 << 20) <= before).await;
    daemon.end().await;
}

#[tokio::test]
async fn shutdown_is_announced_and_ends_streams_and_waits() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_arena_pool("a", 1).await;
    session.get_arena(pool_id, 0).await.unwrap();
    let waiter = session.clone();
    let waiting = tokio::spawn(async move { waiter.get_arena(pool_id, 60_000).await });
    until(async || session.n_waiting("a").await == 1).await;
    let mut sessions = SessionServiceClient::new(session.channel.clone());
    let events = sessions.events(session.with(v1::EventsRequest {})).await.unwrap();
    let mut events = events.into_inner();
    let welcome = events.next().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(welcome, v1::event::Event::Welcome(_)));

    daemon.shutdown.cancel();
    let last = within(events.next()).await.unwrap().unwrap().event.unwrap();
    assert!(
        matches!(last, v1::event::Event::ShuttingDown(v1::ShuttingDown { deadline_ms: 10_000 })),
        "{last:?}"
    );
    assert!(within(events.next()).await.is_none());
    let status = within(waiting).await.unwrap().unwrap_err();
    assert_eq!(reason(&status), Reason::ShuttingDown);
    daemon.end().await;
}

#[tokio::test]
async fn call_that_outlasts_the_deadline_is_cut_off() {
    let daemon = TestDaemon::start_with(|config| {
        config.drain_deadline = Duration::from_millis(50);
    });
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let handle = session.alloc(pool_id, 100).await;
    // A write that never comes to its end.
    let first = v1::WriteRequest {
        handle: Some(handle),
        offset_bytes: 0,
        data: vec![1].into(),
    };
    let endless = tokio_stream::once(first).chain(tokio_stream::pending());
    let mut bytes = ByteServiceClient::new(session.channel.clone());
    let writing = tokio::spawn({
        let request = session.with(endless);
        async move { bytes.write(request).await }
    });
    // One more call on the connection, so that the write has begun.
    session.alloc(pool_id, 100).await;
    daemon.end().await;
    within(writing).await.unwrap().unwrap_err();
}
