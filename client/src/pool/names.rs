//! Blocks with names: how processes that have not met find each other's data.

use goumem_alloc::Handle;
use goumem_proto::model::{
    BlockInfo, HandleReply, KeptBlock, ListKept, Lookup, Publish, RequestId, Withdraw,
};
use goumem_proto::name::BlockName;
use goumem_proto::v1;

use super::Pool;
use crate::client::parse_name;
use crate::connect::Rpc;
use crate::error::Error;

impl Pool {
    /// Gives the block of this session a name in the pool, and keeps it: it outlives the session.
    /// A [`Shared`](crate::Shared) of it must not be dropped before, which would free it:
    /// [`Shared::publish`](crate::Shared::publish) takes care of that.
    ///
    /// # Errors
    /// [`Error::NameExists`]; [`Error::Name`]; [`Error::Access`] with `Stale`; [`Error::Daemon`]
    /// with `NOT_OWNER` or `TOO_MANY_RECORDS`.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let handle = pool.alloc_value(12_u64).await?.share()?.into_handle();
    /// pool.publish("answer", handle).await?;
    /// // … in any process that may open the pool:
    /// let handle = pool.lookup("answer").await?;
    /// assert_eq!(pool.resolve::<u64>(handle)?.read()?, 12);
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn publish(&self, name: &str, handle: Handle) -> Result<(), Error> {
        self.publish_as(name, handle, false).await
    }

    /// As [`publish`](Self::publish); a block that had the name is freed.
    ///
    /// # Errors
    /// As `publish`, but for `NameExists`.
    pub async fn publish_replacing(&self, name: &str, handle: Handle) -> Result<(), Error> {
        self.publish_as(name, handle, true).await
    }

    async fn publish_as(&self, name: &str, handle: Handle, replace: bool) -> Result<(), Error> {
        let name: BlockName = parse_name("block", name)?;
        self.core
            .session
            .run(move |session| async move {
                session
                    .effect(|rpc, request_id| {
                        let request_id = RequestId::new(request_id);
                        let name = name.clone();
                        let publish = Publish {
                            handle,
                            name,
                            replace,
                            request_id,
                        };
                        let publish = v1::PublishRequest::from(publish);
                        async move { rpc.pools().publish(publish).await }
                    })
                    .await
                    .map_err(|error| error.about(handle))?;
                Ok(())
            })
            .await
    }

    /// Returns the block with that name.
    ///
    /// # Errors
    /// [`Error::NameNotFound`]; [`Error::Name`].
    pub async fn lookup(&self, name: &str) -> Result<Handle, Error> {
        let lookup = Lookup {
            pool_id: self.id(),
            name: parse_name("block", name)?,
        };
        self.core
            .session
            .run(move |session| async move {
                let request = v1::LookupRequest::from(lookup);
                let lookup = |rpc: Rpc| {
                    let request = request.clone();
                    async move { rpc.pools().lookup(request).await }
                };
                let reply = session.ask(lookup).await?;
                Ok(BlockInfo::try_from(reply)?.handle)
            })
            .await
    }

    /// Takes a name away and returns the block's handle. The block stays, kept: free it, take it
    /// or adopt it when it is no longer needed.
    ///
    /// # Errors
    /// [`Error::NameNotFound`]; [`Error::Name`].
    pub async fn withdraw(&self, name: &str) -> Result<Handle, Error> {
        let name: BlockName = parse_name("block", name)?;
        let pool_id = self.id();
        self.core
            .session
            .run(move |session| async move {
                let reply = session
                    .effect(|rpc, request_id| {
                        let request_id = RequestId::new(request_id);
                        let name = name.clone();
                        let withdraw = Withdraw {
                            pool_id,
                            name,
                            free: false,
                            request_id,
                        };
                        let withdraw = v1::WithdrawRequest::from(withdraw);
                        async move { rpc.pools().withdraw(withdraw).await }
                    })
                    .await?;
                Ok(HandleReply::try_from(reply)?.handle)
            })
            .await
    }

    /// Returns the blocks that outlive sessions: the kept ones, with or without a name.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like.
    pub async fn kept(&self) -> Result<Vec<KeptBlock>, Error> {
        let pool_id = self.id();
        self.core
            .session
            .run(move |session| async move {
                let request = v1::ListKeptRequest::from(ListKept { pool_id });
                let list = |rpc: Rpc| async move { rpc.pools().list_kept(request).await };
                let reply = session.ask(list).await?;
                Ok(Vec::try_from(reply)?)
            })
            .await
    }
}
