//! ROOT, as the daemon uses it: ids that never repeat, and the rows of sessions. What it is to the
//! bit is in [`goumem_shm::root`].

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use goumem_alloc::{PoolId, SessionNumber};
use goumem_shm::SegmentRefusal;
use goumem_shm::os::{
    Access, Backing as _, BackingKind, MapPlan, Mapping, MemfdBacking, Segment, SegmentError,
    SegmentSpec,
};
use goumem_shm::root::{
    ROOT_BYTES, ROOT_HEADER_BYTES, ROW_BYTES, RootInfo, RootMemory, Row, row_start,
};

use crate::fd_store::{FdStore, StoredFd};

/// Why there is no ROOT to work with.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// What an earlier daemon left cannot be used, and is left as it is: clients may still map the
    /// pools that it speaks of.
    #[error(
        "what an earlier daemon left cannot be used; it is untouched, and given up by goumemd --drop"
    )]
    Refused(#[from] SegmentRefusal),
    /// The segment could not be made, looked at or committed.
    #[error("could not make or open the root table")]
    Segment(#[from] SegmentError),
    /// It could not be mapped or stored.
    #[error("could not {doing} the root table")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the OS said.
        source: std::io::Error,
    },
}

/// ROOT, mapped.
#[derive(Debug)]
pub(crate) struct Root {
    memory: RootMemory,
    segment: Arc<Segment>,
    info: RootInfo,
    /// Whose turn it is to take an id.
    ids: Mutex<()>,
}

impl Root {
    /// Makes a new one, and stores its fd.
    ///
    /// # Errors
    /// Any [`RootError`] but `Refused`.
    pub(crate) fn create(store: &dyn FdStore) -> Result<Self, RootError> {
        let segment = MemfdBacking.create(&SegmentSpec {
            len_bytes: ROOT_BYTES,
            label: "root",
            uid: 0,
            gid: 0,
            mode: 0o600,
            path_stem: None,
        })?;
        segment.commit(0..ROOT_HEADER_BYTES)?;
        let segment = Arc::new(segment);
        let memory = map(&segment)?;
        let os = |doing| move |source| RootError::Os { doing, source };
        store
            .store(StoredFd::Root.name(), Arc::clone(&segment) as _)
            .map_err(os("store"))?;
        let mut seed = [0; 24];
        getrandom::fill(&mut seed).map_err(|error| os("seed")(error.into()))?;
        let random = |at: usize| {
            let bytes = seed.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let info = RootInfo {
            instance: random(0),
            // Small enough to be read by people, and to be counted up for ever.
            epoch: (random(8) >> 40) + 1,
        };
        // Ids that a lost daemon gave away are not to be expected again; nor are its serials.
        let last_serial = random(8) & 0xffff_ffff;
        let last_pool_id = u32::try_from(random(16) >> 32).unwrap_or(0);
        memory.header().publish(info, last_pool_id, last_serial);
        Ok(Self::of(memory, segment, info))
    }

    /// Takes over what an earlier daemon left, as the next run. `None` if that daemon ended before
    /// it was there, when nothing had been promised to anybody.
    ///
    /// # Errors
    /// Any [`RootError`]. Nothing was changed then.
    pub(crate) fn take_over(fd: OwnedFd, store: &dyn FdStore) -> Result<Option<Self>, RootError> {
        let segment = Arc::new(Segment::reopen(fd, BackingKind::Memfd)?);
        if segment.len_bytes() < ROOT_BYTES {
            let (expected_bytes, found_bytes) = (ROOT_BYTES, segment.len_bytes());
            return Err(RootError::Refused(SegmentRefusal::Truncated {
                expected_bytes,
                found_bytes,
            }));
        }
        let memory = map(&segment)?;
        let mut info = match memory.header().load() {
            Ok(info) => info,
            Err(SegmentRefusal::NotReady { magic: 0 }) => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        info.epoch = info.epoch.wrapping_add(1).max(1);
        memory.header().set_epoch(info.epoch);
        store.took_over(StoredFd::Root.name(), Arc::clone(&segment) as _);
        Ok(Some(Self::of(memory, segment, info)))
    }

    fn of(memory: RootMemory, segment: Arc<Segment>, info: RootInfo) -> Self {
        Self {
            memory,
            segment,
            info,
            ids: Mutex::new(()),
        }
    }

    /// Returns which ROOT this is.
    pub(crate) fn instance(&self) -> u64 {
        self.info.instance
    }

    /// Returns which run of the daemon this is.
    pub(crate) fn epoch(&self) -> u64 {
        self.info.epoch
    }

    /// Takes a pool id that no pool has had.
    pub(crate) fn next_pool_id(&self) -> PoolId {
        let _turn = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        self.memory.header().next_pool_id()
    }

    /// Takes a serial that no session has had.
    pub(crate) fn next_serial(&self) -> u64 {
        let _turn = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let serial = self.memory.header().next_serial();
            if serial != 0 {
                return serial;
            }
        }
    }

    /// Backs the row of a session that is about to be opened.
    ///
    /// # Errors
    /// `NoSpace`.
    pub(crate) fn back_row(&self, number: SessionNumber) -> Result<(), SegmentError> {
        let start = row_start(number);
        self.segment.commit(start..start + ROW_BYTES)
    }

    /// Gives the memory of a row back, which empties it.
    pub(crate) fn purge_row(&self, number: SessionNumber) {
        let start = row_start(number);
        if let Err(error) = self.segment.purge(start..start + ROW_BYTES) {
            tracing::warn!(%error, session = %number, "could not purge a session's row");
        }
    }

    /// Returns the row of a session.
    pub(crate) fn row(&self, number: SessionNumber) -> Row<'_> {
        self.memory.row(number)
    }

    /// Returns the numbers whose rows may not be empty.
    ///
    /// # Errors
    /// What the OS says of the segment.
    pub(crate) fn written_rows(&self) -> std::io::Result<Vec<SessionNumber>> {
        let runs = self.segment.written(ROOT_HEADER_BYTES..ROOT_BYTES)?;
        let rows = runs.into_iter().flat_map(|run| {
            let first = (run.start - ROOT_HEADER_BYTES) / ROW_BYTES;
            first..(run.end - ROOT_HEADER_BYTES).div_ceil(ROW_BYTES)
        });
        let mut rows: Vec<u64> = rows.collect();
        rows.dedup();
        let numbers = rows
            .into_iter()
            .filter_map(|row| u16::try_from(row).ok().map(SessionNumber::new));
        Ok(numbers.collect())
    }
}

fn map(segment: &Segment) -> Result<RootMemory, RootError> {
    let mapping = Mapping::map(segment, Access::ReadWrite, MapPlan::whole(ROOT_BYTES));
    let mapping = mapping.map_err(|source| RootError::Os {
        doing: "map",
        source,
    })?;
    Ok(RootMemory::new(mapping)?)
}

#[cfg(test)]
impl Root {
    /// Makes it one of another layout.
    pub(crate) fn spoil_version(&self) {
        let mapping = Mapping::map(&self.segment, Access::ReadWrite, MapPlan::whole(4096)).unwrap();
        mapping.copy_in(12, &99u32.to_le_bytes()).unwrap();
    }
}
