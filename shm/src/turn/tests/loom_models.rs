//! The owner and the others exclude each other. Under loom both fences are SeqCst ones, which is
//! what the pair of a light and a heavy one amounts to (`membarrier(2)`, "as if").

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::turn::TurnFlags;

struct Heap {
    flags: TurnFlags,
    others: Mutex<()>,
    spans: UnsafeCell<u32>,
}

impl Heap {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            flags: TurnFlags::new(true),
            others: Mutex::new(()),
            spans: UnsafeCell::new(0),
        })
    }

    fn touch(&self) {
        // SAFETY: whether anybody else is there now is what loom checks.
        self.spans.with_mut(|spans| unsafe { *spans += 1 });
    }

    /// A turn of the owner's; returns whether it had it.
    fn owner_turn(&self) -> bool {
        let begun = self.flags.begin();
        if begun {
            self.touch();
            self.flags.end();
        }
        begun
    }

    fn other_turn(&self) {
        let _one_at_a_time = self.others.lock().unwrap();
        self.flags.claim(true);
        while !self.flags.owner_is_out() {
            thread::yield_now();
        }
        self.touch();
        self.flags.unclaim();
    }

    fn count(&self) -> u32 {
        // SAFETY: every other thread has ended.
        self.spans.with(|spans| unsafe { *spans })
    }
}

#[test]
fn owner_and_another_are_never_in_together() {
    loom::model(|| {
        let heap = Heap::new();
        let other = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || heap.other_turn())
        };
        let n = u32::from(heap.owner_turn()) + u32::from(heap.owner_turn());
        other.join().unwrap();
        assert_eq!(heap.count(), n + 1);
        assert!(heap.owner_turn(), "nobody claims it any more");
    });
}

#[test]
fn two_others_and_the_owner_are_never_in_together() {
    loom::model(|| {
        let heap = Heap::new();
        let others = [(); 2].map(|()| {
            let heap = Arc::clone(&heap);
            thread::spawn(move || heap.other_turn())
        });
        let n = u32::from(heap.owner_turn());
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(heap.count(), n + 2);
    });
}
