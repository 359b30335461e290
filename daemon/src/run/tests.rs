//! A whole daemon in this process, talked to over its sockets.

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use goumem_proto::model::SESSION_METADATA_KEY;
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_proto::v1;
use goumem_proto::v1::arena_pool_service_client::ArenaPoolServiceClient;
use goumem_proto::v1::byte_service_client::ByteServiceClient;
use goumem_proto::v1::daemon_service_client::DaemonServiceClient;
use goumem_proto::v1::pool_service_client::PoolServiceClient;
use goumem_proto::v1::session_service_client::SessionServiceClient;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1 as reflection, v1alpha as old_reflection};

use super::*;

mod calls;
mod control;

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
        Endpoint::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap()
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
            ..Default::default()
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
        request
            .metadata_mut()
            .insert_bin(SESSION_METADATA_KEY, token);
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
        assert_eq!(
            reply.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
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
    let replies = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let reply = replies.into_inner().next().await.unwrap().unwrap();
    assert_lists_services(&format!("{reply:?}"));

    let list =
        old_reflection::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = old_reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut client = old_reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let replies = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
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
async fn silent_remote_session_ends_by_itself() {
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
        ttl_ms: 100,
        ..Default::default()
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    sessions.open(request).await.unwrap();
    let daemons = DaemonServiceClient::new(channel);
    until(async || {
        let mut daemons = daemons.clone();
        daemons
            .info(v1::InfoRequest {})
            .await
            .unwrap()
            .into_inner()
            .sessions
            == 0
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
    // A slab's span, which the daemon would keep for the next block, and a span of its own.
    for size_bytes in [1 << 19, 2 << 20] {
        let handle = session.alloc(pool_id, size_bytes).await;
        let before = committed().await;
        let mut pools = PoolServiceClient::new(session.channel.clone());
        let free = v1::FreeRequest {
            handle: Some(handle),
            request_id: 0,
        };
        pools.free(session.with(free)).await.unwrap();
        until(async || committed().await + (size_bytes) <= before).await;
    }
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
    let events = sessions
        .events(session.with(v1::EventsRequest {}))
        .await
        .unwrap();
    let mut events = events.into_inner();
    let welcome = events.next().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(welcome, v1::event::Event::Welcome(_)));

    daemon.shutdown.cancel();
    let last = within(events.next()).await.unwrap().unwrap().event.unwrap();
    assert!(
        matches!(
            last,
            v1::event::Event::ShuttingDown(v1::ShuttingDown {
                deadline_ms: 10_000
            })
        ),
        "{last:?}"
    );
    assert!(within(events.next()).await.is_none());
    let status = within(waiting).await.unwrap().unwrap_err();
    assert_eq!(reason(&status), Reason::ShuttingDown);
    daemon.end().await;
}

#[tokio::test]
async fn daemon_that_is_dropped_ends_with_its_connections() {
    let daemon = TestDaemon::start();
    let mut client = DaemonServiceClient::new(daemon.channel().await);
    client.ping(v1::PingRequest {}).await.unwrap();
    daemon.running.abort();
    assert!(within(daemon.running).await.unwrap_err().is_cancelled());
    assert!(!daemon.socket.exists());
    until(async || client.clone().ping(v1::PingRequest {}).await.is_err()).await;
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

/// Run by the test below, in a process of its own, until it is killed.
#[tokio::test]
#[ignore = "not a test: the child of `what_a_killed_process_held_is_free_at_once`"]
async fn child_holds_an_arena() {
    let socket = std::env::var("TEST_SOCKET").unwrap();
    let pool_id = std::env::var("TEST_POOL").unwrap().parse().unwrap();
    let address = Endpoint::from_shared(format!("unix://{socket}")).unwrap();
    let session = Session::open(address.connect().await.unwrap()).await;
    session.get_arena(pool_id, 0).await.unwrap();
    println!("holding");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_a_killed_process_held_is_free_at_once() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_arena_pool("a", 1).await;
    let mut alice = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "run::tests::child_holds_an_arena"])
        .args(["--ignored", "--nocapture"])
        .env("TEST_SOCKET", &daemon.socket)
        .env("TEST_POOL", pool_id.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(alice.stdout.take().unwrap()).lines();
    let holding = tokio::task::spawn_blocking(move || {
        said.any(|line| line.is_ok_and(|line| line.contains("holding")))
    });
    assert!(within(holding).await.unwrap());
    let status = session.get_arena(pool_id, 0).await.unwrap_err();
    assert_eq!(reason(&status), Reason::NoFreeArena);

    // Waits while alice dies: the sweep of her session lets it go on.
    let waiter = session.clone();
    let waiting = tokio::spawn(async move { waiter.get_arena(pool_id, 60_000).await });
    until(async || session.n_waiting("a").await == 1).await;
    alice.kill().unwrap();
    within(waiting).await.unwrap().unwrap();
    alice.wait().unwrap();
    daemon.end().await;
}
