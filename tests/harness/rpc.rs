//! A client that speaks plain gRPC, as one in any other language would.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use goumem_proto::model::SESSION_METADATA_KEY;
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use goumem_proto::v1::arena_pool_service_client::ArenaPoolServiceClient;
use goumem_proto::v1::byte_service_client::ByteServiceClient;
use goumem_proto::v1::daemon_service_client::DaemonServiceClient;
use goumem_proto::v1::pool_service_client::PoolServiceClient;
use goumem_proto::v1::session_service_client::SessionServiceClient;
use goumem_shm::os::frame::{MapReply, MapRequest, MapStatus, REPLY_BYTES};
use goumem_shm::os::{Access, fd_pass, paths};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::wait::within;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// Runs a future to its end on the calling thread, at most [`PATIENCE`](crate::PATIENCE).
///
/// # Panics
/// When it takes longer.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(within(work))
}

/// Runs a future beside the calling thread.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    RUNTIME.spawn(work)
}

/// Runs a call to its end.
///
/// # Errors
/// What the daemon said.
///
/// # Panics
/// When it was not the daemon who said it.
pub fn outcome<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ErrorDetail> {
    wait(call).map(Response::into_inner).map_err(|status| {
        ErrorDetail::from_status(&status).unwrap_or_else(|| panic!("not ours: {status:?}"))
    })
}

/// Makes a call: `call!(rpc, pools.alloc(request))` is what the daemon answered.
#[macro_export]
macro_rules! call {
    ($rpc:expr, $service:ident.$method:ident($request:expr)) => {{
        let rpc: &$crate::Rpc = &$rpc;
        let request = rpc.with($request);
        $crate::rpc::outcome(async { rpc.$service().$method(request).await })
    }};
}

/// A session, or none, and the connection to its daemon.
#[derive(Debug, Clone)]
pub struct Rpc {
    socket: PathBuf,
    channel: Channel,
    /// Goes with every call; empty for none.
    pub token: Vec<u8>,
    /// The session's number.
    pub session: u32,
    /// Goes with every call, if there is one.
    bearer: Option<String>,
}

impl Rpc {
    /// Connects, and opens a session.
    pub fn open(socket: &Path) -> Self {
        let mut rpc = Self::connect(socket);
        let opened = rpc.open_session();
        rpc.session = opened.session;
        rpc.token = opened.token;
        rpc
    }

    /// Connects, without a session.
    pub fn connect(socket: &Path) -> Self {
        let address = format!("unix://{}", socket.display());
        Self::connect_to(socket, address)
    }

    /// Connects by TCP, without a session.
    pub fn connect_tcp(address: std::net::SocketAddr) -> Self {
        Self::connect_to(Path::new(""), format!("http://{address}"))
    }

    fn connect_to(socket: &Path, address: String) -> Self {
        let endpoint = Endpoint::from_shared(address).unwrap();
        Self::new(socket, wait(endpoint.connect()).unwrap())
    }

    /// Returns a connection without a session that is made by the first call, and made again by
    /// the first call after it broke.
    pub fn lazy(socket: &Path) -> Self {
        let address = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(address).unwrap();
        let _runtime = RUNTIME.enter();
        Self::new(socket, endpoint.connect_lazy())
    }

    fn new(socket: &Path, channel: Channel) -> Self {
        Self {
            socket: socket.to_owned(),
            channel,
            token: Vec::new(),
            session: 0,
            bearer: None,
        }
    }

    /// Opens another session on the same connection.
    pub fn open_session(&self) -> v1::OpenSessionReply {
        let request = v1::OpenSessionRequest {
            label: "raw".to_owned(),
            ..Default::default()
        };
        call!(*self, sessions.open(request)).unwrap()
    }

    /// Returns the same connection, for another session's token.
    pub fn with_token(&self, token: Vec<u8>) -> Self {
        Self {
            token,
            ..self.clone()
        }
    }

    /// Returns the same connection; each call says whose it is by a bearer token.
    pub fn with_bearer(&self, token: &str) -> Self {
        Self {
            bearer: Some(format!("Bearer {token}")),
            ..self.clone()
        }
    }

    /// Puts the tokens beside a message.
    pub fn with<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.token.is_empty() {
            let token = MetadataValue::from_bytes(&self.token);
            request
                .metadata_mut()
                .insert_bin(SESSION_METADATA_KEY, token);
        }
        if let Some(bearer) = &self.bearer {
            let bearer = bearer.parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }

    /// DaemonService.
    pub fn daemons(&self) -> DaemonServiceClient<Channel> {
        DaemonServiceClient::new(self.channel.clone())
    }

    /// SessionService.
    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    /// PoolService.
    pub fn pools(&self) -> PoolServiceClient<Channel> {
        PoolServiceClient::new(self.channel.clone())
    }

    /// ArenaPoolService.
    pub fn arenas(&self) -> ArenaPoolServiceClient<Channel> {
        ArenaPoolServiceClient::new(self.channel.clone())
    }

    /// ByteService.
    pub fn bytes(&self) -> ByteServiceClient<Channel> {
        ByteServiceClient::new(self.channel.clone())
    }

    /// Creates a pool with the defaults; returns its id.
    pub fn create_pool(&self, name: &str, capacity_bytes: u64) -> u32 {
        let create = v1::CreatePoolRequest {
            name: name.to_owned(),
            capacity_bytes,
            ..Default::default()
        };
        let reply = call!(*self, pools.create(create)).unwrap();
        reply.pool.unwrap().pool_id
    }

    /// Creates an arena pool with the defaults; returns its id.
    pub fn create_arena_pool(&self, name: &str, arenas: u32, arena_bytes: u64) -> u32 {
        let create = v1::CreateArenaPoolRequest {
            name: name.to_owned(),
            arenas,
            arena_bytes,
            ..Default::default()
        };
        let reply = call!(*self, arenas.create(create)).unwrap();
        reply.pool.unwrap().pool_id
    }

    /// Allocates a block.
    ///
    /// # Errors
    /// What the daemon said.
    pub fn alloc(&self, pool_id: u32, size_bytes: u64) -> Result<v1::Handle, ErrorDetail> {
        let alloc = v1::AllocRequest {
            pool_id,
            spec: Some(v1::BlockSpec {
                size_bytes,
                ..Default::default()
            }),
            request_id: 0,
        };
        call!(*self, pools.alloc(alloc)).map(|reply| reply.block.unwrap().handle.unwrap())
    }

    /// Frees a block.
    ///
    /// # Errors
    /// What the daemon said.
    pub fn free(&self, handle: v1::Handle) -> Result<(), ErrorDetail> {
        let free = v1::FreeRequest {
            handle: Some(handle),
            request_id: 0,
        };
        call!(*self, pools.free(free)).map(|_| ())
    }

    /// Returns how full a pool is.
    pub fn stat(&self, name: &str) -> v1::PoolStat {
        let stat = v1::StatPoolRequest {
            name: name.to_owned(),
        };
        call!(*self, pools.stat(stat)).unwrap()
    }

    /// Returns how full an arena pool is.
    pub fn arena_stat(&self, name: &str) -> v1::ArenaPoolStat {
        let stat = v1::StatPoolRequest {
            name: name.to_owned(),
        };
        call!(*self, arenas.stat(stat)).unwrap()
    }

    /// Returns what the daemon says of itself.
    pub fn info(&self) -> v1::InfoReply {
        call!(*self, daemons.info(v1::InfoRequest {})).unwrap()
    }

    /// Gets an arena, waiting up to `wait_ms`.
    ///
    /// # Errors
    /// What the daemon said.
    pub fn get_arena(&self, pool_id: u32, wait_ms: u64) -> Result<v1::Handle, ErrorDetail> {
        let get = v1::GetArenaRequest {
            pool_id,
            wait_ms,
            request_id: 0,
        };
        call!(*self, arenas.get(get)).map(|reply| reply.arena.unwrap())
    }

    /// Returns an arena.
    ///
    /// # Errors
    /// What the daemon said.
    pub fn return_arena(&self, arena: v1::Handle) -> Result<(), ErrorDetail> {
        let give_back = v1::ReturnArenaRequest {
            arena: Some(arena),
            request_id: 0,
        };
        call!(*self, arenas.r#return(give_back)).map(|_| ())
    }

    /// Writes bytes to a block by ByteService.
    ///
    /// # Errors
    /// What the daemon said.
    pub fn write(
        &self,
        handle: v1::Handle,
        offset_bytes: u64,
        bytes: &[u8],
    ) -> Result<u64, ErrorDetail> {
        const PIECE: usize = 64 << 10;
        let pieces: Vec<_> = bytes
            .chunks(PIECE)
            .enumerate()
            .map(|(i, piece)| v1::WriteRequest {
                handle: (i == 0).then_some(handle),
                offset_bytes: if i == 0 { offset_bytes } else { 0 },
                data: piece.to_vec().into(),
            })
            .collect();
        let request = self.with(tokio_stream::iter(pieces));
        outcome(async { self.bytes().write(request).await }).map(|reply| reply.written_bytes)
    }

    /// Reads a block by ByteService, `length_bytes` from an offset on (0: to its end).
    ///
    /// # Errors
    /// What the daemon said.
    ///
    /// # Panics
    /// When the stream breaks in the middle.
    pub fn read(
        &self,
        handle: v1::Handle,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<u8>, ErrorDetail> {
        let read = v1::ReadRequest {
            handle: Some(handle),
            offset_bytes,
            length_bytes,
        };
        let request = self.with(read);
        let pieces = outcome(async { self.bytes().read(request).await })?;
        let pieces: Vec<_> = wait(pieces.collect());
        let bytes = pieces.into_iter().flat_map(|piece| piece.unwrap().data);
        Ok(bytes.collect())
    }

    /// Asks the fd socket for a pool's memory: CONTROL and DATA, if it is granted.
    ///
    /// # Panics
    /// When the socket does not answer.
    pub fn ask_for_memory(&self, pool_id: u32, access: Access) -> (MapStatus, Vec<OwnedFd>) {
        let token = self.token.clone().try_into().unwrap_or([0; 16]);
        let socket = paths::fd_socket_path(&self.socket).unwrap();
        let socket = UnixStream::connect(socket).unwrap();
        let request = MapRequest {
            access,
            token,
            pool_id,
        };
        fd_pass::send(&socket, &request.encode(), &[]).unwrap();
        let mut frame = [0; REPLY_BYTES];
        let (n, fds) = fd_pass::recv(&socket, &mut frame, 2).unwrap();
        assert_eq!(n, REPLY_BYTES);
        (MapReply::decode(&frame).unwrap().status, fds)
    }
}
