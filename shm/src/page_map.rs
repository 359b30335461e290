//! The page-map entry: everything `resolve` needs to know of a 64 KiB page, in one `u64` of
//! CONTROL that only the daemon writes.
//!
//! ```text
//!  63 62 61     55 54  52 51        36 35       24 23               0
//! ┌─────┬─────────┬──────┬────────────┬───────────┬──────────────────┐
//! │state│ class:7 │flag:3│ lessee:16  │ epoch:12  │ pages:24         │
//! └─────┴─────────┴──────┴────────────┴───────────┴──────────────────┘
//! ```
//!
//! `pages` is the span's length in its HEAD entry and the way back to the head in an INTERIOR
//! one. The epoch counts the leases of a page, so that a Return for an earlier one is refused.

use goumem_alloc::{PageCount, PageIndex, SessionNumber, SizeClass};

use crate::sync::{AtomicU64, Ordering, load_acquire};

const STATE_SHIFT: u32 = 62;
const CLASS_SHIFT: u32 = 55;
const LESSEE_SHIFT: u32 = 36;
const EPOCH_SHIFT: u32 = 24;
const CLASS_MASK: u64 = 0x7f;
const LESSEE_MASK: u64 = 0xffff;
const EPOCH_MASK: u64 = 0xfff;
const PAGES_MASK: u64 = 0xff_ffff;
/// The state of a span's first page, and of its others.
const HEAD: u64 = 1;
const INTERIOR: u64 = 2;

/// Counts the leases of a page, modulo 2^12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanEpoch(u16);

impl SpanEpoch {
    /// The epoch of a page that was never granted.
    pub const ZERO: Self = Self(0);

    /// Returns the epoch numbered `value`, or `None` above 12 bits.
    pub fn new(value: u32) -> Option<Self> {
        u16::try_from(value)
            .ok()
            .filter(|&e| u64::from(e) <= EPOCH_MASK)
            .map(Self)
    }

    /// Returns the number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Returns the epoch of the next lease.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1) & 0xfff)
    }
}

/// One page-map entry, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageEntry {
    /// In no span; the epoch is that of its last lease.
    Free {
        /// The epoch of the last lease.
        epoch: SpanEpoch,
    },
    /// The first page of a span.
    Head {
        /// The class of the span's blocks.
        class: SizeClass,
        /// Who leases it; nobody when it is abandoned.
        lessee: SessionNumber,
        /// The epoch of this lease.
        epoch: SpanEpoch,
        /// The span's length.
        pages: PageCount,
    },
    /// A later page of a span.
    Interior {
        /// The class of the span's blocks.
        class: SizeClass,
        /// The way back to the head.
        back: PageCount,
        /// The epoch of the page's own last lease, kept while it is interior.
        epoch: SpanEpoch,
    },
    /// Withheld for good: its generations are spent or its words are not to be believed.
    Retired,
}

/// What the entries of a page and of its span's head say of where the page belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpanPlace {
    pub(crate) first: PageIndex,
    pub(crate) class: SizeClass,
    pub(crate) lessee: SessionNumber,
    pub(crate) pages: PageCount,
}

impl SpanPlace {
    /// Finds the span that `page` belongs to. `load` returns the bits of a page's entry, or `None`
    /// outside of the pool. It is what every look-up of a handle begins with: two loads at most,
    /// and no more of the entries taken apart than is needed.
    #[inline(always)]
    pub(crate) fn find(page: PageIndex, load: impl Fn(PageIndex) -> Option<u64>) -> Option<Self> {
        let bits = load(page)?;
        let (first, bits) = match bits >> STATE_SHIFT {
            HEAD => (page, bits),
            INTERIOR => {
                let back = PageCount::new(low_u32(bits & PAGES_MASK));
                let first = page.checked_sub(back)?;
                (first, load(first)?)
            }
            _ => return None,
        };
        let pages = PageCount::new(low_u32(bits & PAGES_MASK));
        let class = SizeClass::from_index(low_u8(bits >> CLASS_SHIFT & CLASS_MASK))?;
        let reached = page.get() - first.get() < pages.get();
        if bits >> STATE_SHIFT != HEAD || !reached {
            return None;
        }
        Some(Self {
            first,
            class,
            lessee: SessionNumber::new(low_u16(bits >> LESSEE_SHIFT & LESSEE_MASK)),
            pages,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to 24 bits by the callers"
)]
const fn low_u32(bits: u64) -> u32 {
    bits as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to 7 bits by the caller"
)]
const fn low_u8(bits: u64) -> u8 {
    bits as u8
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to 16 bits by the caller"
)]
const fn low_u16(bits: u64) -> u16 {
    bits as u16
}

impl PageEntry {
    /// Returns the entry's bits.
    pub fn to_bits(self) -> u64 {
        let class_bits = |class: SizeClass| u64::from(class.index()) << CLASS_SHIFT;
        match self {
            Self::Free { epoch } => u64::from(epoch.0) << EPOCH_SHIFT,
            Self::Head {
                class,
                lessee,
                epoch,
                pages,
            } => {
                HEAD << STATE_SHIFT
                    | class_bits(class)
                    | u64::from(lessee.get()) << LESSEE_SHIFT
                    | u64::from(epoch.0) << EPOCH_SHIFT
                    | u64::from(pages.get()) & PAGES_MASK
            }
            Self::Interior { class, back, epoch } => {
                INTERIOR << STATE_SHIFT
                    | class_bits(class)
                    | u64::from(epoch.0) << EPOCH_SHIFT
                    | u64::from(back.get()) & PAGES_MASK
            }
            Self::Retired => 3 << STATE_SHIFT,
        }
    }

    /// Returns the entry that the bits say, or `None` for bits that no daemon writes.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Option<Self> {
        let narrow = |shift: u32, mask: u64| u32::try_from(bits >> shift & mask).expect("masked");
        let class = || SizeClass::from_index(u8::try_from(narrow(CLASS_SHIFT, CLASS_MASK)).ok()?);
        let epoch = SpanEpoch(u16::try_from(narrow(EPOCH_SHIFT, EPOCH_MASK)).ok()?);
        let pages = PageCount::new(narrow(0, PAGES_MASK));
        Some(match bits >> STATE_SHIFT {
            0 => Self::Free { epoch },
            HEAD if pages.get() > 0 => Self::Head {
                class: class()?,
                lessee: SessionNumber::new(u16::try_from(narrow(LESSEE_SHIFT, LESSEE_MASK)).ok()?),
                epoch,
                pages,
            },
            INTERIOR if pages.get() > 0 => Self::Interior {
                class: class()?,
                back: pages,
                epoch,
            },
            3 => Self::Retired,
            _ => return None,
        })
    }
}

/// The shared word that holds a [`PageEntry`].
#[derive(Debug)]
#[repr(transparent)]
pub struct PageEntryWord(AtomicU64);

impl PageEntryWord {
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn from_atomic(word: &AtomicU64) -> &Self {
        // SAFETY:
        // - PageEntryWord is repr(transparent) over AtomicU64;
        // - the lifetime of the result is that of the argument.
        unsafe { &*std::ptr::from_ref(word).cast::<Self>() }
    }

    /// Returns the entry, or `None` for bits that no daemon writes.
    ///
    /// # Memory ordering
    /// Acquire: the span's initialised slot words are visible after.
    #[inline(always)]
    pub fn load(&self) -> Option<PageEntry> {
        // ORDERING: pairs with the Release store in `publish`.
        PageEntry::from_bits(load_acquire(&self.0))
    }

    /// As `load`, not taken apart.
    #[inline(always)]
    pub(crate) fn load_bits(&self) -> u64 {
        // ORDERING: pairs with the Release store in `publish`.
        load_acquire(&self.0)
    }

    /// Publishes the entry; a HEAD or FREE entry is the commit of a lease or a return.
    pub fn publish(&self, entry: PageEntry) {
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: one step. Interior entries and words without a head entry are a free page.
        self.0.store(entry.to_bits(), Ordering::Release);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_entry() -> impl Strategy<Value = PageEntry> {
        let classes: Vec<SizeClass> = SizeClass::all().collect();
        let fields = (
            prop::sample::select(classes),
            any::<u16>(),
            0..=0xfffu32,
            1..=0xff_ffffu32,
        );
        (0..4u8, fields).prop_map(|(state, (class, lessee, epoch, pages))| {
            let epoch = SpanEpoch::new(epoch).unwrap();
            let pages = PageCount::new(pages);
            match state {
                0 => PageEntry::Free { epoch },
                1 => PageEntry::Head {
                    class,
                    lessee: SessionNumber::new(lessee),
                    epoch,
                    pages,
                },
                2 => PageEntry::Interior {
                    class,
                    back: pages,
                    epoch,
                },
                _ => PageEntry::Retired,
            }
        })
    }

    proptest! {
        #[test]
        fn entry_is_taken_apart_as_it_was_put_together(entry in any_entry()) {
            prop_assert_eq!(PageEntry::from_bits(entry.to_bits()), Some(entry));
            let word = PageEntryWord(AtomicU64::new(0));
            word.publish(entry);
            prop_assert_eq!(word.load(), Some(entry));
        }

        #[test]
        fn any_bits_are_an_entry_or_nothing(bits: u64) {
            if let Some(entry) = PageEntry::from_bits(bits) {
                prop_assert_eq!(PageEntry::from_bits(entry.to_bits()), Some(entry));
            }
        }
    }

    #[test]
    fn zero_is_a_free_page_that_was_never_granted() {
        let never = PageEntry::Free {
            epoch: SpanEpoch::ZERO,
        };
        assert_eq!(PageEntry::from_bits(0), Some(never));
    }

    #[test]
    fn spans_without_pages_and_unknown_classes_are_nothing() {
        for state in [1, 2] {
            assert_eq!(PageEntry::from_bits(state << STATE_SHIFT), None);
            let unknown = state << STATE_SHIFT | 100 << CLASS_SHIFT | 1;
            assert_eq!(PageEntry::from_bits(unknown), None);
        }
    }

    #[test]
    fn epochs_count_to_4095_and_around() {
        assert_eq!(SpanEpoch::new(4096), None);
        let last = SpanEpoch::new(4095).unwrap();
        assert_eq!(last.next(), SpanEpoch::ZERO);
        assert_eq!(SpanEpoch::ZERO.next().get(), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_models;
