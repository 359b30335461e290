//! Creating, opening and destroying arena pools.

use std::sync::Arc;

use goumem_proto::model::{
    Access, ArenaPoolInfo, ArenaPoolStat, CreateArenaPool, OpenArenaPool, OpenedArenaPool,
    RequestId,
};
use goumem_proto::name::PoolName;
use goumem_proto::v1;

use super::{Client, destroy_request, os_access, parse_name};
use crate::arena_pool::{ArenaCore, ArenaPool};
use crate::connect::Rpc;
use crate::error::Error;
use crate::options::ArenaPoolOptions;
use crate::session::{Session, insert_mapped, mapped};

impl Client {
    /// Creates an arena pool.
    ///
    /// # Errors
    /// As [`create_pool`](Self::create_pool).
    pub async fn create_arena_pool(
        &self,
        name: &str,
        options: ArenaPoolOptions,
    ) -> Result<ArenaPool, Error> {
        let create = options.into_request(parse_name("arena pool", name)?);
        let opened = self
            .run(|session| create_arena_pool(session, create, false))
            .await?;
        self.map_arena_pool(opened).await
    }

    /// Opens an arena pool to read and write.
    ///
    /// # Errors
    /// As [`open_pool`](Self::open_pool).
    pub async fn open_arena_pool(&self, name: &str) -> Result<ArenaPool, Error> {
        self.open_arena_pool_with(name, Access::ReadWrite).await
    }

    /// Opens an arena pool to read only: for attaching to arenas to read them.
    ///
    /// # Errors
    /// As [`open_pool`](Self::open_pool).
    pub async fn open_arena_pool_read_only(&self, name: &str) -> Result<ArenaPool, Error> {
        self.open_arena_pool_with(name, Access::ReadOnly).await
    }

    async fn open_arena_pool_with(&self, name: &str, access: Access) -> Result<ArenaPool, Error> {
        let name = parse_name("arena pool", name)?;
        let open = OpenArenaPool {
            name,
            access,
            expect_arenas: None,
            expect_arena_bytes: None,
        };
        let opened = self
            .run(move |session| async move {
                let request = v1::OpenArenaPoolRequest::from(open);
                let open = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.arenas().open(request).await }
                };
                let reply = session.ask(open).await?;
                Ok(OpenedArenaPool::try_from(reply)?)
            })
            .await?;
        let access = if access == Access::ReadOnly {
            access
        } else {
            opened.access
        };
        self.map_arena_pool(OpenedArenaPool { access, ..opened })
            .await
    }

    /// Opens an arena pool to read and write, or creates it.
    ///
    /// # Errors
    /// As [`open_or_create_pool`](Self::open_or_create_pool).
    pub async fn open_or_create_arena_pool(
        &self,
        name: &str,
        options: ArenaPoolOptions,
    ) -> Result<ArenaPool, Error> {
        let create = options.into_request(parse_name("arena pool", name)?);
        let opened = self
            .run(|session| create_arena_pool(session, create, true))
            .await?;
        self.map_arena_pool(opened).await
    }

    /// Removes an arena pool's name, as [`destroy_pool`](Self::destroy_pool) does.
    ///
    /// # Errors
    /// As `destroy_pool`.
    pub async fn destroy_arena_pool(&self, name: &str) -> Result<(), Error> {
        let name: PoolName = parse_name("arena pool", name)?;
        self.run(move |session| async move {
            session
                .effect(|rpc, request_id| {
                    let request = destroy_request(&name, request_id);
                    async move { rpc.arenas().destroy(request).await }
                })
                .await?;
            Ok(())
        })
        .await
    }

    /// Returns the arena pools there are.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn list_arena_pools(&self) -> Result<Vec<ArenaPoolInfo>, Error> {
        self.run(|session| async move {
            let list =
                |rpc: Rpc| async move { rpc.arenas().list(v1::ListArenaPoolsRequest {}).await };
            let reply = session.ask(list).await?;
            Ok(Vec::try_from(reply)?)
        })
        .await
    }

    /// Returns how full an arena pool is, without opening it.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Name`].
    pub async fn stat_arena_pool(&self, name: &str) -> Result<ArenaPoolStat, Error> {
        let name: PoolName = parse_name("arena pool", name)?;
        self.run(|session| async move {
            let request = v1::StatPoolRequest { name: name.into() };
            let stat = |rpc: Rpc| {
                let request = request.clone();
                async move { rpc.arenas().stat(request).await }
            };
            let reply = session.ask(stat).await?;
            Ok(ArenaPoolStat::try_from(reply)?)
        })
        .await
    }

    async fn map_arena_pool(&self, opened: OpenedArenaPool) -> Result<ArenaPool, Error> {
        self.require_mapping()?;
        let access = os_access(opened.access);
        let key = (opened.pool.pool_id, access);
        let core = self
            .run(move |session| async move {
                if let Some(core) = mapped(&session.arena_pools, &key) {
                    return Ok(core);
                }
                let memory = session
                    .hand_over(|| session.fd.map_arena_pool(&opened.pool, access))
                    .await?;
                let core = ArenaCore::new(Arc::clone(&session), opened.pool, memory);
                Ok(insert_mapped(&session.arena_pools, key, core))
            })
            .await?;
        Ok(ArenaPool::new(core))
    }
}

async fn create_arena_pool(
    session: Arc<Session>,
    create: CreateArenaPool,
    or_open: bool,
) -> Result<OpenedArenaPool, Error> {
    let reply = session
        .effect(|rpc, request_id| {
            let request_id = RequestId::new(request_id);
            let create = CreateArenaPool {
                request_id,
                ..create.clone()
            };
            let request = v1::CreateArenaPoolRequest::from(create);
            async move {
                let mut arenas = rpc.arenas();
                if or_open {
                    arenas.open_or_create(request).await
                } else {
                    arenas.create(request).await
                }
            }
        })
        .await?;
    Ok(OpenedArenaPool::try_from(reply)?)
}
