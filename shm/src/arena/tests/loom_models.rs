//! The races on one arena's words. A loom cell stands for the bytes of an allocation.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;

mod mutants;

/// An arena whose two units of bytes loom watches, and the pool-wide flag.
struct Watched {
    arena: Arena,
    bytes: [UnsafeCell<u64>; 2],
    waiters: AtomicU64,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            arena: Arena::new(),
            bytes: [UnsafeCell::new(0), UnsafeCell::new(0)],
            waiters: AtomicU64::new(0),
        })
    }

    fn words(&self) -> ArenaWords<'_> {
        self.arena.words()
    }

    /// Writes to an allocation and reads it again: loom says if it is anybody else's too.
    fn use_bytes(&self, at: Units, value: u64) {
        let Some(cell) = self.bytes.get(at as usize) else {
            return;
        };
        // SAFETY: whether anybody else is there now is what loom checks.
        cell.with_mut(|bytes| unsafe { *bytes = value });
        // SAFETY: as above.
        cell.with(|bytes| assert_eq!(unsafe { *bytes }, value));
    }
}

#[test]
fn of_two_claims_one_has_the_arena() {
    loom::model(|| {
        let watched = Watched::new();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || watched.words().claim(ALICE).is_some())
        };
        let mine = watched.words().claim(BOB).is_some();
        let theirs = other.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(
            watched.words().load().owner(),
            if mine { BOB } else { ALICE }
        );
    });
}

#[test]
fn claimer_of_a_returned_arena_comes_after_everything_its_last_holder_did() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let claimer = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let words = watched.words();
                let Some(next) = words.claim(BOB) else { return };
                assert_eq!(alloc(words, next, 1), Ok(0));
                watched.use_bytes(0, 2);
            })
        };
        let start = alloc(watched.words(), life, 1).unwrap();
        watched.use_bytes(start, 1);
        assert_eq!(watched.words().give_back(life, ALICE), Ok(()));
        claimer.join().unwrap();
    });
}

#[test]
fn stale_bump_fails_or_belongs_to_its_own_life() {
    life_ends_beside_a_bump(give_back, alloc_one);
}

type GiveBack = fn(ArenaWords<'_>, Generation);
type AllocOne = fn(ArenaWords<'_>, Generation);

fn give_back(words: ArenaWords<'_>, life: Generation) {
    assert_eq!(words.give_back(life, ALICE), Ok(()));
}

fn alloc_one(words: ArenaWords<'_>, life: Generation) {
    // Refused once the life is over.
    let _ = alloc(words, life, 1);
}

/// Alice gives an arena back while another thread of hers allocates in it; Bob claims it.
fn life_ends_beside_a_bump(give_back: GiveBack, alloc_one: AllocOne) {
    loom::model(move || {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let stale = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                alloc_one(watched.words(), life);
            })
        };
        let claimer = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let words = watched.words();
                let Some(next) = words.claim(BOB) else { return };
                assert_eq!(alloc(words, next, 1), Ok(0));
                assert_eq!(words.used(next), 1, "the next life is its holder's alone");
            })
        };
        give_back(watched.words(), life);
        stale.join().unwrap();
        claimer.join().unwrap();
        let after = watched.words().load();
        if after.owner() == BOB {
            let used = watched.words().used(after.generation());
            assert_eq!(used, 1, "the next life is its holder's alone");
        }
    });
}

#[test]
fn arena_given_back_twice_at_once_has_one_next_holder() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || watched.words().give_back(life, ALICE).is_ok())
        };
        let claimers = [BOB, ALICE].map(|session| {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let words = watched.words();
                let Some(next) = words.claim(session) else {
                    return false;
                };
                assert_eq!(alloc(words, next, 1), Ok(0));
                watched.use_bytes(0, 1);
                assert_eq!(words.used(next), 1);
                true
            })
        });
        let mine = watched.words().give_back(life, ALICE).is_ok();
        assert!(mine != other.join().unwrap());
        let claimed = claimers.map(|claimer| claimer.join().unwrap());
        assert!(claimed != [true, true]);
    });
}

#[test]
fn two_bumps_of_a_shared_arena_do_not_overlap() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        watched.words().share(life, ALICE).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let start = watched.words().bump(life, 1, 1, LIMIT).unwrap();
                watched.use_bytes(start, 1);
                start
            })
        };
        let start = watched.words().bump(life, 1, 1, LIMIT).unwrap();
        watched.use_bytes(start, 2);
        assert_ne!(start, other.join().unwrap());
        assert_eq!(watched.words().used(life), 2);
    });
}

#[test]
fn arena_emptied_by_its_last_free_was_not_bumped_by_another_thread() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let first = alloc(watched.words(), life, 1).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let start = alloc(watched.words(), life, 1).unwrap();
                watched.use_bytes(start, 1);
            })
        };
        watched.use_bytes(first, 2);
        watched.words().free_newest(life, first, 1);
        let again = alloc(watched.words(), life, 1).unwrap();
        watched.use_bytes(again, 3);
        other.join().unwrap();
        assert!(watched.words().used(life) >= 2);
    });
}

#[test]
fn last_of_two_frees_at_once_empties_the_arena_after_both_have_done_with_it() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let [a, b] = [1, 1].map(|size| alloc(watched.words(), life, size).unwrap());
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                watched.use_bytes(a, 1);
                watched.words().free_newest(life, a, 1);
            })
        };
        watched.use_bytes(b, 2);
        watched.words().free_newest(life, b, 1);
        let c = alloc(watched.words(), life, 1).unwrap();
        watched.use_bytes(c, 3);
        watched.words().free_newest(life, c, 1);
        other.join().unwrap();
        assert_eq!(watched.words().used(life), 0);
    });
}

#[test]
fn reset_and_bump_of_one_holder_leave_the_new_life_empty_or_filled_from_its_start() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || alloc(watched.words(), life, 1).is_ok())
        };
        let raised = watched.words().reset(life, ALICE).unwrap();
        assert_eq!(alloc(watched.words(), raised, 1), Ok(0));
        other.join().unwrap();
        assert_eq!(watched.words().used(raised), 1);
    });
}

#[test]
fn sweep_and_claim_hand_the_arena_on_once() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || watched.words().claim(BOB))
        };
        assert!(watched.words().sweep(ALICE));
        let claimed = other.join().unwrap();
        assert!(claimed.is_none() || claimed == life.next());
        assert_eq!(watched.words().load().owner() == BOB, claimed.is_some());
    });
}

#[test]
fn returner_sees_the_waiter_or_the_waiter_sees_the_arena() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let returner = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                watched.words().give_back(life, ALICE).unwrap();
                WaitersFlag::new(&watched.waiters).is_set()
            })
        };
        WaitersFlag::new(&watched.waiters).set(true);
        let seen = watched.words().load().state() == Some(ArenaState::Free);
        let told = returner.join().unwrap();
        assert!(seen || told);
    });
}

#[test]
fn last_holder_of_a_named_arena_ends_it_for_a_bump_of_another() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        watched.words().share(life, ALICE).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || watched.words().bump(life, 1, 1, LIMIT).is_ok())
        };
        let claimer = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                let words = watched.words();
                let Some(next) = words.claim(BOB) else { return };
                assert_eq!(alloc(words, next, 1), Ok(0));
                watched.use_bytes(0, 2);
                assert_eq!(words.used(next), 1);
            })
        };
        assert_eq!(watched.words().release_named(life), Ok(()));
        other.join().unwrap();
        claimer.join().unwrap();
    });
}

#[test]
fn share_and_give_back_of_one_arena_have_one_winner() {
    loom::model(|| {
        let watched = Watched::new();
        let life = watched.words().claim(ALICE).unwrap();
        let other = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || watched.words().share(life, ALICE).is_ok())
        };
        let returned = watched.words().give_back(life, ALICE).is_ok();
        let shared = other.join().unwrap();
        assert!(shared != returned);
        let expected = if shared {
            ArenaState::Named
        } else {
            ArenaState::Free
        };
        assert_eq!(watched.words().load().state(), Some(expected));
    });
}
