//! The record table of a pool or an arena pool: which slots are in use, and what stands in them,
//! by offset and by name. CONTROL has the truth; this is how it is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use goumem_alloc::{MAX_RECORDS, Offset, RECORD_BYTES, SessionNumber};
use goumem_shm::records::{Record, RecordKind};

use crate::error::{Error, Table};

/// Where a record stands in CONTROL's table.
pub(crate) type RecordIndex = u32;

/// What is known of a record table.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Slots below `end` that are empty.
    free: BTreeSet<RecordIndex>,
    end: RecordIndex,
    all: BTreeMap<RecordIndex, Record>,
    by_offset: BTreeMap<Offset, BTreeSet<RecordIndex>>,
    by_name: HashMap<String, RecordIndex>,
    /// By their sessions.
    pins: BTreeSet<(SessionNumber, RecordIndex)>,
}

/// How many pins a pool has room for. Whoever may read a pool may pin: the rest of the table is
/// for those who may write it.
pub(crate) const MAX_PINS: usize = MAX_RECORDS as usize / 2;

impl Records {
    /// Returns the slot that the next record goes to.
    ///
    /// # Errors
    /// `TooMany`.
    pub(crate) fn next_index(&self) -> Result<RecordIndex, Error> {
        match self.free.first() {
            Some(&index) => Ok(index),
            None if self.end < MAX_RECORDS => Ok(self.end),
            None => Err(Error::TooMany {
                table: Table::Records,
                limit: MAX_RECORDS.into(),
            }),
        }
    }

    /// Notes a record that was committed at `index`.
    pub(crate) fn insert(&mut self, index: RecordIndex, record: Record) {
        while self.end <= index {
            self.free.insert(self.end);
            self.end += 1;
        }
        self.free.remove(&index);
        self.by_offset
            .entry(record.offset)
            .or_default()
            .insert(index);
        if record.kind == RecordKind::Pin {
            self.pins.insert((record.session, index));
        }
        if !record.name.is_empty() && record.kind == RecordKind::Keep {
            self.by_name.insert(record.name.clone(), index);
        }
        self.all.insert(index, record);
    }

    /// Notes that the word of the block at `index` has become what the keep says.
    pub(crate) fn finish_keep(&mut self, index: RecordIndex) {
        if let Some(record) = self.all.get_mut(&index) {
            record.done = true;
        }
    }

    /// Forgets the record at `index`, which was cleared.
    pub(crate) fn remove(&mut self, index: RecordIndex) -> Option<Record> {
        let record = self.all.remove(&index)?;
        self.free.insert(index);
        self.pins.remove(&(record.session, index));
        if let Some(indices) = self.by_offset.get_mut(&record.offset) {
            indices.remove(&index);
            if indices.is_empty() {
                self.by_offset.remove(&record.offset);
            }
        }
        if self.by_name.get(&record.name) == Some(&index) {
            self.by_name.remove(&record.name);
        }
        Some(record)
    }

    /// Returns the record at `index`.
    pub(crate) fn get(&self, index: RecordIndex) -> Option<&Record> {
        self.all.get(&index)
    }

    /// Returns the keep record with that name.
    pub(crate) fn named(&self, name: &str) -> Option<(RecordIndex, &Record)> {
        let &index = self.by_name.get(name)?;
        Some((index, self.all.get(&index)?))
    }

    /// Returns the records about what starts at `offset`.
    pub(crate) fn at(
        &self,
        offset: Offset,
        kind: RecordKind,
    ) -> impl Iterator<Item = (RecordIndex, &Record)> {
        self.by_offset
            .get(&offset)
            .into_iter()
            .flatten()
            .filter_map(|&index| Some((index, self.all.get(&index)?)))
            .filter(move |(_, record)| record.kind == kind)
    }

    /// Returns the records of a kind.
    pub(crate) fn of_kind(&self, kind: RecordKind) -> impl Iterator<Item = (RecordIndex, &Record)> {
        self.all
            .iter()
            .map(|(&index, record)| (index, record))
            .filter(move |(_, record)| record.kind == kind)
    }

    /// Returns how many pins there are.
    pub(crate) fn pin_count(&self) -> usize {
        self.pins.len()
    }

    /// Returns the session of each pin.
    pub(crate) fn pinners(&self) -> impl Iterator<Item = SessionNumber> {
        self.pins.iter().map(|&(session, _)| session)
    }

    /// Returns the pins of a session.
    pub(crate) fn pins_of(&self, session: SessionNumber) -> impl Iterator<Item = RecordIndex> {
        self.pins
            .range((session, 0)..=(session, RecordIndex::MAX))
            .map(|&(_, index)| index)
    }
}

/// Returns where record `index` lies, in a table that starts at `table`.
pub(crate) fn record_range(table: u64, index: RecordIndex) -> Range<u64> {
    let start = table + u64::from(index) * RECORD_BYTES;
    start..start + RECORD_BYTES
}
