//! Looking on: what each page of a pool is, and what happens in the daemon.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use goumem_alloc::PageIndex;
use goumem_proto::model::{
    ArenaPoolMap, EventKind, MapArenaPool, MapPool, PoolMap, WatchEvent, WatchRequest,
};
use goumem_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Streaming;

use super::{Client, parse_name};
use crate::connect::Rpc;
use crate::error::Error;
use crate::session::Session;

/// Events that wait for a reader here. More wait in the daemon, which drops them in the end.
const QUEUE: usize = 64;

impl Client {
    /// Returns what each page of a pool is: free, or whose, and the exported blocks in it. Of a
    /// pool too large for one answer, it is the beginning; `next_page` says where it ends.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::PermissionDenied`]; [`Error::Name`].
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # use goumem::{Client, PoolOptions};
    /// # let client = Client::embedded().await?;
    /// let pool = client.create_pool("p", PoolOptions::new(1 << 20)).await?;
    /// let shared = pool.alloc_value(456_u64).await?.share()?;
    /// let map = client.pool_map("p").await?;
    /// let spans = map.runs.iter().filter_map(|run| run.span);
    /// assert!(spans.into_iter().any(|span| span.session == client.session()));
    /// assert_eq!(map.blocks[0].handle, shared.handle());
    /// assert_eq!(map.blocks[0].size_bytes, 8);
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn pool_map(&self, name: &str) -> Result<PoolMap, Error> {
        self.pool_map_from(name, PageIndex::new(0)).await
    }

    /// As [`pool_map`](Self::pool_map), from a page on.
    ///
    /// # Errors
    /// As there.
    pub async fn pool_map_from(&self, name: &str, page: PageIndex) -> Result<PoolMap, Error> {
        let map = MapPool {
            first_page: page,
            ..MapPool::of(parse_name("pool", name)?)
        };
        self.run(|session| async move {
            let request = v1::MapPoolRequest::from(map);
            let map = |rpc: Rpc| {
                let request = request.clone();
                async move { rpc.pools().map(request).await }
            };
            Ok(PoolMap::try_from(session.ask(map).await?)?)
        })
        .await
    }

    /// Returns what each arena of a pool is, free ones too. Of a pool too large for one answer, it
    /// is the beginning; `next_arena` says where it ends.
    ///
    /// # Errors
    /// [`Error::PoolNotFound`]; [`Error::PermissionDenied`]; [`Error::Name`].
    pub async fn arena_pool_map(&self, name: &str) -> Result<ArenaPoolMap, Error> {
        self.arena_pool_map_from(name, 0).await
    }

    /// As [`arena_pool_map`](Self::arena_pool_map), from an arena on.
    ///
    /// # Errors
    /// As there.
    pub async fn arena_pool_map_from(&self, name: &str, arena: u32) -> Result<ArenaPoolMap, Error> {
        let map = MapArenaPool {
            first_arena: arena,
            ..MapArenaPool::of(parse_name("pool", name)?)
        };
        self.run(|session| async move {
            let request = v1::MapArenaPoolRequest::from(map);
            let map = |rpc: Rpc| {
                let request = request.clone();
                async move { rpc.arenas().map(request).await }
            };
            Ok(ArenaPoolMap::try_from(session.ask(map).await?)?)
        })
        .await
    }

    /// Watches what happens in the daemon from now on, as far as this user may see it: all of it,
    /// or only events of some kinds.
    ///
    /// The first event is [`Happening::Watching`](goumem_proto::model::Happening::Watching). It
    /// comes again when the daemon was restarted or the connection made anew: what happened in
    /// between is not known. Who reads too slowly is told how much was lost.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::NoAnswer`]; [`Error::Closed`].
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # use goumem::{Client, EventKind, Happening, PoolOptions};
    /// # let client = Client::embedded().await?;
    /// let mut watch = client.watch(&[EventKind::PoolCreated]).await?;
    /// assert_eq!(watch.next().await.unwrap()?.happening, Happening::Watching);
    /// client.create_pool("p", PoolOptions::new(1 << 20)).await?;
    /// let Happening::PoolCreated(pool) = watch.next().await.unwrap()?.happening else {
    ///     panic!("only those were asked for");
    /// };
    /// assert_eq!(pool.name.as_str(), "p");
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn watch(&self, kinds: &[EventKind]) -> Result<Watch, Error> {
        let request = v1::WatchRequest::from(WatchRequest {
            kinds: kinds.to_vec(),
        });
        let (sender, events) = mpsc::channel(QUEUE);
        self.run(move |session| async move {
            let stream = begin(&session, &request).await?;
            tokio::spawn(forward(session, request, stream, sender));
            Ok(())
        })
        .await?;
        Ok(Watch {
            events,
            _client: self.clone(),
        })
    }
}

async fn begin(
    session: &Session,
    request: &v1::WatchRequest,
) -> Result<Streaming<v1::WatchEvent>, Error> {
    let watch = |rpc: Rpc| {
        let request = request.clone();
        async move { rpc.daemon().watch(request).await }
    };
    session.ask(watch).await
}

/// As `begin`, however long the daemon is away. Other calls give up in the end; whoever watches
/// has nothing better to do.
async fn begin_again(
    session: &Session,
    request: &v1::WatchRequest,
) -> Result<Streaming<v1::WatchEvent>, Error> {
    loop {
        match begin(session, request).await {
            Err(Error::NoDaemon { .. } | Error::NoAnswer { .. }) => {}
            outcome => return outcome,
        }
    }
}

/// Carries events to their reader, over as many connections as it takes.
async fn forward(
    session: Arc<Session>,
    request: v1::WatchRequest,
    mut stream: Streaming<v1::WatchEvent>,
    to: mpsc::Sender<Result<WatchEvent, Error>>,
) {
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = to.closed() => return,
        };
        let event = match next {
            Some(Ok(event)) => WatchEvent::try_from(event).map_err(Error::from),
            // The daemon ends, or the connection has.
            Some(Err(_)) | None => {
                let again = tokio::select! {
                    again = begin_again(&session, &request) => again,
                    () = to.closed() => return,
                };
                match again {
                    Ok(again) => {
                        stream = again;
                        continue;
                    }
                    Err(error) => Err(error),
                }
            }
        };
        let failed = event.is_err();
        if to.send(event).await.is_err() || failed {
            return;
        }
    }
}

/// What happens in the daemon, as a stream. It ends with the session, and after an error.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Result<WatchEvent, Error>>,
    /// As long as somebody watches, the session goes on.
    _client: Client,
}

impl Watch {
    /// Returns the next event, however long it takes; none after the end.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        self.events.recv().await
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}
