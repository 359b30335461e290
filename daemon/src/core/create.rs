//! Making pools: the name reserved, segments from a backing, headers and tables committed within
//! the budget, fds stored, and then the header of CONTROL, which commits the pool.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use goumem_alloc::{ArenaGeometry, HEADER_BYTES, PoolGeometry, PoolId};
use goumem_proto::model::{
    Backing, CreateArenaPool, CreatePool, Happening, Permissions, RequestId,
};
use goumem_proto::name::PoolName;
use goumem_shm::header::{Header, MadeBy, PoolKind, PoolState};
use goumem_shm::os::{Access, BackingKind, MapPlan, Mapping, Segment, SegmentError, SegmentSpec};
use goumem_shm::{ArenaMemory, PoolMemory, arena_data_plan, data_plan};

use super::Core;
use super::registry::AnyPool;
use crate::arena_pool::{ArenaPool, ArenaPoolParts};
use crate::error::{Error, Table};
use crate::fd_room::{self, Purpose};
use crate::fd_store::StoredFd;
use crate::permission;
use crate::pool::{Pool, PoolParts, TablePages};
use crate::session::Caller;

impl Core {
    /// Creates a pool and gives it its name.
    pub(super) fn new_pool(
        &self,
        caller: &Caller,
        request: &CreatePool,
        now: Instant,
    ) -> Result<Arc<Pool>, Error> {
        let permissions = permission::chosen(caller, request.gid, request.mode)?;
        let made_by = made_by(caller, request.request_id);
        self.make_pool(permissions, made_by, request, now)
    }

    /// Creates a pool for whoever has the right to.
    pub(super) fn make_pool(
        &self,
        permissions: Permissions,
        made_by: MadeBy,
        request: &CreatePool,
        now: Instant,
    ) -> Result<Arc<Pool>, Error> {
        let backing = request.backing.unwrap_or(self.default_backing);
        let geometry = PoolGeometry::new(request.capacity_bytes, request.max_capacity_bytes)?;
        let _name = self.reserve(request.name.as_str())?;
        let id = self.new_id();
        let header = Header {
            kind: PoolKind::Blocks,
            pool_id: id,
            state: PoolState::Live,
            epoch: self.root.epoch(),
            units: geometry.n_pages().get(),
            unit_bytes: geometry.capacity_pages().bytes(),
            uid: permissions.uid,
            gid: permissions.gid,
            mode: permissions.mode,
            backing: wire_number(backing),
            data_bytes: geometry.data_bytes(),
            instance: self.root.instance(),
            made_by,
            name: request.name.to_string(),
        };
        let lengths = (geometry.control_bytes(), geometry.data_bytes());
        let (control, data) = self.segments(&request.name, backing, permissions, lengths)?;
        let made = (|| {
            self.commit(&control, 0..HEADER_BYTES, now)?;
            self.commit(&data, 0..HEADER_BYTES, now).inspect_err(|_| {
                self.shared.budget.release(HEADER_BYTES);
            })?;
            let memory = map(&control, &data, data_plan(&geometry), lengths.0)
                .and_then(|mapped| self.store_pool(id, &control, &data).map(|()| mapped))
                // From here on the pool stands.
                .and_then(|(c, d)| Ok(PoolMemory::create(c, d, &header)?))
                .inspect_err(|_| self.shared.budget.release(2 * HEADER_BYTES))?;
            let mut header_pages = TablePages::default();
            header_pages.insert(&(0..HEADER_BYTES));
            let mut data_tables = TablePages::default();
            data_tables.insert(&(0..HEADER_BYTES));
            Ok((memory, header_pages, data_tables))
        })();
        let (memory, control_tables, data_tables) = match made {
            Ok(made) => made,
            Err(error) => {
                self.unstore_pool(id, control.kind());
                remove(&control, &data);
                return Err(error);
            }
        };
        let parts = PoolParts {
            id,
            name: request.name.clone(),
            backing,
            permissions,
            capacity_pages: geometry.capacity_pages(),
            memory,
            control,
            data,
            data_tables,
            control_tables,
        };
        let pool = Arc::new(Pool::new(parts, Arc::clone(&self.shared)));
        self.registry().insert(AnyPool::Blocks(Arc::clone(&pool)));
        tracing::info!(
            pool = %pool.name, id = %id, backing = crate::error::backing_name(backing),
            capacity_bytes = geometry.capacity_pages().bytes(), uid = permissions.uid,
            "pool created"
        );
        self.tell_of_pool(
            &AnyPool::Blocks(Arc::clone(&pool)),
            Happening::PoolCreated,
            now,
        );
        Ok(pool)
    }

    /// Creates an arena pool, all of it committed, and gives it its name.
    pub(super) fn new_arena_pool(
        &self,
        caller: &Caller,
        request: &CreateArenaPool,
        now: Instant,
    ) -> Result<Arc<ArenaPool>, Error> {
        let permissions = permission::chosen(caller, request.gid, request.mode)?;
        let made_by = made_by(caller, request.request_id);
        self.make_arena_pool(permissions, made_by, request, now)
    }

    /// Creates an arena pool for whoever has the right to.
    pub(super) fn make_arena_pool(
        &self,
        permissions: Permissions,
        made_by: MadeBy,
        request: &CreateArenaPool,
        now: Instant,
    ) -> Result<Arc<ArenaPool>, Error> {
        let backing = request.backing.unwrap_or(self.default_backing);
        let geometry = ArenaGeometry::new(request.arenas, request.arena_bytes)?;
        let _name = self.reserve(request.name.as_str())?;
        let id = self.new_id();
        let header = Header {
            kind: PoolKind::Arenas,
            pool_id: id,
            state: PoolState::Live,
            epoch: self.root.epoch(),
            units: geometry.arenas(),
            unit_bytes: geometry.arena_bytes(),
            uid: permissions.uid,
            gid: permissions.gid,
            mode: permissions.mode,
            backing: wire_number(backing),
            data_bytes: geometry.data_bytes(),
            instance: self.root.instance(),
            made_by,
            name: request.name.to_string(),
        };
        let payload = geometry.payload_range();
        let payload_bytes = payload.end - payload.start;
        let tables = 0..geometry.guard_range().start;
        let lengths = (geometry.control_bytes(), geometry.data_bytes());
        self.shared.quotas.charge(permissions.uid, payload_bytes)?;
        let bytes = payload_bytes + tables.end + HEADER_BYTES;
        if let Err(error) = self.shared.budget.reserve(bytes, now) {
            self.shared.quotas.discharge(permissions.uid, payload_bytes);
            return Err(error);
        }
        let give_up = |segments: Option<(&Segment, &Segment)>| {
            self.shared.budget.release(bytes);
            self.shared.quotas.discharge(permissions.uid, payload_bytes);
            if let Some((control, data)) = segments {
                remove(control, data);
            }
        };
        let (control, data) = self
            .segments(&request.name, backing, permissions, lengths)
            .inspect_err(|_| give_up(None))?;
        let no_space = |source| Error::NoSpace {
            requested_bytes: bytes,
            source,
        };
        let made = control
            .commit(0..HEADER_BYTES)
            .and_then(|()| data.commit(tables.clone()))
            .and_then(|()| data.commit(payload))
            .map_err(no_space)
            .and_then(|()| map(&control, &data, arena_data_plan(&geometry), lengths.0))
            .and_then(|mapped| self.store_pool(id, &control, &data).map(|()| mapped))
            // From here on the arena pool stands.
            .and_then(|(c, d)| Ok(ArenaMemory::create(c, d, &header)?));
        let memory = match made {
            Ok(memory) => memory,
            Err(error) => {
                self.unstore_pool(id, control.kind());
                give_up(Some((&control, &data)));
                return Err(error);
            }
        };
        let mut control_tables = TablePages::default();
        control_tables.insert(&(0..HEADER_BYTES));
        let parts = ArenaPoolParts {
            id,
            name: request.name.clone(),
            backing,
            permissions,
            memory,
            control,
            data,
            control_tables,
            data_table_bytes: tables.end,
        };
        let pool = Arc::new(ArenaPool::new(parts, Arc::clone(&self.shared)));
        self.registry().insert(AnyPool::Arenas(Arc::clone(&pool)));
        tracing::info!(
            pool = %pool.name, id = %id, backing = crate::error::backing_name(backing),
            arenas = geometry.arenas(), arena_bytes = geometry.arena_bytes(),
            uid = permissions.uid, "arena pool created"
        );
        self.tell_of_pool(
            &AnyPool::Arenas(Arc::clone(&pool)),
            Happening::PoolCreated,
            now,
        );
        Ok(pool)
    }

    /// Reserves a name until the reservation is dropped.
    fn reserve(&self, name: &str) -> Result<Reservation<'_>, Error> {
        let max_pools = self.max_pools.load(Ordering::Relaxed);
        self.registry().reserve(name, max_pools)?;
        Ok(Reservation {
            core: self,
            name: name.to_owned(),
        })
    }

    /// Returns an id that no pool has had.
    fn new_id(&self) -> PoolId {
        loop {
            let id = self.root.next_pool_id();
            // A file of another time may have it.
            if !self.registry().has_id(id) {
                return id;
            }
        }
    }

    /// Stores the fds of a pool, before the pool is there.
    pub(super) fn store_pool(
        &self,
        id: PoolId,
        control: &Arc<Segment>,
        data: &Arc<Segment>,
    ) -> Result<(), Error> {
        let kind = control.kind();
        for (what, segment) in [
            (StoredFd::Data(id, kind), data),
            (StoredFd::Control(id, kind), control),
        ] {
            self.store
                .store(what.name(), Arc::clone(segment) as _)
                .map_err(|e| {
                    Error::no_fd("hold a pool's memory for a restart", self.pool_rows(), e)
                })?;
        }
        Ok(())
    }

    /// Gives up the stored fds of a pool that is no more.
    pub(super) fn unstore_pool(&self, id: PoolId, kind: BackingKind) {
        self.store.remove(&StoredFd::Control(id, kind).name());
        self.store.remove(&StoredFd::Data(id, kind).name());
    }

    /// Makes the segments of a pool, (CONTROL, DATA), with nothing committed.
    fn segments(
        &self,
        name: &PoolName,
        backing: Backing,
        permissions: Permissions,
        (control_bytes, data_bytes): (u64, u64),
    ) -> Result<(Arc<Segment>, Arc<Segment>), Error> {
        let kind = kind_of(backing);
        if backing == Backing::File {
            self.own_data_dir()?;
        }
        let create = |half: &str, len_bytes: u64| {
            let label = format!("goumem-{name}-{half}");
            let stem = self.file_stem(name.as_str(), half);
            kind.backing()
                .create(&SegmentSpec {
                    len_bytes,
                    label: &label,
                    uid: permissions.uid,
                    gid: permissions.gid,
                    // Nobody opens CONTROL for writing by name.
                    mode: if half == "control" {
                        permissions.mode & 0o444 | 0o600
                    } else {
                        permissions.mode | 0o600
                    },
                    path_stem: (backing == Backing::File).then_some(stem.as_path()),
                })
                .map_err(|error| match error {
                    SegmentError::Owner { .. } => Error::BackingUnsupported {
                        backing,
                        what: "be given the owner that was asked for by this daemon",
                    },
                    // Files that could not be believed when the daemon started.
                    SegmentError::Os { source, .. }
                        if source.kind() == io::ErrorKind::AlreadyExists =>
                    {
                        Error::PoolExists {
                            name: name.to_string(),
                        }
                    }
                    SegmentError::Os { doing, source, .. } => {
                        Error::no_fd(doing, self.pool_rows(), source)
                    }
                    other => Error::os("make a segment", other),
                })
                .and_then(|segment| {
                    let room = fd_room::check(&segment, Purpose::Pool);
                    room.map_err(|e| {
                        // What cannot be removed now is a leftover of the next start.
                        let _ = segment.remove();
                        Error::no_fd("make a segment", self.pool_rows(), e)
                    })?;
                    Ok(segment)
                })
        };
        let control = create("control", control_bytes)?;
        match create("data", data_bytes) {
            Ok(data) => Ok((Arc::new(control), Arc::new(data))),
            Err(error) => {
                let _ = control.remove();
                Err(error)
            }
        }
    }

    /// What is in the table of pools.
    fn pool_rows(&self) -> (Table, usize) {
        let (blocks, arenas) = self.registry().counts();
        (Table::Pools, blocks + arenas)
    }

    fn commit(
        &self,
        segment: &Segment,
        range: std::ops::Range<u64>,
        now: Instant,
    ) -> Result<(), Error> {
        let requested_bytes = range.end - range.start;
        self.shared.budget.reserve(requested_bytes, now)?;
        segment.commit(range).map_err(|source| {
            self.shared.budget.release(requested_bytes);
            Error::NoSpace {
                requested_bytes,
                source,
            }
        })
    }
}

/// A name that is kept for a pool until the pool is there, or will not be.
#[derive(Debug)]
struct Reservation<'a> {
    core: &'a Core,
    name: String,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.core.registry().end_reservation(&self.name);
    }
}

fn made_by(caller: &Caller, request_id: RequestId) -> MadeBy {
    caller
        .session
        .as_ref()
        .map_or_else(MadeBy::default, |session| MadeBy {
            serial: session.serial,
            request_id: request_id.get(),
        })
}

pub(super) fn kind_of(backing: Backing) -> BackingKind {
    match backing {
        Backing::Memfd => BackingKind::Memfd,
        Backing::Named => BackingKind::Named,
        Backing::File => BackingKind::File,
    }
}

fn map(
    control: &Segment,
    data: &Segment,
    data_plan: MapPlan,
    control_bytes: u64,
) -> Result<(Mapping, Mapping), Error> {
    let control = Mapping::map(control, Access::ReadWrite, MapPlan::whole(control_bytes))
        .map_err(|e| Error::os("map CONTROL", e))?;
    Ok((control, map_data(data, data_plan)?))
}

pub(super) fn map_data(data: &Segment, plan: MapPlan) -> Result<Mapping, Error> {
    Mapping::map(data, Access::ReadWrite, plan).map_err(|e| Error::os("map DATA", e))
}

fn remove(control: &Segment, data: &Segment) {
    for segment in [control, data] {
        if let Err(error) = segment.remove() {
            tracing::warn!(%error, "could not remove a segment that was not used");
        }
    }
}

fn wire_number(backing: Backing) -> u32 {
    match backing {
        Backing::Memfd => 1,
        Backing::Named => 2,
        Backing::File => 3,
    }
}
