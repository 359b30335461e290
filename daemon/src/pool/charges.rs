//! Whose quota pays for which block, where no lessee pays for the whole span. Every block that is
//! allocated or freed by RPC comes past here, so there is a row of cells for each page, and no
//! tree of blocks.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::ops::Range;

use goumem_alloc::{GRAIN_BYTES, Offset, PAGE_BYTES};

/// What a block costs, and whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) uid: u32,
    /// What the block takes of the pool: as much as every other block of its span.
    pub(crate) bytes: u64,
}

/// Charges, by the offsets of their blocks.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    /// By page, counted from the start of DATA. A row stays until its span is taken back.
    rows: BTreeMap<u64, Row>,
}

/// The charges for the blocks that start on one page. They are of one span, so of one size, and
/// no two of them start less than that apart.
#[derive(Debug)]
struct Row {
    bytes: u64,
    /// By start of the block on the page / `bytes`.
    cells: Box<[Option<Payer>]>,
}

#[derive(Debug, Clone, Copy)]
struct Payer {
    uid: u32,
    /// Where the block starts on the page, in grains, plus 1.
    start: NonZeroU16,
}

const _: () = assert!(size_of::<Option<Payer>>() == 8);

impl Charges {
    /// Charges a block, in place of what stood for it.
    pub(crate) fn insert(&mut self, offset: Offset, charge: Charge) -> Option<Charge> {
        let (page, start_bytes) = place(offset);
        let row = self
            .rows
            .entry(page)
            .or_insert_with(|| Row::new(charge.bytes));
        debug_assert_eq!(row.bytes, charge.bytes, "blocks of a span are of one size");
        let payer = Payer {
            uid: charge.uid,
            start: start(start_bytes),
        };
        let before = row.cell(start_bytes)?.replace(payer)?;
        Some(Charge {
            uid: before.uid,
            bytes: row.bytes,
        })
    }

    /// Takes back the charge for a block.
    pub(crate) fn remove(&mut self, offset: Offset) -> Option<Charge> {
        let (page, start_bytes) = place(offset);
        let row = self.rows.get_mut(&page)?;
        let payer = row.cell(start_bytes)?.take()?;
        Some(Charge {
            uid: payer.uid,
            bytes: row.bytes,
        })
    }

    /// Takes back all charges for the blocks of a span.
    pub(crate) fn remove_span(&mut self, span: Range<Offset>) -> Vec<Charge> {
        let pages = place(span.start).0..place(span.end).0;
        let pages: Vec<u64> = self.rows.range(pages).map(|(&page, _)| page).collect();
        let rows = pages.iter().filter_map(|page| self.rows.remove(page));
        rows.flat_map(|row| row.charges().collect::<Vec<_>>())
            .collect()
    }

    /// Returns the charge for a block.
    pub(crate) fn get(&self, offset: Offset) -> Option<Charge> {
        let (page, start_bytes) = place(offset);
        let row = self.rows.get(&page)?;
        let payer = row
            .index(start_bytes)
            .and_then(|index| row.cells.get(index))
            .copied()??;
        Some(Charge {
            uid: payer.uid,
            bytes: row.bytes,
        })
    }

    /// Returns the blocks that are charged, in order.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = Offset> {
        self.rows.iter().flat_map(|(&page, row)| {
            let payers = row.cells.iter().flatten();
            payers.map(move |payer| {
                Offset::new(page * PAGE_BYTES + u64::from(payer.start.get() - 1) * GRAIN_BYTES)
            })
        })
    }

    /// Takes back every charge.
    pub(crate) fn drain(&mut self) -> Vec<Charge> {
        let rows = std::mem::take(&mut self.rows);
        rows.values().flat_map(Row::charges).collect()
    }
}

impl Row {
    fn new(bytes: u64) -> Self {
        let n_cells = usize::try_from(PAGE_BYTES.div_ceil(bytes.max(GRAIN_BYTES)));
        let n_cells = n_cells.expect("a page has 4096 grains");
        Self {
            bytes,
            cells: vec![None; n_cells].into(),
        }
    }

    fn cell(&mut self, start_bytes: u64) -> Option<&mut Option<Payer>> {
        let index = self.index(start_bytes)?;
        self.cells.get_mut(index)
    }

    fn index(&self, start_bytes: u64) -> Option<usize> {
        usize::try_from(start_bytes.checked_div(self.bytes)?).ok()
    }

    fn charges(&self) -> impl Iterator<Item = Charge> {
        self.cells.iter().flatten().map(|payer| Charge {
            uid: payer.uid,
            bytes: self.bytes,
        })
    }
}

/// Returns the page of a block, and where on it the block starts.
fn place(offset: Offset) -> (u64, u64) {
    (offset.get() / PAGE_BYTES, offset.get() % PAGE_BYTES)
}

fn start(start_bytes: u64) -> NonZeroU16 {
    let grains = u16::try_from(start_bytes / GRAIN_BYTES).ok();
    grains
        .and_then(|grains| NonZeroU16::MIN.checked_add(grains))
        .expect("a page has 4096 grains")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 5 * PAGE_BYTES;

    fn at(in_span: u64) -> Offset {
        Offset::new(SPAN + in_span)
    }

    #[test]
    fn each_block_of_a_span_has_its_own_charge_wherever_it_starts() {
        // Strides that divide no page, so that blocks straddle pages; 16 bytes; above a page; and
        // a coloured one.
        for (stride, colour, pages) in [(16, 0, 1), (80, 0, 5), (20_480, 128, 5), (81_920, 0, 5)] {
            let mut charges = Charges::default();
            let starts: Vec<u64> = (0..pages * PAGE_BYTES / stride)
                .map(|slot| slot * stride + colour)
                .collect();
            for (uid, &start) in (0..).zip(&starts) {
                assert_eq!(
                    charges.insert(at(start), Charge { uid, bytes: stride }),
                    None
                );
            }
            assert!(
                charges.offsets().eq(starts.iter().map(|&start| at(start))),
                "{stride}"
            );
            for (uid, &start) in (0..).zip(&starts) {
                assert!(charges.get(at(start)).is_some());
                assert_eq!(
                    charges.remove(at(start)),
                    Some(Charge { uid, bytes: stride })
                );
                assert_eq!(charges.remove(at(start)), None);
                assert!(charges.get(at(start)).is_none());
            }
        }
    }

    #[test]
    fn a_span_that_is_taken_back_leaves_room_for_another_size() {
        let mut charges = Charges::default();
        let (small, large) = (
            Charge {
                uid: u32::MAX,
                bytes: 64,
            },
            Charge {
                uid: 7,
                bytes: 4096,
            },
        );
        charges.insert(at(64), small);
        charges.insert(at(PAGE_BYTES), small);
        charges.insert(at(3 * PAGE_BYTES), large);
        assert_eq!(
            charges.insert(at(64), Charge { uid: 1, ..small }),
            Some(small)
        );
        assert_eq!(charges.remove_span(at(0)..at(2 * PAGE_BYTES)).len(), 2);
        assert_eq!(charges.insert(at(0), large), None);
        assert_eq!(charges.drain(), [large, large]);
        assert_eq!(charges.offsets().count(), 0);
    }
}
