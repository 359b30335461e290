//! Creating, opening and destroying pools.

use std::sync::Arc;

use goumem_proto::model::{
    Access, CreatePool, OpenPool, OpenedPool, PoolInfo, PoolStat, RequestId,
};
use goumem_proto::name::PoolName;
use goumem_proto::v1;

use super::{Client, destroy_request, os_access, parse_name};
use crate::connect::Rpc;
use crate::error::Error;
use crate::options::PoolOptions;
use crate::pool::{Pool, PoolCore};
use crate::session::{Session, insert_mapped, mapped};

impl Client {
    /// Creates a pool.
    ///
    /// # Errors
    /// [`Error::PoolExists`]; [`Error::Name`]; [`Error::Exhausted`]; [`Error::Daemon`] with
    /// `INVALID_FIELD`, `BACKING_UNSUPPORTED` or `TOO_MANY_POOLS`; those of
    /// [`open_pool`](Self::open_pool).
    pub async fn create_pool(&self, name: &str, options: PoolOptions) -> Result<Pool, Error> {
        let create = options.into_request(parse_name("pool", name)?);
        let opened = self
            .run(|session| create_pool(session, create, false))
            .await?;
        self.map_pool(opened).await
    }

    /// Opens a pool to read and write.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Name`]; [`Error::PermissionDenied`];
    /// [`Error::CannotMap`]; [`Error::Os`] and [`Error::Segment`] when the mapping failed.
    pub async fn open_pool(&self, name: &str) -> Result<Pool, Error> {
        self.open_pool_with(name, Access::ReadWrite).await
    }

    /// Opens a pool to read only: nothing can be allocated, freed, taken or written.
    ///
    /// # Errors
    /// As [`open_pool`](Self::open_pool).
    pub async fn open_pool_read_only(&self, name: &str) -> Result<Pool, Error> {
        self.open_pool_with(name, Access::ReadOnly).await
    }

    async fn open_pool_with(&self, name: &str, access: Access) -> Result<Pool, Error> {
        let open = OpenPool {
            name: parse_name("pool", name)?,
            access,
            expect_capacity_bytes: None,
        };
        let opened = self
            .run(move |session| async move {
                let request = v1::OpenPoolRequest::from(open);
                let open = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.pools().open(request).await }
                };
                let reply = session.ask(open).await?;
                Ok(OpenedPool::try_from(reply)?)
            })
            .await?;
        // What the caller asked for, also if the daemon would allow more.
        let access = if access == Access::ReadOnly {
            access
        } else {
            opened.access
        };
        self.map_pool(OpenedPool { access, ..opened }).await
    }

    /// Opens a pool to read and write, or creates it.
    ///
    /// # Errors
    /// [`Error::Daemon`] with `GEOMETRY_MISMATCH` when it exists with another capacity or
    /// backing; those of [`create_pool`](Self::create_pool) but `PoolExists`.
    pub async fn open_or_create_pool(
        &self,
        name: &str,
        options: PoolOptions,
    ) -> Result<Pool, Error> {
        let create = options.into_request(parse_name("pool", name)?);
        let opened = self
            .run(|session| create_pool(session, create, true))
            .await?;
        self.map_pool(opened).await
    }

    /// Removes a pool's name; nobody can open it or get more of it from now on. Its memory goes
    /// when the last session that maps it has gone. For its owner and root.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::PermissionDenied`]; [`Error::Name`].
    pub async fn destroy_pool(&self, name: &str) -> Result<(), Error> {
        let name: PoolName = parse_name("pool", name)?;
        self.run(move |session| async move {
            session
                .effect(|rpc, request_id| {
                    let request = destroy_request(&name, request_id);
                    async move { rpc.pools().destroy(request).await }
                })
                .await?;
            Ok(())
        })
        .await
    }

    /// Returns the pools there are.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn list_pools(&self) -> Result<Vec<PoolInfo>, Error> {
        self.run(|session| async move {
            let list = |rpc: Rpc| async move { rpc.pools().list(v1::ListPoolsRequest {}).await };
            let reply = session.ask(list).await?;
            Ok(Vec::try_from(reply)?)
        })
        .await
    }

    /// Returns how full a pool is, without opening it.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::Name`].
    pub async fn stat_pool(&self, name: &str) -> Result<PoolStat, Error> {
        let name: PoolName = parse_name("pool", name)?;
        self.run(|session| async move {
            let request = v1::StatPoolRequest { name: name.into() };
            let stat = |rpc: Rpc| {
                let request = request.clone();
                async move { rpc.pools().stat(request).await }
            };
            let reply = session.ask(stat).await?;
            Ok(PoolStat::try_from(reply)?)
        })
        .await
    }

    async fn map_pool(&self, opened: OpenedPool) -> Result<Pool, Error> {
        self.require_mapping()?;
        let access = os_access(opened.access);
        let key = (opened.pool.pool_id, access);
        let core = self
            .run(move |session| async move {
                if let Some(core) = mapped(&session.pools, &key) {
                    return Ok(core);
                }
                let memory = session
                    .hand_over(|| session.fd.map_pool(&opened.pool, access))
                    .await?;
                let core = PoolCore::new(Arc::clone(&session), opened.pool, memory)?;
                Ok(insert_mapped(&session.pools, key, core))
            })
            .await?;
        Ok(Pool::new(core))
    }
}

async fn create_pool(
    session: Arc<Session>,
    create: CreatePool,
    or_open: bool,
) -> Result<OpenedPool, Error> {
    let reply = session
        .effect(|rpc, request_id| {
            let request_id = RequestId::new(request_id);
            let create = CreatePool {
                request_id,
                ..create.clone()
            };
            let request = v1::CreatePoolRequest::from(create);
            async move {
                let mut pools = rpc.pools();
                if or_open {
                    pools.open_or_create(request).await
                } else {
                    pools.create(request).await
                }
            }
        })
        .await?;
    Ok(OpenedPool::try_from(reply)?)
}
