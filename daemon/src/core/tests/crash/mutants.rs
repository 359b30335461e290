//! The walks are walked by known mistakes: each is made on purpose, and the checker that passes
//! the product has to fail it. docs/testing.md lists them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use goumem_shm::records::RecordSlot;

use super::arenas::ArenaWorld;
use super::blocks::{BlockWorld, SIZE, Who, class_of};
use super::*;
use crate::pool::Pool;
use crate::session::Session;

use Who::{Alice, Bob};

/// Asserts that a checker fails, and why.
fn caught(saying: &str, checker: impl FnOnce()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(checker)) else {
        panic!("the mutant was not caught");
    };
    let why = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref().copied())
        .unwrap_or_default();
    assert!(why.contains(saying), "caught for another reason: {why}");
}

fn walk_of<W: World>(operation: &Operation<W>, dies: Dies) {
    operation.walk(dies, &mut Walked::default());
}

#[test]
fn adopt_with_the_flag_after_the_exchange() {
    let mutant = Operation {
        name: "adopt",
        before: |w: &mut BlockWorld| {
            w.populate();
            let handle = w.share(Bob);
            w.handles.push(handle);
        },
        operation: |w| {
            let (handle, alice) = (w.handles[0], w.client(Alice));
            let at = alice.memory.locate(handle).unwrap();
            let word = alice.memory.slot(&at);
            word.adopt(handle.generation(), alice.session()).unwrap();
            alice.memory.note(at.first_page).set_holds_adopted();
        },
    };
    caught("is of the dead", || walk_of(&mutant, Dies::Client));
}

#[test]
fn commit_store_before_the_fields() {
    let mutant = Operation {
        name: "keep",
        before: |w: &mut BlockWorld| {
            w.populate();
            // What the slot of the record table had before: another block, which is alive.
            let earlier = w.share(Alice);
            w.pin(Alice, earlier);
            w.unpin(Alice, earlier);
            let handle = w.share(Alice);
            w.handles.push(handle);
        },
        operation: |w| {
            let pool = w.daemon().block_pool(w.pool);
            let memory = pool.memory();
            let is_empty = |&index: &u32| memory.record(index).unwrap().load() == Ok(None);
            let index = (0..64).find(is_empty).unwrap();
            let handle = w.handles[0];
            let words = [(); 16].map(|()| goumem_shm::sync::AtomicU64::new(0));
            let record = goumem_shm::records::Record {
                kind: goumem_shm::records::RecordKind::Keep,
                session: goumem_alloc::SessionNumber::NOBODY,
                serial: 0,
                generation: handle.generation(),
                offset: handle.offset(),
                request_id: 0,
                uid: 1000,
                writable: true,
                replaces: None,
                done: false,
                name: String::new(),
            };
            RecordSlot::new(&words).unwrap().commit(&record);
            let offset = memory.geometry().record_offset(index);
            let slot = memory.control().atomic_slice_u64(offset, 16).unwrap();
            // In the order of the words, of which the first is the commit.
            for (to, from) in slot.iter().zip(&words) {
                to.store(from.load(Ordering::Relaxed), Ordering::Release);
            }
            let at = memory.locate(handle).unwrap();
            let alice = w.client(Alice).session();
            memory.slot(&at).keep(handle.generation(), alice).unwrap();
        },
    };
    caught("was not to be kept", || walk_of(&mutant, Dies::Daemon));
}

#[test]
fn arena_word_freed_before_its_cursor_is_reset() {
    let mutant = Operation {
        name: "give back",
        before: |w: &mut ArenaWorld| {
            w.populate();
            w.hold(Alice);
            w.alloc(Alice, 16);
        },
        operation: |w| {
            let (memory, arena) = (w.memory(Alice), w.arena());
            let index = memory.locate(arena).unwrap().index;
            let offset = memory.geometry().arena_slot_offset(index);
            let words = memory.data().atomic_slice_u64(offset, 2).unwrap();
            let next = arena.generation().next().unwrap();
            words[0].store(next.get() << 20, Ordering::Release);
            words[1].store(u64::from(next.low32()) << 32, Ordering::Relaxed);
        },
    };
    caught("is free and empty", || walk_of(&mutant, Dies::Client));
}

#[test]
fn pins_kept_in_memory_only() {
    let mut w = BlockWorld::new(Dies::Client);
    w.populate();
    let handle = w.share(Bob);
    let pool = w.daemon().block_pool(w.pool);
    pool.check_words(&[class_of(SIZE)]);
    pool.pin_in_memory_only(w.caller(Alice).session().unwrap(), handle);
    caught("record", || pool.check_words(&[class_of(SIZE)]));
}

#[test]
fn holders_kept_in_memory_only() {
    let mut w = ArenaWorld::new(Dies::Client);
    w.populate();
    w.hold(Alice);
    w.share(Alice);
    w.attach(Bob, Access::ReadWrite);
    let pool = w.daemon().arenas(w.pool);
    pool.check_words();
    pool.forget_holder_record(w.caller(Bob).session().unwrap());
    caught("each holder has one record", || pool.check_words());
}

/// Ends Alice's session by `sweep`, and has Bob adopt a block of hers just before each of its
/// writes in turn.
fn adopt_during(sweep: fn(&BlockWorld, &Arc<Session>)) {
    for n in 1.. {
        let mut w = BlockWorld::new(Dies::Client);
        w.populate();
        let handles = [(); 3].map(|()| w.share(Alice));
        let adopted = Rc::new(Cell::new(false));
        let (memory, bob) = (Arc::clone(&w.client(Bob).memory), w.client(Bob).session());
        let interloper = {
            let adopted = Rc::clone(&adopted);
            move || adopted.set(memory.adopt(handles[1], bob).is_ok())
        };
        let dead = Arc::clone(w.caller(Alice).session().unwrap());
        let ((), writes) = crash::count(|| {
            crash::interrupt(n, interloper);
            sweep(&w, &dead);
        });
        if adopted.get() {
            w.bystander(handles[1], false);
        }
        w.check_after_sweep();
        if n > writes.count {
            return;
        }
    }
}

#[test]
fn a_block_changes_hands_during_a_sweep_and_lives() {
    adopt_during(|w, dead| w.daemon().core.session_died(dead.serial, w.daemon().now));
}

#[test]
fn one_pass_sweep() {
    caught("is stale", || {
        adopt_during(|w, dead| {
            dead.mark_dead();
            w.daemon()
                .block_pool(w.pool)
                .sweep_in_one_pass(dead, w.daemon().now);
            w.daemon().core.sessions().forget(dead);
        });
    });
}

/// Ends Alice's session by `end`, and has another opened while its sweep is at it, when her number
/// would be next.
fn open_during(end: fn(&BlockWorld, &Arc<Session>)) {
    let mut w = BlockWorld::new(Dies::Client);
    w.populate();
    w.share(Alice);
    let dead = Arc::clone(w.caller(Alice).session().unwrap());
    let w = Rc::new(w);
    let remote = Caller {
        pidfd: None,
        session: None,
        ..w.caller(Bob).clone()
    };
    let open = |w: &BlockWorld, remote: &Caller| {
        let (sessions, now) = (w.daemon().core.sessions(), w.daemon().now);
        let request = OpenSession {
            label: Label::default(),
            nonce: None,
            ttl: Duration::from_secs(30),
        };
        sessions.open(remote, &request, now).unwrap().0
    };
    // Numbers are given out in turn.
    w.daemon().core.sessions().search_from(dead.number);
    let opened = Rc::new(Cell::new(None));
    let interloper = {
        let (opened, w) = (Rc::clone(&opened), Rc::clone(&w));
        move || opened.set(Some(open(&w, &remote).number))
    };
    crash::count(|| {
        // The first says in ROOT that she is dead; a row that is cleared too early is the second.
        crash::interrupt(3, interloper);
        end(&w, &dead);
    });
    let opened = opened.get().expect("a sweep writes");
    assert_ne!(
        opened, dead.number,
        "a number is taken until its sweep has ended"
    );
}

#[test]
fn a_session_opened_during_a_sweep_gets_another_number() {
    open_during(|w, dead| w.daemon().core.session_died(dead.serial, w.daemon().now));
}

#[test]
fn session_number_reused_before_the_sweep_ends() {
    caught("a number is taken until its sweep has ended", || {
        open_during(|w, dead| {
            dead.mark_dead();
            w.daemon().core.sessions().forget(dead);
            w.daemon().block_pool(w.pool).sweep(dead, w.daemon().now);
        });
    });
}

/// Makes a call for Alice that was queued when she died and was swept.
fn call_of_the_dead(call: fn(&Pool, &Caller, Handle, Instant)) {
    let mut w = BlockWorld::new(Dies::Client);
    w.populate();
    let handle = w.share(Bob);
    w.share(Alice);
    let (daemon, caller) = (w.daemon(), w.caller(Alice));
    let pool = daemon.block_pool(w.pool);
    daemon.die(caller);
    let before = pool.image(true);
    call(&pool, caller, handle, daemon.now);
    pool.check_words(&[class_of(SIZE)]);
    assert_eq!(pool.image(true), before, "the dead change nothing");
}

#[test]
fn queued_calls_of_a_dead_session_change_nothing() {
    const ID: RequestId = RequestId::NONE;
    let calls: &[fn(&Pool, &Caller, Handle, Instant)] = &[
        |pool, caller, _, now| {
            let spec = SpanSpec::Class(class_of(SIZE));
            let request = Lease {
                pool_id: pool.id,
                spec,
                count: 1,
                request_id: ID,
            };
            assert!(pool.lease(caller, &request, now).is_err());
        },
        |pool, caller, _, now| {
            let spec = BlockSpec::new(SIZE);
            let request = Alloc {
                pool_id: pool.id,
                spec,
                request_id: ID,
            };
            assert!(pool.alloc(caller, &request, now).is_err());
        },
        |pool, caller, handle, now| assert!(pool.free(of(caller), handle, ID, now).is_err()),
        |pool, caller, handle, now| assert!(pool.keep(of(caller), handle, ID, now).is_err()),
        |pool, caller, handle, now| assert!(pool.pin(of(caller), handle, ID, now).is_err()),
        |pool, caller, handle, now| assert!(pool.adopt(of(caller), handle, ID, now).is_err()),
        |pool, caller, handle, now| assert!(pool.take(of(caller), handle, ID, now).is_err()),
    ];
    for &call in calls {
        call_of_the_dead(call);
    }
}

/// The session, dead or alive.
fn of(caller: &Caller) -> &Session {
    caller.session.as_ref().unwrap()
}

#[test]
fn queued_call_of_a_dead_session_executed() {
    caught("is leased to the dead", || {
        call_of_the_dead(|pool, caller, _, now| {
            pool.lease_to_anybody(of(caller), class_of(SIZE), now);
        });
    });
}

/// Returns a span of Alice's, leases its pages again, and makes the first call once more.
fn return_twice(again: fn(&BlockWorld, SpanInfo)) {
    let mut w = BlockWorld::new(Dies::Client);
    w.populate();
    w.lease(Alice);
    let span = *w.spans.last().unwrap();
    assert!(w.alice().spans.pop().unwrap().detach().is_ok());
    w.daemon()
        .return_span(w.caller(Alice), w.pool, span)
        .unwrap();
    w.hold(Alice);
    assert_eq!(w.spans.last().unwrap().first_page, span.first_page);
    again(&w, span);
    w.check_leases();
    w.bury_repair_and_check();
}

#[test]
fn a_duplicate_return_is_refused() {
    return_twice(|w, span| {
        let again = w.daemon().return_span(w.caller(Alice), w.pool, span);
        assert_eq!(reason(again), Reason::StaleLease);
    });
}

#[test]
fn duplicate_return_accepted() {
    caught("works on a span that is not leased to it", || {
        return_twice(|w, span| {
            w.daemon()
                .block_pool(w.pool)
                .return_of_any_epoch(span.first_page);
        });
    });
}

/// Has Bob wait for an arena, and ends the session that holds all the others.
fn wait_for_the_dead(sweep: fn(&ArenaWorld, &Arc<Session>)) {
    let mut w = ArenaWorld::new(Dies::Client);
    w.populate();
    while w.memory(Alice).try_get(w.session(Alice), 0).is_some() {}
    w.wait(Bob);
    let dead = Arc::clone(w.caller(Alice).session().unwrap());
    sweep(&w, &dead);
    w.daemon().arenas(w.pool).check_words();
}

#[test]
fn waiters_are_woken_by_a_sweep() {
    wait_for_the_dead(|w, dead| w.daemon().core.session_died(dead.serial, w.daemon().now));
}

#[test]
fn waiters_not_woken_by_a_sweep() {
    caught("somebody waits beside arena", || {
        wait_for_the_dead(|w, dead| {
            dead.mark_dead();
            w.daemon().arenas(w.pool).sweep_without_waking(dead);
        });
    });
}
