//! File-backed pools on the disk, `NAME.control.goumem` and `NAME.data.goumem` in the data
//! directory: whose they are, and opening them again after a restart.
//!
//! The daemon may have been killed while clients live on, which still map the files. What they
//! hold must not change under them, so they keep the files they have, without a name, and the
//! daemon goes on with copies. It sees them by the locks that their mappings hold: see
//! [`Segment::hand_out`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use goumem_alloc::{ArenaGeometry, HEADER_BYTES, PageCount};
use goumem_proto::model::{Backing, Permissions};
use goumem_proto::name::PoolName;
use goumem_shm::header::{Header, PoolKind, PoolState, SegmentRole};
use goumem_shm::os::lock::InstanceLock;
use goumem_shm::os::{Access, Backing as _, BackingKind, FileBacking, MapPlan, Mapping, Segment};
use goumem_shm::{ArenaMemory, PoolMemory, SegmentRefusal, arena_data_plan, data_plan};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::Core;
use super::create::map_data;
use super::registry::AnyPool;
use crate::arena_pool::{self, ArenaPoolParts};
use crate::error::Error;
use crate::pool::{self, Owners, PoolParts, TablePages};
use crate::status::chain;

/// Keeps daemons with other sockets from serving the same files.
const LOCK_FILE: &str = "goumemd.lock";
/// Of a copy that is not finished.
const COPY_SUFFIX: &str = ".goumem.copy";

/// A pool that an earlier daemon served.
#[derive(Debug)]
pub(super) struct FoundPool {
    pub(super) header: Header,
    /// Its sessions are those that this daemon has taken over.
    pub(super) own: bool,
    pub(super) mapped_control: Mapping,
    pub(super) control: Arc<Segment>,
    pub(super) data: Arc<Segment>,
}

impl Core {
    /// Removes what dead daemons of this user left behind, and opens file-backed pools again. A
    /// file that cannot be believed is left as it is, said aloud, and not served.
    pub(super) fn open_files_again(&self, now: Instant) {
        match BackingKind::Named.backing().remove_leftovers() {
            Ok(0) => {}
            Ok(n) => tracing::info!(segments = n, "removed segments of dead daemons"),
            Err(error) => tracing::warn!(%error, "could not remove segments of dead daemons"),
        }
        if !self.data_dir.is_dir() {
            return;
        }
        if let Err(error) = self.own_data_dir() {
            return tracing::error!(error = chain(&error), "file-backed pools are not served");
        }
        let files = match fs::read_dir(&self.data_dir) {
            Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()),
            Err(error) => return tracing::error!(%error, "file-backed pools are not served"),
        };
        let mut names = Vec::new();
        for file in files {
            if file.ends_with(COPY_SUFFIX) {
                // A daemon was killed while it copied; the file itself is still there.
                let _ = fs::remove_file(self.data_dir.join(&file));
            } else if let Some(name) = file.strip_suffix(".control.goumem") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        for name in names {
            if let Err(error) = self.open_file_pool(&name, now) {
                tracing::error!(
                    pool = name,
                    error = chain(&error),
                    "file-backed pool is not served"
                );
            }
        }
    }

    fn open_file_pool(&self, name: &str, now: Instant) -> Result<(), Error> {
        if is_unfinished(&self.file_path(name, "control")) {
            tracing::warn!(
                pool = name,
                "removed a file-backed pool that was not finished"
            );
            return self.remove_files(name);
        }
        let open = |half: &str| {
            FileBacking
                .open_existing(&self.file_path(name, half))
                .map_err(|e| Error::os("open a segment", e))
        };
        let header = header_of(&map_control(&open("control")?)?)?;
        // Of a daemon whose sessions this one has taken over: what they map stays theirs.
        let own = header.instance == self.root.instance();
        if own && self.registry().has_id(header.pool_id) {
            return Ok(()); // its fds were kept
        }
        if header.state == PoolState::Destroying {
            return self.remove_files(name);
        }
        if header.name != name {
            return Err(Error::Invariant {
                what: "a pool's file has its name",
            });
        }
        if !own {
            for half in ["control", "data"] {
                leave_to_mappers(&self.file_path(name, half))
                    .map_err(|e| Error::os("copy a segment that is mapped", e))?;
            }
        }
        let (control, data) = (Arc::new(open("control")?), Arc::new(open("data")?));
        let id = header.pool_id;
        let found = FoundPool {
            header,
            own,
            mapped_control: map_control(&control)?,
            control: Arc::clone(&control),
            data: Arc::clone(&data),
        };
        self.take_over_pool(found, now)?;
        self.store_pool(id, &control, &data)?;
        tracing::info!(pool = name, id = %id, "file-backed pool opened again");
        Ok(())
    }

    /// Opens a pool that an earlier daemon served, from its segments.
    ///
    /// # Errors
    /// `PoolExists`, `Segment`, `Os`; the segments are as they were then, as far as others can see.
    pub(super) fn take_over_pool(&self, found: FoundPool, now: Instant) -> Result<(), Error> {
        let FoundPool {
            header,
            own,
            mapped_control,
            control,
            data,
        } = found;
        let pool_name = PoolName::try_from(header.name.as_str()).map_err(|_| {
            let (field, value) = ("name", header.name.len() as u64);
            SegmentRefusal::Corrupt { field, value }
        })?;
        let backing = backing_of(control.kind());
        let permissions = Permissions {
            uid: header.uid,
            gid: header.gid,
            mode: header.mode,
        };
        let id = header.pool_id;
        let claim = self.claim(
            id,
            (header.state == PoolState::Live).then_some(&header.name),
        );
        let Some(_claim) = claim else {
            return Err(Error::PoolExists { name: header.name });
        };
        let mut control_tables = TablePages::default();
        control_tables.insert(&(0..HEADER_BYTES));
        let owners = Owners(own.then_some(&self.sessions));
        let (pool, odd) = match header.kind {
            PoolKind::Blocks => {
                let geometry = goumem_shm::pool_geometry(header.units)?;
                require_length(&data, geometry.data_bytes())?;
                require_length(&control, geometry.control_bytes())?;
                let mapped_data = map_data(&data, data_plan(&geometry))?;
                let (memory, _) = PoolMemory::open(mapped_control, mapped_data)?;
                self.shared.budget.record(2 * HEADER_BYTES);
                let mut data_tables = TablePages::default();
                data_tables.insert(&(0..HEADER_BYTES));
                let capacity_pages = PageCount::for_bytes(header.unit_bytes)
                    .filter(|&pages| pages <= geometry.n_pages())
                    .unwrap_or_else(|| geometry.n_pages());
                let parts = PoolParts {
                    id,
                    name: pool_name,
                    backing,
                    permissions,
                    capacity_pages,
                    memory,
                    control,
                    data,
                    data_tables,
                    control_tables,
                };
                let shared = Arc::clone(&self.shared);
                let (pool, odd) = pool::recover(parts, header.state, owners, shared, now)?;
                (AnyPool::Blocks(Arc::new(pool)), odd)
            }
            PoolKind::Arenas => {
                let geometry = ArenaGeometry::new(header.units, header.unit_bytes)?;
                require_length(&data, geometry.data_bytes())?;
                require_length(&control, geometry.control_bytes())?;
                let payload = geometry.payload_range();
                let tables = geometry.guard_range().start;
                let mapped_data = map_data(&data, arena_data_plan(&geometry))?;
                let (memory, _) = ArenaMemory::open(mapped_control, mapped_data)?;
                self.shared
                    .budget
                    .record(payload.end - payload.start + tables + HEADER_BYTES);
                self.shared
                    .quotas
                    .record(permissions.uid, payload.end - payload.start);
                let parts = ArenaPoolParts {
                    id,
                    name: pool_name,
                    backing,
                    permissions,
                    memory,
                    control,
                    data,
                    control_tables,
                    data_table_bytes: tables,
                };
                let shared = Arc::clone(&self.shared);
                let (pool, odd) = arena_pool::recover(parts, header.state, owners, shared)?;
                (AnyPool::Arenas(Arc::new(pool)), odd)
            }
        };
        self.quarantine(odd);
        pool.set_run(self.root.instance(), self.root.epoch());
        match header.state {
            PoolState::Live => self.registry().insert(pool),
            PoolState::Destroying => self.registry().insert_nameless(pool),
        }
        Ok(())
    }

    /// Makes the data directory and locks it, if this daemon has not done so yet.
    pub(super) fn own_data_dir(&self) -> Result<(), Error> {
        let mut lock = self
            .data_dir_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            fs::create_dir_all(&self.data_dir)
                .map_err(|e| Error::os("make the data directory", e))?;
            let taken = InstanceLock::acquire(&self.data_dir.join(LOCK_FILE));
            *lock = Some(taken.map_err(|e| Error::os("lock the data directory", e))?);
        }
        Ok(())
    }

    pub(super) fn file_stem(&self, name: &str, half: &str) -> PathBuf {
        self.data_dir.join(format!("{name}.{half}"))
    }

    fn file_path(&self, name: &str, half: &str) -> PathBuf {
        self.data_dir.join(format!("{name}.{half}.goumem"))
    }

    /// Removes the files of a pool that is not served, CONTROL last, which tells why.
    fn remove_files(&self, name: &str) -> Result<(), Error> {
        for half in ["data", "control"] {
            match fs::remove_file(self.file_path(name, half)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::os("remove a segment", error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Maps CONTROL: whole, since only its header tells how much of it there should be.
pub(super) fn map_control(control: &Segment) -> Result<Mapping, Error> {
    let whole = MapPlan::whole(control.len_bytes());
    Mapping::map(control, Access::ReadWrite, whole).map_err(|e| Error::os("map CONTROL", e))
}

/// Reads CONTROL's header.
pub(super) fn header_of(control: &Mapping) -> Result<Header, Error> {
    Ok(goumem_shm::header::read(control, SegmentRole::Control)?)
}

fn backing_of(kind: BackingKind) -> Backing {
    match kind {
        BackingKind::Memfd => Backing::Memfd,
        BackingKind::Named => Backing::Named,
        BackingKind::File => Backing::File,
    }
}

/// A truncated file would fault at the first touch behind its end.
fn require_length(segment: &Segment, expected_bytes: u64) -> Result<(), Error> {
    if segment.len_bytes() >= expected_bytes {
        return Ok(());
    }
    let found_bytes = segment.len_bytes();
    Err(SegmentRefusal::Truncated {
        expected_bytes,
        found_bytes,
    }
    .into())
}

/// Whether a CONTROL file is of a pool whose creation was interrupted. Its magic is stored last,
/// and whoever has flushed a pool has flushed its magic too: nothing was promised of this one.
fn is_unfinished(control: &Path) -> bool {
    match fs::symlink_metadata(control) {
        Ok(found) if found.is_file() && found.len() == 0 => return true,
        Ok(found) if found.is_file() => {}
        _ => return false,
    }
    let mut magic = [0xff; 8];
    let read = File::open(control).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == [0; 8]
}

/// Puts a copy in the place of a file that somebody maps.
fn leave_to_mappers(path: &Path) -> io::Result<()> {
    if !FileBacking::is_mapped(path)? {
        return Ok(());
    }
    let copy = path.with_extension(COPY_SUFFIX.trim_start_matches('.'));
    copy_sparse(path, &copy)
        .and_then(|()| fs::rename(&copy, path))
        .inspect_err(|_| {
            // What is left of it is removed at the next start.
            let _ = fs::remove_file(&copy);
        })?;
    tracing::warn!(path = %path.display(), "clients of a dead daemon map a file: using a copy");
    Ok(())
}

/// Copies a file with its holes, and returns when the copy is on the disk, as the file may be.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    loop {
        let start = match seek(&from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&from, SeekFrom::Hole(start))?;
        seek(&from, SeekFrom::Start(start))?;
        seek(&to, SeekFrom::Start(start))?;
        io::copy(&mut (&from).take(end - start), &mut &to)?;
        at = end;
    }
    to.sync_all()
}
