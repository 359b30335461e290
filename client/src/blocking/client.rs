//! [`crate::Client`] without `.await`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use goumem_alloc::{PageIndex, SessionNumber};
use goumem_proto::model::{
    ArenaPoolInfo, ArenaPoolMap, ArenaPoolStat, DaemonInfo, EventKind, PoolInfo, PoolMap, PoolStat,
    SessionInfo, WatchEvent,
};

use super::remote::RemoteClientBuilder;
use super::{ArenaPool, Pool, wait};
use crate::error::Error;
use crate::options::{ArenaPoolOptions, PoolOptions};

/// [`crate::Client`], whose methods wait. `async_client` has the other ones.
///
/// ```
/// use goumem::PoolOptions;
/// use goumem::blocking::Client;
///
/// let client = Client::embedded()?; // Client::connect() where a goumemd runs
/// let pool = client.create_pool("numbers", PoolOptions::new(1 << 20))?;
/// let block = pool.alloc_value(456_u64)?;
/// assert_eq!(*block, 456);
/// # Ok::<(), goumem::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Client(crate::Client);

/// [`crate::ClientBuilder`], whose `connect` waits.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ClientBuilder(crate::ClientBuilder);

impl ClientBuilder {
    /// As [`crate::ClientBuilder::socket`].
    pub fn socket(self, path: impl Into<PathBuf>) -> Self {
        Self(self.0.socket(path))
    }

    /// As [`crate::ClientBuilder::address`].
    pub fn address(self, address: impl Into<String>) -> RemoteClientBuilder {
        RemoteClientBuilder::new(self.0.address(address))
    }

    /// As [`crate::ClientBuilder::label`].
    pub fn label(self, label: impl Into<String>) -> Self {
        Self(self.0.label(label))
    }

    /// As [`crate::ClientBuilder::call_deadline`].
    pub fn call_deadline(self, deadline: Duration) -> Self {
        Self(self.0.call_deadline(deadline))
    }

    /// As [`crate::ClientBuilder::max_idle_bytes`].
    pub fn max_idle_bytes(self, bytes: u64) -> Self {
        Self(self.0.max_idle_bytes(bytes))
    }

    /// As [`crate::ClientBuilder::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(self) -> Result<Client, Error> {
        wait(self.0.connect()).map(Client)
    }
}

impl Client {
    /// As [`crate::Client::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect() -> Result<Self, Error> {
        Self::builder().connect()
    }

    /// Returns a builder, to choose a socket or a label.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// As [`crate::Client::embedded`].
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self, Error> {
        wait(crate::Client::embedded()).map(Self)
    }

    /// As [`crate::Client::create_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn create_pool(&self, name: &str, options: PoolOptions) -> Result<Pool, Error> {
        wait(self.0.create_pool(name, options)).map(Pool::new)
    }

    /// As [`crate::Client::open_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_pool(&self, name: &str) -> Result<Pool, Error> {
        wait(self.0.open_pool(name)).map(Pool::new)
    }

    /// As [`crate::Client::open_pool_read_only`].
    ///
    /// # Errors
    /// As there.
    pub fn open_pool_read_only(&self, name: &str) -> Result<Pool, Error> {
        wait(self.0.open_pool_read_only(name)).map(Pool::new)
    }

    /// As [`crate::Client::open_or_create_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create_pool(&self, name: &str, options: PoolOptions) -> Result<Pool, Error> {
        wait(self.0.open_or_create_pool(name, options)).map(Pool::new)
    }

    /// As [`crate::Client::destroy_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn destroy_pool(&self, name: &str) -> Result<(), Error> {
        wait(self.0.destroy_pool(name))
    }

    /// As [`crate::Client::list_pools`].
    ///
    /// # Errors
    /// As there.
    pub fn list_pools(&self) -> Result<Vec<PoolInfo>, Error> {
        wait(self.0.list_pools())
    }

    /// As [`crate::Client::stat_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn stat_pool(&self, name: &str) -> Result<PoolStat, Error> {
        wait(self.0.stat_pool(name))
    }

    /// As [`crate::Client::pool_map`].
    ///
    /// # Errors
    /// As there.
    pub fn pool_map(&self, name: &str) -> Result<PoolMap, Error> {
        wait(self.0.pool_map(name))
    }

    /// As [`crate::Client::pool_map_from`].
    ///
    /// # Errors
    /// As there.
    pub fn pool_map_from(&self, name: &str, page: PageIndex) -> Result<PoolMap, Error> {
        wait(self.0.pool_map_from(name, page))
    }

    /// As [`crate::Client::arena_pool_map`].
    ///
    /// # Errors
    /// As there.
    pub fn arena_pool_map(&self, name: &str) -> Result<ArenaPoolMap, Error> {
        wait(self.0.arena_pool_map(name))
    }

    /// As [`crate::Client::arena_pool_map_from`].
    ///
    /// # Errors
    /// As there.
    pub fn arena_pool_map_from(&self, name: &str, arena: u32) -> Result<ArenaPoolMap, Error> {
        wait(self.0.arena_pool_map_from(name, arena))
    }

    /// As [`crate::Client::watch`]: an iterator whose `next` waits.
    ///
    /// # Errors
    /// As there.
    pub fn watch(&self, kinds: &[EventKind]) -> Result<Watch, Error> {
        wait(self.0.watch(kinds)).map(Watch)
    }

    /// As [`crate::Client::create_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn create_arena_pool(
        &self,
        name: &str,
        options: ArenaPoolOptions,
    ) -> Result<ArenaPool, Error> {
        wait(self.0.create_arena_pool(name, options)).map(ArenaPool::new)
    }

    /// As [`crate::Client::open_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_arena_pool(&self, name: &str) -> Result<ArenaPool, Error> {
        wait(self.0.open_arena_pool(name)).map(ArenaPool::new)
    }

    /// As [`crate::Client::open_arena_pool_read_only`].
    ///
    /// # Errors
    /// As there.
    pub fn open_arena_pool_read_only(&self, name: &str) -> Result<ArenaPool, Error> {
        wait(self.0.open_arena_pool_read_only(name)).map(ArenaPool::new)
    }

    /// As [`crate::Client::open_or_create_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create_arena_pool(
        &self,
        name: &str,
        options: ArenaPoolOptions,
    ) -> Result<ArenaPool, Error> {
        wait(self.0.open_or_create_arena_pool(name, options)).map(ArenaPool::new)
    }

    /// As [`crate::Client::destroy_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn destroy_arena_pool(&self, name: &str) -> Result<(), Error> {
        wait(self.0.destroy_arena_pool(name))
    }

    /// As [`crate::Client::list_arena_pools`].
    ///
    /// # Errors
    /// As there.
    pub fn list_arena_pools(&self) -> Result<Vec<ArenaPoolInfo>, Error> {
        wait(self.0.list_arena_pools())
    }

    /// As [`crate::Client::stat_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn stat_arena_pool(&self, name: &str) -> Result<ArenaPoolStat, Error> {
        wait(self.0.stat_arena_pool(name))
    }

    /// As [`crate::Client::ping`].
    ///
    /// # Errors
    /// As there.
    pub fn ping(&self) -> Result<(), Error> {
        wait(self.0.ping())
    }

    /// As [`crate::Client::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<DaemonInfo, Error> {
        wait(self.0.info())
    }

    /// As [`crate::Client::sessions`].
    ///
    /// # Errors
    /// As there.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>, Error> {
        wait(self.0.sessions())
    }

    /// As [`crate::Client::kill_session`].
    ///
    /// # Errors
    /// As there.
    pub fn kill_session(&self, session: SessionNumber, serial: Option<u64>) -> Result<(), Error> {
        wait(self.0.kill_session(session, serial))
    }

    /// As [`crate::Client::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<(), Error> {
        wait(self.0.close())
    }

    /// As [`crate::Client::session`].
    pub fn session(&self) -> SessionNumber {
        self.0.session()
    }

    /// As [`crate::Client::session_serial`].
    pub fn session_serial(&self) -> u64 {
        self.0.session_serial()
    }

    /// As [`crate::Client::socket`].
    pub fn socket(&self) -> &Path {
        self.0.socket()
    }

    /// Returns the client whose methods are async.
    pub fn async_client(&self) -> &crate::Client {
        &self.0
    }
}

/// [`crate::Watch`], as an iterator that waits.
#[derive(Debug)]
pub struct Watch(crate::Watch);

impl Iterator for Watch {
    type Item = Result<WatchEvent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        wait(self.0.next())
    }
}

impl From<crate::Client> for Client {
    fn from(client: crate::Client) -> Self {
        Self(client)
    }
}
