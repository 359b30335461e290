//! Making pools: segments from a backing, headers and tables committed within the budget, then
//! the name. And opening file-backed ones again.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{ArenaGeometry, HEADER_BYTES, PageCount, PoolGeometry, PoolId};
use goumem_proto::model::{Backing, CreateArenaPool, CreatePool, Permissions};
use goumem_proto::name::PoolName;
use goumem_shm::header::{Header, PoolKind, PoolState};
use goumem_shm::os::{Access, BackingKind, MapPlan, Mapping, Segment, SegmentError, SegmentSpec};
use goumem_shm::{ArenaMemory, PoolMemory, arena_data_plan, data_plan};

use super::Core;
use super::registry::AnyPool;
use crate::arena_pool::{ArenaPool, ArenaPoolParts};
use crate::error::Error;
use crate::permission;
use crate::pool::{Pool, PoolParts, TablePages, recover};
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
        let backing = request.backing.unwrap_or(self.limits.backing);
        let geometry = PoolGeometry::new(request.capacity_bytes, request.max_capacity_bytes)?;
        let id = self.reserve_id(request.name.as_str())?;
        let header = Header {
            kind: PoolKind::Blocks,
            pool_id: id,
            state: PoolState::Live,
            epoch: 0,
            units: geometry.n_pages().get(),
            unit_bytes: geometry.capacity_pages().bytes(),
            uid: permissions.uid,
            gid: permissions.gid,
            mode: permissions.mode,
            backing: wire_number(backing),
            data_bytes: geometry.data_bytes(),
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
        let mut registry = self.registry();
        if let Err(error) = registry.require_room(pool.name.as_str(), self.limits.max_pools) {
            drop(registry);
            pool.dismantle(); // another caller was faster with the name
            return Err(error);
        }
        registry.insert(AnyPool::Blocks(Arc::clone(&pool)));
        tracing::info!(
            pool = %pool.name, id = %id, backing = crate::error::backing_name(backing),
            capacity_bytes = geometry.capacity_pages().bytes(), uid = permissions.uid,
            "pool created"
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
        let backing = request.backing.unwrap_or(self.limits.backing);
        let geometry = ArenaGeometry::new(request.arenas, request.arena_bytes)?;
        let id = self.reserve_id(request.name.as_str())?;
        let header = Header {
            kind: PoolKind::Arenas,
            pool_id: id,
            state: PoolState::Live,
            epoch: 0,
            units: geometry.arenas(),
            unit_bytes: geometry.arena_bytes(),
            uid: permissions.uid,
            gid: permissions.gid,
            mode: permissions.mode,
            backing: wire_number(backing),
            data_bytes: geometry.data_bytes(),
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
        let no_space = |source| Error::NoSpace { requested_bytes: bytes, source };
        let made = control
            .commit(0..HEADER_BYTES)
            .and_then(|()| data.commit(tables.clone()))
            .and_then(|()| data.commit(payload))
            .map_err(no_space)
            .and_then(|()| map(&control, &data, arena_data_plan(&geometry), lengths.0))
            .and_then(|(c, d)| Ok(ArenaMemory::create(c, d, &header)?));
        let memory = match made {
            Ok(memory) => memory,
            Err(error) => {
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
        let mut registry = self.registry();
        if let Err(error) = registry.require_room(pool.name.as_str(), self.limits.max_pools) {
            drop(registry);
            pool.dismantle(); // another caller was faster with the name
            return Err(error);
        }
        registry.insert(AnyPool::Arenas(Arc::clone(&pool)));
        tracing::info!(
            pool = %pool.name, id = %id, backing = crate::error::backing_name(backing),
            arenas = geometry.arenas(), arena_bytes = geometry.arena_bytes(),
            uid = permissions.uid, "arena pool created"
        );
        Ok(pool)
    }

    /// Removes what dead daemons of this user left behind, and opens file-backed pools again. A
    /// file that cannot be believed is left as it is, said aloud, and not served.
    pub(super) fn open_files_again(&self, now: Instant) {
        match BackingKind::Named.backing().remove_leftovers() {
            Ok(0) => {}
            Ok(n) => tracing::info!(segments = n, "removed segments of dead daemons"),
            Err(error) => tracing::warn!(%error, "could not remove segments of dead daemons"),
        }
        let Ok(entries) = std::fs::read_dir(&self.limits.data_dir) else { return };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_suffix(".control.goumem")?.to_owned()))
            .collect();
        names.sort();
        for name in names {
            if let Err(error) = self.open_file_pool(&name, now) {
                tracing::error!(
                    pool = name, error = &error as &dyn std::error::Error,
                    "file-backed pool is not served"
                );
            }
        }
    }

    fn open_file_pool(&self, name: &str, now: Instant) -> Result<(), Error> {
        if is_unfinished(&self.file_path(name, "control")) {
            tracing::warn!(pool = name, "removed a file-backed pool that was not finished");
            return self.remove_files(name);
        }
        let backing = BackingKind::File.backing();
        let open = |half: &str| {
            backing
                .open_existing(&self.file_path(name, half))
                .map_err(|e| Error::os("open a segment", e))
        };
        let control = open("control")?;
        let whole = |segment: &Segment| MapPlan::whole(segment.len_bytes());
        let header = {
            let mapped = Mapping::map(&control, Access::ReadOnly, whole(&control))
                .map_err(|e| Error::os("map CONTROL", e))?;
            goumem_shm::header::read(&mapped, goumem_shm::header::SegmentRole::Control)?
        };
        if header.state == PoolState::Destroying {
            return self.remove_files(name);
        }
        let data = open("data")?;
        let pool_name = PoolName::try_from(header.name.as_str())
            .ok()
            .filter(|found| found.as_str() == name)
            .ok_or(Error::Invariant { what: "a pool's file has its name" })?;
        let permissions = Permissions { uid: header.uid, gid: header.gid, mode: header.mode };
        let id = header.pool_id;
        let taken = {
            let registry = self.registry();
            registry.has_id(id) || registry.by_name(name).is_ok()
        };
        if taken {
            return Err(Error::PoolExists { name: name.to_owned() });
        }
        self.shared.budget.record(2 * HEADER_BYTES);
        let mut control_tables = TablePages::default();
        control_tables.insert(&(0..HEADER_BYTES));
        let mut data_tables = TablePages::default();
        data_tables.insert(&(0..HEADER_BYTES));
        let pool = match header.kind {
            PoolKind::Blocks => {
                let geometry = goumem_shm::pool_geometry(header.units)?;
                require_length(&data, geometry.data_bytes())?;
                require_length(&control, geometry.control_bytes())?;
                let (c, d) = map(&control, &data, data_plan(&geometry), geometry.control_bytes())?;
                let (memory, _) = PoolMemory::open(c, d)?;
                let capacity_pages = PageCount::for_bytes(header.unit_bytes)
                    .filter(|&pages| pages <= geometry.n_pages())
                    .unwrap_or_else(|| geometry.n_pages());
                let parts = PoolParts {
                    id,
                    name: pool_name,
                    backing: Backing::File,
                    permissions,
                    capacity_pages,
                    memory,
                    control,
                    data,
                    data_tables,
                    control_tables,
                };
                AnyPool::Blocks(Arc::new(recover(parts, Arc::clone(&self.shared), now)?))
            }
            PoolKind::Arenas => {
                let geometry = ArenaGeometry::new(header.units, header.unit_bytes)?;
                require_length(&data, geometry.data_bytes())?;
                require_length(&control, geometry.control_bytes())?;
                let payload = geometry.payload_range();
                let tables = geometry.guard_range().start;
                let plan = arena_data_plan(&geometry);
                let (c, d) = map(&control, &data, plan, geometry.control_bytes())?;
                let (memory, _) = ArenaMemory::open(c, d)?;
                self.shared.budget.record(payload.end - payload.start + tables - HEADER_BYTES);
                self.shared.quotas.record(permissions.uid, payload.end - payload.start);
                let parts = ArenaPoolParts {
                    id,
                    name: pool_name,
                    backing: Backing::File,
                    permissions,
                    memory,
                    control,
                    data,
                    control_tables,
                    data_table_bytes: tables,
                };
                let pool = ArenaPool::new(parts, Arc::clone(&self.shared));
                pool.recover();
                AnyPool::Arenas(Arc::new(pool))
            }
        };
        tracing::info!(pool = name, id = %id, "file-backed pool opened again");
        self.registry().insert(pool);
        Ok(())
    }

    fn reserve_id(&self, name: &str) -> Result<PoolId, Error> {
        let mut registry = self.registry();
        registry.require_room(name, self.limits.max_pools)?;
        registry.new_id()
    }

    /// Makes the segments of a pool, (CONTROL, DATA), with nothing committed.
    fn segments(
        &self,
        name: &PoolName,
        backing: Backing,
        permissions: Permissions,
        (control_bytes, data_bytes): (u64, u64),
    ) -> Result<(Segment, Segment), Error> {
        let kind = match backing {
            Backing::Memfd => BackingKind::Memfd,
            Backing::Named => BackingKind::Named,
            Backing::File => BackingKind::File,
        };
        if backing == Backing::File {
            std::fs::create_dir_all(&self.limits.data_dir)
                .map_err(|e| Error::os("make the data directory", e))?;
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
                        Error::PoolExists { name: name.to_string() }
                    }
                    other => Error::os("make a segment", other),
                })
        };
        let control = create("control", control_bytes)?;
        match create("data", data_bytes) {
            Ok(data) => Ok((control, data)),
            Err(error) => {
                let _ = control.remove();
                Err(error)
            }
        }
    }

    fn file_stem(&self, name: &str, half: &str) -> PathBuf {
        self.limits.data_dir.join(format!("{name}.{half}"))
    }

    fn file_path(&self, name: &str, half: &str) -> PathBuf {
        self.limits.data_dir.join(format!("{name}.{half}.goumem"))
    }

    /// Removes the files of a pool that is not served, CONTROL last, which tells why.
    fn remove_files(&self, name: &str) -> Result<(), Error> {
        for half in ["data", "control"] {
            match std::fs::remove_file(self.file_path(name, half)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::os("remove a segment", error));
                }
                _ => {}
            }
        }
        Ok(())
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
            Error::NoSpace { requested_bytes, source }
        })
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
    let data = Mapping::map(data, Access::ReadWrite, data_plan)
        .map_err(|e| Error::os("map DATA", e))?;
    Ok((control, data))
}

/// A truncated file would fault at the first touch behind its end.
fn require_length(segment: &Segment, expected_bytes: u64) -> Result<(), Error> {
    if segment.len_bytes() >= expected_bytes {
        return Ok(());
    }
    let found_bytes = segment.len_bytes();
    Err(goumem_shm::SegmentRefusal::Truncated { expected_bytes, found_bytes }.into())
}

/// Whether a CONTROL file is of a pool whose creation was interrupted. Its magic is stored last,
/// and whoever has flushed a pool has flushed its magic too: nothing was promised of this one.
fn is_unfinished(control: &Path) -> bool {
    match std::fs::symlink_metadata(control) {
        Ok(found) if found.is_file() && found.len() == 0 => return true,
        Ok(found) if found.is_file() => {}
        _ => return false,
    }
    let mut magic = [0xff; 8];
    let read = File::open(control).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == [0; 8]
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
