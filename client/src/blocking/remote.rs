//! [`crate::RemoteClient`] and its pools without `.await`. A [`RemoteBlock`], a [`RemoteArena`] and
//! a [`RemoteReader`](crate::RemoteReader) are the same types; [`wait`] runs their methods.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use goumem_alloc::{Handle, SessionNumber};
use goumem_proto::model::{
    ArenaPoolInfo, ArenaPoolStat, BlockInfo, DaemonInfo, KeptBlock, PoolInfo, PoolStat, SessionInfo,
};

use super::wait;
use crate::error::Error;
use crate::options::{ArenaPoolOptions, PoolOptions};
use crate::remote::{RemoteArena, RemoteBlock};

/// [`crate::RemoteClientBuilder`], whose `connect` waits.
#[derive(Debug, Clone)]
#[must_use]
pub struct RemoteClientBuilder(crate::RemoteClientBuilder);

impl RemoteClientBuilder {
    pub(super) fn new(builder: crate::RemoteClientBuilder) -> Self {
        Self(builder)
    }

    /// As [`crate::RemoteClientBuilder::label`].
    pub fn label(self, label: impl Into<String>) -> Self {
        Self(self.0.label(label))
    }

    /// As [`crate::RemoteClientBuilder::call_deadline`].
    pub fn call_deadline(self, deadline: Duration) -> Self {
        Self(self.0.call_deadline(deadline))
    }

    /// As [`crate::RemoteClientBuilder::ttl`].
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// As [`crate::RemoteClientBuilder::ca_file`].
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        Self(self.0.ca_file(path))
    }

    /// As [`crate::RemoteClientBuilder::identity_files`].
    pub fn identity_files(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self(self.0.identity_files(certificate, key))
    }

    /// As [`crate::RemoteClientBuilder::server_name`].
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Self(self.0.server_name(name))
    }

    /// As [`crate::RemoteClientBuilder::token`].
    pub fn token(self, token: impl Into<String>) -> Self {
        Self(self.0.token(token))
    }

    /// As [`crate::RemoteClientBuilder::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(self) -> Result<RemoteClient, Error> {
        wait(self.0.connect()).map(RemoteClient)
    }
}

/// [`crate::RemoteClient`], whose methods wait.
#[derive(Debug, Clone)]
pub struct RemoteClient(crate::RemoteClient);

impl RemoteClient {
    /// As [`crate::RemoteClient::create_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn create_pool(&self, name: &str, options: PoolOptions) -> Result<RemotePool, Error> {
        wait(self.0.create_pool(name, options)).map(RemotePool)
    }

    /// As [`crate::RemoteClient::open_or_create_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create_pool(
        &self,
        name: &str,
        options: PoolOptions,
    ) -> Result<RemotePool, Error> {
        wait(self.0.open_or_create_pool(name, options)).map(RemotePool)
    }

    /// As [`crate::RemoteClient::open_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_pool(&self, name: &str) -> Result<RemotePool, Error> {
        wait(self.0.open_pool(name)).map(RemotePool)
    }

    /// As [`crate::RemoteClient::destroy_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn destroy_pool(&self, name: &str) -> Result<(), Error> {
        wait(self.0.destroy_pool(name))
    }

    /// As [`crate::RemoteClient::list_pools`].
    ///
    /// # Errors
    /// As there.
    pub fn list_pools(&self) -> Result<Vec<PoolInfo>, Error> {
        wait(self.0.list_pools())
    }

    /// As [`crate::RemoteClient::stat_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn stat_pool(&self, name: &str) -> Result<PoolStat, Error> {
        wait(self.0.stat_pool(name))
    }

    /// As [`crate::RemoteClient::create_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn create_arena_pool(
        &self,
        name: &str,
        options: ArenaPoolOptions,
    ) -> Result<RemoteArenaPool, Error> {
        wait(self.0.create_arena_pool(name, options)).map(RemoteArenaPool)
    }

    /// As [`crate::RemoteClient::open_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn open_arena_pool(&self, name: &str) -> Result<RemoteArenaPool, Error> {
        wait(self.0.open_arena_pool(name)).map(RemoteArenaPool)
    }

    /// As [`crate::RemoteClient::destroy_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn destroy_arena_pool(&self, name: &str) -> Result<(), Error> {
        wait(self.0.destroy_arena_pool(name))
    }

    /// As [`crate::RemoteClient::list_arena_pools`].
    ///
    /// # Errors
    /// As there.
    pub fn list_arena_pools(&self) -> Result<Vec<ArenaPoolInfo>, Error> {
        wait(self.0.list_arena_pools())
    }

    /// As [`crate::RemoteClient::stat_arena_pool`].
    ///
    /// # Errors
    /// As there.
    pub fn stat_arena_pool(&self, name: &str) -> Result<ArenaPoolStat, Error> {
        wait(self.0.stat_arena_pool(name))
    }

    /// As [`crate::RemoteClient::ping`].
    ///
    /// # Errors
    /// As there.
    pub fn ping(&self) -> Result<(), Error> {
        wait(self.0.ping())
    }

    /// As [`crate::RemoteClient::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<DaemonInfo, Error> {
        wait(self.0.info())
    }

    /// As [`crate::RemoteClient::sessions`].
    ///
    /// # Errors
    /// As there.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>, Error> {
        wait(self.0.sessions())
    }

    /// As [`crate::RemoteClient::kill_session`].
    ///
    /// # Errors
    /// As there.
    pub fn kill_session(&self, session: SessionNumber, serial: u64) -> Result<(), Error> {
        wait(self.0.kill_session(session, serial))
    }

    /// As [`crate::RemoteClient::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<(), Error> {
        wait(self.0.close())
    }

    /// Returns the client whose methods are async. Those that do not wait are there.
    pub fn async_client(&self) -> &crate::RemoteClient {
        &self.0
    }
}

/// [`crate::RemotePool`], whose methods wait. Those that do not wait anyway are the same, by `Deref`.
#[derive(Debug, Clone)]
pub struct RemotePool(crate::RemotePool);

impl RemotePool {
    /// As [`crate::RemotePool::alloc`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc(&self, size_bytes: u64) -> Result<RemoteBlock, Error> {
        wait(self.0.alloc(size_bytes))
    }

    /// As [`crate::RemotePool::alloc_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn alloc_bytes(&self, bytes: impl Into<Vec<u8>>) -> Result<RemoteBlock, Error> {
        wait(self.0.alloc_bytes(bytes))
    }

    /// As [`crate::RemotePool::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(
        &self,
        handle: Handle,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        wait(self.0.read(handle, offset_bytes, length_bytes))
    }

    /// As [`crate::RemotePool::read_all`].
    ///
    /// # Errors
    /// As there.
    pub fn read_all(&self, handle: Handle) -> Result<Vec<u8>, Error> {
        wait(self.0.read_all(handle))
    }

    /// As [`crate::RemotePool::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(
        &self,
        handle: Handle,
        offset_bytes: u64,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        wait(self.0.write(handle, offset_bytes, bytes))
    }

    /// As [`crate::RemotePool::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&self, handle: Handle) -> Result<BlockInfo, Error> {
        wait(self.0.resolve(handle))
    }

    /// As [`crate::RemotePool::free`].
    ///
    /// # Errors
    /// As there.
    pub fn free(&self, handle: Handle) -> Result<(), Error> {
        wait(self.0.free(handle))
    }

    /// As [`crate::RemotePool::adopt`].
    ///
    /// # Errors
    /// As there.
    pub fn adopt(&self, handle: Handle) -> Result<RemoteBlock, Error> {
        wait(self.0.adopt(handle))
    }

    /// As [`crate::RemotePool::take`].
    ///
    /// # Errors
    /// As there.
    pub fn take(&self, handle: Handle) -> Result<RemoteBlock, Error> {
        wait(self.0.take(handle))
    }

    /// As [`crate::RemotePool::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(&self, name: &str, handle: Handle) -> Result<(), Error> {
        wait(self.0.publish(name, handle))
    }

    /// As [`crate::RemotePool::publish_replacing`].
    ///
    /// # Errors
    /// As there.
    pub fn publish_replacing(&self, name: &str, handle: Handle) -> Result<(), Error> {
        wait(self.0.publish_replacing(name, handle))
    }

    /// As [`crate::RemotePool::lookup`].
    ///
    /// # Errors
    /// As there.
    pub fn lookup(&self, name: &str) -> Result<BlockInfo, Error> {
        wait(self.0.lookup(name))
    }

    /// As [`crate::RemotePool::withdraw`].
    ///
    /// # Errors
    /// As there.
    pub fn withdraw(&self, name: &str) -> Result<Handle, Error> {
        wait(self.0.withdraw(name))
    }

    /// As [`crate::RemotePool::kept`].
    ///
    /// # Errors
    /// As there.
    pub fn kept(&self) -> Result<Vec<KeptBlock>, Error> {
        wait(self.0.kept())
    }

    /// As [`crate::RemotePool::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self) -> Result<PoolStat, Error> {
        wait(self.0.stat())
    }
}

impl Deref for RemotePool {
    type Target = crate::RemotePool;

    fn deref(&self) -> &crate::RemotePool {
        &self.0
    }
}

/// [`crate::RemoteArenaPool`], whose methods wait. Those that do not wait anyway are the same, by `Deref`.
#[derive(Debug, Clone)]
pub struct RemoteArenaPool(crate::RemoteArenaPool);

impl RemoteArenaPool {
    /// As [`crate::RemoteArenaPool::try_get`].
    ///
    /// # Errors
    /// As there.
    pub fn try_get(&self) -> Result<RemoteArena, Error> {
        wait(self.0.try_get())
    }

    /// As [`crate::RemoteArenaPool::get_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn get_timeout(&self, timeout: Duration) -> Result<RemoteArena, Error> {
        wait(self.0.get_timeout(timeout))
    }

    /// As [`crate::RemoteArenaPool::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self) -> Result<ArenaPoolStat, Error> {
        wait(self.0.stat())
    }
}

impl Deref for RemoteArenaPool {
    type Target = crate::RemoteArenaPool;

    fn deref(&self) -> &crate::RemoteArenaPool {
        &self.0
    }
}
