//! Who may act as the agent of a set of spans: the thread that owns an [`Agent`], in a turn of its
//! own, or whoever claims the agent meanwhile. A turn costs its owner two plain stores
//! (`turn.rs`); so a thread frees its own blocks without an atomic instruction.
//!
//! An agent carries the heap of its spans, `H`, of which this crate knows nothing. Blocks find
//! their agent through their span's record: see `RawBlock::drop`.

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use goumem_alloc::SizeClass;

use crate::os::membarrier;
use crate::raw_block::RawBlock;
use crate::recent::{FreedBlock, Recent};
use crate::sync::{AtomicU64, Ordering};
use crate::turn::TurnFlags;

/// Looks at the owner's flag before the processor is given to it. A turn takes some nanoseconds;
/// if it is not over by then, its thread is not running.
const SPINS: u32 = 100;
/// After that, what an interrupted thread is waited for at a time.
const PAUSE: Duration = Duration::from_micros(50);
/// Class indices have seven bits.
const N_CLASSES: usize = 128;
/// An owner that is none.
const NOBODY: u64 = u64::MAX;

thread_local! {
    /// A number that this thread alone has, of all that there ever are; 0 before it owns anything.
    static TOKEN: Cell<u64> = const { Cell::new(0) };
}
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// The agent of the spans in a heap `H`.
///
/// # Invariants
/// `heap`, the core's `woken` and `recent`, and the free slots of all spans that are bound to the core, are
/// reached only by whoever has the turn.
#[repr(C)]
pub struct Agent<H> {
    core: AgentCore,
    heap: UnsafeCell<H>,
}

// SAFETY: the heap is reached by one thread at a time (invariant), with happens-before from turn
// to turn (`TurnFlags`, and the mutex for those who claim); so it need only be Send.
unsafe impl<H: Send> Sync for Agent<H> {}

/// What the record of a bound span points to. Agents live for ever, so the pointer is good.
#[repr(align(128))]
pub(crate) struct AgentCore {
    owner: AtomicU64,
    flags: TurnFlags,
    others: Mutex<()>,
    /// Keys of spans that were set aside as full, and are not full any more.
    woken: UnsafeCell<Vec<u64>>,
    /// How many spans are bound. Each is in `woken` once at most.
    bound: Cell<usize>,
    /// By class index. The blocks' records are of spans that are bound here.
    recent: UnsafeCell<[Recent; N_CLASSES]>,
}

// SAFETY: `woken`, `bound` and `recent` are reached only in a turn (invariant of `Agent`).
unsafe impl Sync for AgentCore {}
// SAFETY: what `recent` points to is Send + Sync, and everything else is Send.
unsafe impl Send for AgentCore {}

/// The proof that it is the caller's turn at an agent. It stays on its thread.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    core: &'a AgentCore,
    stays_here: PhantomData<*const ()>,
}

/// The owner's turn; ends when dropped.
pub struct Turn<'a, H> {
    agent: &'a Agent<H>,
    stays_here: PhantomData<*const ()>,
}

/// Somebody's turn who claimed it; ends when dropped.
pub struct Claim<'a, H> {
    agent: &'a Agent<H>,
    _others: MutexGuard<'a, ()>,
}

impl<H: Send> Agent<H> {
    /// Makes an agent without an owner. It lives for ever: blocks, and threads that end, may point
    /// at it whenever they like. Use it again.
    pub fn leak(heap: H) -> &'static Self {
        let owner_has_turns = membarrier::register();
        Box::leak(Box::new(Self {
            core: AgentCore {
                owner: AtomicU64::new(NOBODY),
                flags: TurnFlags::new(owner_has_turns),
                others: Mutex::new(()),
                woken: UnsafeCell::new(Vec::new()),
                bound: Cell::new(0),
                recent: UnsafeCell::new([Recent::NONE; N_CLASSES]),
            },
            heap: UnsafeCell::new(heap),
        }))
    }

    /// Makes the calling thread the owner, if there is none. Returns whether it did.
    pub fn own(&self) -> bool {
        let _one_at_a_time = self.core.lock_others();
        // ORDERING: Relaxed; owners change under the mutex.
        let free = self.core.owner.load(Ordering::Relaxed) == NOBODY;
        if free {
            self.core.owner.store(own_token(), Ordering::Relaxed);
        }
        free
    }

    /// Returns whether a thread owns it.
    pub fn has_owner(&self) -> bool {
        self.core.has_owner()
    }

    /// Begins a turn of the owner. `None` if the calling thread is not the owner, is in a turn
    /// already, or somebody has claimed it.
    #[inline]
    pub fn enter(&self) -> Option<Turn<'_, H>> {
        if self.core.is_mine() && self.core.flags.begin() {
            let stays_here = PhantomData;
            Some(Turn {
                agent: self,
                stays_here,
            })
        } else {
            None
        }
    }

    /// Takes the turn, whoever the owner is: waits until nobody else has it.
    ///
    /// # Panics
    /// In the owner's own turn: it would wait for itself.
    pub fn claim(&self) -> Claim<'_, H> {
        let mine = self.core.is_mine();
        assert!(!(mine && self.core.flags.is_busy()), "a turn in a turn");
        let others = self.core.lock_others();
        self.core.flags.claim(self.has_owner() && !mine);
        let mut spins = 0;
        while !self.core.flags.owner_is_out() {
            spins += 1;
            if spins < SPINS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
        Claim {
            agent: self,
            _others: others,
        }
    }
}

impl AgentCore {
    /// Begins a turn if the calling thread is the owner and can have one.
    #[inline]
    pub(crate) fn begin_if_mine(&self) -> bool {
        self.is_mine() && self.flags.begin()
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.flags.end();
    }

    #[inline]
    fn is_mine(&self) -> bool {
        // ORDERING: Relaxed. Only this thread writes its own number there, and takes it away.
        TOKEN.get() == self.owner.load(Ordering::Relaxed)
    }

    fn has_owner(&self) -> bool {
        self.owner.load(Ordering::Relaxed) != NOBODY
    }

    fn lock_others(&self) -> MutexGuard<'_, ()> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a block that was freed for the next alloc of its class.
    ///
    /// # Safety
    /// The caller has the turn, and the block is a free one of a span that is bound here, in no
    /// bitmap.
    #[inline]
    pub(crate) unsafe fn keep_recent(&self, class: usize, block: FreedBlock) {
        // SAFETY: the caller has the turn, so this is the only reference.
        let recent = unsafe { &mut *self.recent.get() };
        if let Some(recent) = recent.get_mut(class)
            && !recent.push(block)
        {
            // SAFETY: as this function's.
            unsafe { self.spill(recent, block) };
        }
    }

    /// Makes room among the recent blocks of a class, and keeps one more.
    ///
    /// # Safety
    /// As `keep_recent`.
    #[cold]
    unsafe fn spill(&self, recent: &mut Recent, block: FreedBlock) {
        for older in recent.take_older_half() {
            // SAFETY: the record of a bound span with a block here is alive.
            let record = unsafe { older.record.as_ref() };
            // SAFETY: the caller has the turn, and the block was kept here as a free one.
            unsafe { record.give_bit(self, older.pointer) };
        }
        recent.push(block);
    }

    /// Notes that a span which was set aside has a free slot.
    ///
    /// # Safety
    /// The caller has the turn.
    #[cold]
    pub(crate) unsafe fn wake(&self, key: u64) {
        // SAFETY: the caller has the turn, so this is the only reference.
        let woken = unsafe { &mut *self.woken.get() };
        // Room was made when the span was bound: a free does not allocate.
        woken.push(key);
    }
}

impl<'a> Right<'a> {
    /// Takes the block of a class that was freed last, if it is still at hand.
    #[inline]
    pub fn take_recent(self, class: SizeClass) -> Option<RawBlock> {
        // SAFETY: it is the caller's turn (what a Right proves), so this is the only reference.
        let recent = unsafe { &mut *self.core.recent.get() };
        let block = recent.get_mut(usize::from(class.index()))?.pop()?;
        // SAFETY: the parts of a block that was freed, put together once: it is popped.
        Some(unsafe { RawBlock::from_parts(block.pointer, block.record) })
    }

    /// Gives the recently freed blocks of a class back to their spans.
    pub(crate) fn flush_recent(self, class: SizeClass) {
        // SAFETY: as in `take_recent`.
        let recent = unsafe { &mut *self.core.recent.get() };
        let Some(recent) = recent.get_mut(usize::from(class.index())) else {
            return;
        };
        for block in recent.take_all() {
            // SAFETY: the record of a bound span with a block here is alive.
            let record = unsafe { block.record.as_ref() };
            // SAFETY: it is the caller's turn, and the block was kept as a free one.
            unsafe { record.give_bit(self.core, block.pointer) };
        }
    }

    #[inline]
    pub(crate) fn core(self) -> &'a AgentCore {
        self.core
    }

    /// Moves the keys of spans that were set aside and have a free slot again to the end of
    /// `keys`.
    pub fn take_woken(self, keys: &mut Vec<u64>) {
        // SAFETY: it is the caller's turn (what a Right proves), so this is the only reference.
        let woken = unsafe { &mut *self.core.woken.get() };
        keys.append(woken);
    }

    /// Makes room for one more span.
    pub(crate) fn count_bound(self) {
        let bound = self.core.bound.get() + 1;
        self.core.bound.set(bound);
        // SAFETY: as in `take_woken`.
        let woken = unsafe { &mut *self.core.woken.get() };
        woken.reserve(bound.saturating_sub(woken.len()));
    }

    /// Forgets a span, which may have been woken.
    pub(crate) fn count_unbound(self, key: u64) {
        self.core.bound.set(self.core.bound.get() - 1);
        // SAFETY: as in `take_woken`.
        let woken = unsafe { &mut *self.core.woken.get() };
        woken.retain(|&woken| woken != key);
    }
}

impl<H> Turn<'_, H> {
    /// Returns the heap, and the proof that it is the caller's to work on.
    #[inline]
    pub fn split(&mut self) -> (&mut H, Right<'_>) {
        self.agent.split()
    }
}

impl<H> Claim<'_, H> {
    /// Ends the ownership of the calling thread, if it has it: from now on, turns are claimed.
    pub fn disown(&self) {
        if self.agent.core.is_mine() {
            self.agent.core.owner.store(NOBODY, Ordering::Relaxed);
        }
    }

    /// Returns whether a thread owns it. That stays so during this turn.
    pub fn has_owner(&self) -> bool {
        self.agent.core.has_owner()
    }

    /// Returns the heap, and the proof that it is the caller's to work on.
    pub fn split(&mut self) -> (&mut H, Right<'_>) {
        self.agent.split()
    }
}

impl<H> Agent<H> {
    /// For whoever has the turn, by `&mut` of its guard.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the callers have the turn mutably")]
    fn split(&self) -> (&mut H, Right<'_>) {
        // SAFETY: the callers borrow a Turn or Claim mutably for as long as both results live,
        // and there is one of these at a time.
        let heap = unsafe { &mut *self.heap.get() };
        let stays_here = PhantomData;
        let core = &self.core;
        (heap, Right { core, stays_here })
    }
}

impl<H> Drop for Turn<'_, H> {
    #[inline]
    fn drop(&mut self) {
        self.agent.core.flags.end();
    }
}

impl<H> Drop for Claim<'_, H> {
    fn drop(&mut self) {
        self.agent.core.flags.unclaim();
    }
}

/// Has the calling thread own nothing: the one thread of a forked child is not the one whose
/// number it inherited.
pub(crate) fn forget_token() {
    TOKEN.set(0);
}

/// Returns the calling thread's number.
fn own_token() -> u64 {
    if TOKEN.get() == 0 {
        TOKEN.set(NEXT_TOKEN.fetch_add(1, Ordering::Relaxed));
    }
    TOKEN.get()
}

impl<H> fmt::Debug for Agent<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("owner", &self.core.owner)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Right<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Right")
    }
}

impl<H> fmt::Debug for Turn<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

impl<H> fmt::Debug for Claim<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

#[cfg(test)]
mod tests;
