//! The fd socket: asks for a pool's memory and maps what comes. gRPC cannot carry fds, so the
//! daemon has a second socket beside the first, for the session's token.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use goumem_alloc::{ArenaGeometry, PoolId};
use goumem_proto::model::{ArenaPoolInfo, Backing, PoolInfo, SessionToken};
use goumem_shm::os::fd_pass;
use goumem_shm::os::frame::{MapReply, MapRequest, MapStatus, REPLY_BYTES};
use goumem_shm::os::{Access, BackingKind, MapPlan, Mapping, Segment};
use goumem_shm::{
    ArenaMemory, PoolMemory, SegmentRefusal, arena_data_plan, data_plan, pool_geometry,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::error::Error;

/// The daemon answers from its tables; longer means that it is stopped or gone.
const DEADLINE: Duration = Duration::from_secs(30);

/// CONTROL and DATA.
const N_FDS: usize = 2;

/// The way to the fd socket.
#[derive(Debug)]
pub(crate) struct FdSocket {
    path: PathBuf,
    token: SessionToken,
}

impl FdSocket {
    pub(crate) fn new(path: PathBuf, token: SessionToken) -> Self {
        Self { path, token }
    }

    /// Maps a pool's memory.
    pub(crate) async fn map_pool(
        &self,
        info: &PoolInfo,
        access: Access,
    ) -> Result<PoolMemory, Error> {
        let n_pages = info.max_capacity_bytes.div_ceil(goumem_alloc::PAGE_BYTES);
        let geometry = u32::try_from(n_pages)
            .ok()
            .and_then(|n| pool_geometry(n).ok())
            .ok_or(SegmentRefusal::Corrupt {
                field: "pages",
                value: n_pages,
            })?;
        let plans = (
            MapPlan::whole(geometry.control_bytes()),
            data_plan(&geometry),
        );
        let (control, data) = self.map(info.pool_id, info.backing, access, plans).await?;
        let (memory, header) = PoolMemory::open(control, data)?;
        check_id(info.pool_id, header.pool_id)?;
        Ok(memory)
    }

    /// Maps an arena pool's memory.
    pub(crate) async fn map_arena_pool(
        &self,
        info: &ArenaPoolInfo,
        access: Access,
    ) -> Result<ArenaMemory, Error> {
        let geometry = ArenaGeometry::new(info.arenas, info.arena_bytes).map_err(|_| {
            SegmentRefusal::Corrupt {
                field: "arenas",
                value: info.arenas.into(),
            }
        })?;
        let plans = (
            MapPlan::whole(geometry.control_bytes()),
            arena_data_plan(&geometry),
        );
        let (control, data) = self.map(info.pool_id, info.backing, access, plans).await?;
        let (memory, header) = ArenaMemory::open(control, data)?;
        check_id(info.pool_id, header.pool_id)?;
        Ok(memory)
    }

    async fn map(
        &self,
        pool: PoolId,
        backing: Backing,
        access: Access,
        (control_plan, data_plan): (MapPlan, MapPlan),
    ) -> Result<(Mapping, Mapping), Error> {
        let kind = match backing {
            Backing::Memfd => BackingKind::Memfd,
            Backing::Named => BackingKind::Named,
            Backing::File => BackingKind::File,
        };
        let [control, data] = self.ask(pool, access).await?;
        let map = |fd: OwnedFd, access, plan: MapPlan| {
            let segment = Segment::from_fd(fd, kind, plan.len_bytes)?;
            Mapping::map(&segment, access, plan).map_err(Error::os("map a segment"))
        };
        Ok((
            map(control, Access::ReadOnly, control_plan)?,
            map(data, access, data_plan)?,
        ))
    }

    /// Asks for the fds of a pool.
    async fn ask(&self, pool: PoolId, access: Access) -> Result<[OwnedFd; N_FDS], Error> {
        let request = MapRequest {
            access,
            token: *self.token.as_bytes(),
            pool_id: pool.get(),
        };
        let (reply, fds) = timeout(DEADLINE, self.exchange(&request.encode()))
            .await
            .map_err(|_| Error::NoAnswer { waited: DEADLINE })?
            .map_err(Error::os("receive fds from the fd socket"))?;
        let refused = |status| Error::HandOver {
            pool_id: pool.get(),
            status,
        };
        match MapReply::decode(&reply)?.status {
            MapStatus::Ok => fds.try_into().map_err(|_| refused(MapStatus::Internal)),
            MapStatus::BadToken => Err(Error::SessionExpired),
            status => Err(refused(status)),
        }
    }

    async fn exchange(&self, request: &[u8]) -> io::Result<([u8; REPLY_BYTES], Vec<OwnedFd>)> {
        // A connection for each: pools are opened rarely, and the daemon closes what is idle.
        let stream = UnixStream::connect(&self.path).await?;
        let send = || fd_pass::send(&stream.as_fd(), request, &[]);
        stream.async_io(Interest::WRITABLE, send).await?;
        let mut reply = [0; REPLY_BYTES];
        let mut filled = 0;
        let mut fds = Vec::new();
        while filled < REPLY_BYTES {
            let receive = || fd_pass::recv(&stream.as_fd(), &mut reply[filled..], N_FDS);
            let (n, more) = stream.async_io(Interest::READABLE, receive).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += n;
            fds.extend(more);
        }
        Ok((reply, fds))
    }
}

fn check_id(expected: PoolId, found: PoolId) -> Result<(), SegmentRefusal> {
    if found == expected {
        return Ok(());
    }
    Err(SegmentRefusal::Corrupt {
        field: "pool id",
        value: found.get().into(),
    })
}
