//! The races of a private holder: with others of its session, with the sweep, with the next life.

use loom::sync::Arc;
use loom::thread;

use super::*;

const BOB: SessionNumber = SessionNumber::new(8);

/// Two units, so that a reservation takes both and a trim gives one back.
const SMALL_BYTES: u64 = 32;

#[test]
fn holder_and_others_of_its_session_never_get_the_same_bytes() {
    loom::model(|| {
        let arena = Arc::new(Arena::new());
        let other = {
            let arena = Arc::clone(&arena);
            thread::spawn(move || arena.alloc_by_rpc(1))
        };
        let bump = PrivateBump::new(0, LIMIT_BYTES);
        let first = alloc(&bump, &arena, 16).unwrap();
        bump.trim(arena.words(), Generation::ZERO);
        let second = alloc(&bump, &arena, 16).unwrap();
        let theirs = u64::from(other.join().unwrap().unwrap()) * GRAIN_BYTES;
        assert!(first != second && first != theirs && second != theirs);
        let used_bytes = u64::from(arena.words().used(Generation::ZERO)) * GRAIN_BYTES;
        assert!(used_bytes > first.max(second).max(theirs));
    });
}

#[test]
fn free_of_the_last_by_others_of_the_session_does_not_empty_the_arena_under_the_holder() {
    loom::model(|| {
        let arena = Arc::new(Arena::new());
        let theirs = arena.alloc_by_rpc(1).unwrap();
        let other = {
            let arena = Arc::clone(&arena);
            thread::spawn(move || {
                let words = arena.words();
                words.free_newest(Generation::ZERO, theirs, 1);
                arena.alloc_by_rpc(1)
            })
        };
        let bump = PrivateBump::new(1, LIMIT_BYTES);
        let mine = alloc(&bump, &arena, 16).unwrap();
        let theirs = other.join().unwrap().unwrap();
        assert!(u64::from(theirs) * GRAIN_BYTES != mine);
    });
}

#[test]
fn reservation_or_trim_of_an_ended_life_leaves_the_next_ones_cursor_alone() {
    for trims in [false, true] {
        loom::model(move || {
            let arena = Arc::new(Arena::new());
            let bump = PrivateBump::new(0, SMALL_BYTES);
            if trims {
                alloc(&bump, &arena, 16).unwrap();
            }
            let daemon = {
                let arena = Arc::clone(&arena);
                thread::spawn(move || {
                    let words = arena.words();
                    assert!(words.sweep(ALICE));
                    let next = words.claim(BOB).unwrap();
                    assert_eq!(words.bump(next, 1, 1, 2), Ok(0));
                    assert_eq!(words.used(next), 1);
                    next
                })
            };
            if trims {
                bump.trim(arena.words(), Generation::ZERO);
            } else {
                let start = alloc(&bump, &arena, 16);
                assert!(matches!(start, Ok(0) | Err(ReserveRefusal::Stale)));
            }
            let next = daemon.join().unwrap();
            assert_eq!(arena.words().used(next), 1);
        });
    }
}

#[test]
fn bumps_by_name_begin_behind_what_was_allocated_alone() {
    loom::model(|| {
        let arena = Arc::new(Arena::new());
        let bump = PrivateBump::new(0, LIMIT_BYTES);
        let mine = alloc(&bump, &arena, 16).unwrap();
        let other = {
            let arena = Arc::clone(&arena);
            thread::spawn(move || {
                let words = arena.words();
                let named = words.load().state() == Some(crate::arena::ArenaState::Named);
                named.then(|| words.bump(Generation::ZERO, 1, 1, LIMIT).unwrap())
            })
        };
        bump.trim(arena.words(), Generation::ZERO);
        arena.words().share(Generation::ZERO, ALICE).unwrap();
        if let Some(theirs) = other.join().unwrap() {
            assert_eq!(u64::from(theirs) * GRAIN_BYTES, mine + 16);
        }
    });
}
