//! A pool in private memory for tests of this crate, which are its daemon too.

use std::sync::Arc;

use goumem_alloc::{PageCount, PageIndex, PoolId, SessionNumber, SizeClass};
use goumem_shm::header::{Header, MadeBy, PoolKind, PoolState};
use goumem_shm::leased_span::SpanLease;
use goumem_shm::os::Mapping;
use goumem_shm::page_map::{PageEntry, SpanEpoch};
use goumem_shm::sync::{AtomicU64, Ordering};
use goumem_shm::{LeasedSpan, PoolMemory, pool_geometry};

/// The session to which everything is leased.
pub(crate) const ALICE: SessionNumber = SessionNumber::new(7);

/// A pool whose pages are leased from the first on, and never returned.
pub(crate) struct TestPool {
    pub(crate) memory: Arc<PoolMemory>,
    next_page: AtomicU64,
}

impl TestPool {
    pub(crate) fn new(n_pages: u32) -> Self {
        let geometry = pool_geometry(n_pages).unwrap();
        let header = Header {
            kind: PoolKind::Blocks,
            pool_id: PoolId::new(1).unwrap(),
            state: PoolState::Live,
            epoch: 1,
            units: n_pages,
            unit_bytes: PageCount::new(n_pages).bytes(),
            uid: 0,
            gid: 0,
            mode: 0o600,
            backing: 1,
            data_bytes: geometry.data_bytes(),
            instance: 0,
            made_by: MadeBy::default(),
            name: "test".to_owned(),
        };
        let control = Mapping::anonymous(geometry.control_bytes()).unwrap();
        let data = Mapping::anonymous(geometry.data_bytes()).unwrap();
        Self {
            memory: Arc::new(PoolMemory::create(control, data, &header).unwrap()),
            next_page: AtomicU64::new(0),
        }
    }

    pub(crate) fn lease(&self, class: SizeClass, pages: PageCount) -> LeasedSpan {
        let first = self
            .next_page
            .fetch_add(pages.get().into(), Ordering::Relaxed);
        let first_page = PageIndex::new(u32::try_from(first).unwrap());
        let epoch = SpanEpoch::ZERO;
        let head = PageEntry::Head {
            class,
            lessee: ALICE,
            epoch,
            pages,
        };
        self.memory.entry_word(first_page).unwrap().publish(head);
        for back in 1..pages.get() {
            let page = first_page.checked_add(PageCount::new(back)).unwrap();
            let back = PageCount::new(back);
            let interior = PageEntry::Interior { class, epoch, back };
            self.memory.entry_word(page).unwrap().publish(interior);
        }
        let lease = SpanLease {
            first_page,
            pages,
            class,
            epoch,
        };
        LeasedSpan::attach(&self.memory, lease, ALICE, true).unwrap()
    }
}
