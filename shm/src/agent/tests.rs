use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// A flag that somebody waits for, with a deadline.
fn wait_for(flag: &AtomicBool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !flag.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "nothing happened");
        thread::yield_now();
    }
}

#[test]
fn only_the_owner_enters_and_only_while_nobody_claims() {
    let agent = Agent::leak(0u32);
    assert!(agent.enter().is_none(), "it has no owner");
    assert!(agent.own());
    assert!(!agent.own(), "it has one");
    *agent.enter().unwrap().split().0 += 1;
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(agent.enter().is_none(), "not its owner");
            assert!(!agent.own());
        });
    });
    let mut claim = agent.claim();
    assert!(agent.enter().is_none(), "claimed");
    assert_eq!(*claim.split().0, 1);
    drop(claim);
    assert!(agent.enter().is_some());
}

#[test]
fn a_turn_in_a_turn_is_refused() {
    let agent = Agent::leak(());
    assert!(agent.own());
    let turn = agent.enter().unwrap();
    assert!(agent.enter().is_none());
    drop(turn);
    assert!(agent.enter().is_some());
}

#[test]
#[should_panic(expected = "a turn in a turn")]
fn claiming_in_ones_own_turn_is_a_panic_and_no_deadlock() {
    let agent = Agent::leak(());
    assert!(agent.own());
    let _turn = agent.enter().unwrap();
    drop(agent.claim());
}

#[test]
fn agent_of_an_ended_thread_is_claimed_and_owned_again() {
    let agent = Agent::leak(vec![1]);
    thread::spawn(move || {
        assert!(agent.own());
        agent.enter().unwrap().split().0.push(2);
        agent.claim().disown();
        assert!(agent.enter().is_none());
    })
    .join()
    .unwrap();
    assert!(!agent.has_owner());
    agent.claim().split().0.push(3);
    assert!(agent.own());
    assert_eq!(*agent.enter().unwrap().split().0, [1, 2, 3]);
}

#[test]
fn others_disown_nothing() {
    let agent = Agent::leak(());
    assert!(agent.own());
    thread::scope(|scope| {
        scope.spawn(|| agent.claim().disown());
    });
    assert!(agent.has_owner());
}

#[test]
fn a_claim_waits_for_the_turn_and_the_owner_for_the_claim() {
    let agent = Agent::leak(0u32);
    let in_turn = Arc::new(AtomicBool::new(false));
    let claiming = Arc::new(AtomicBool::new(false));
    let owner = {
        let (in_turn, claiming) = (Arc::clone(&in_turn), Arc::clone(&claiming));
        thread::spawn(move || {
            assert!(agent.own());
            let mut turn = agent.enter().unwrap();
            in_turn.store(true, Ordering::SeqCst);
            wait_for(&claiming);
            *turn.split().0 = 1;
        })
    };
    wait_for(&in_turn);
    claiming.store(true, Ordering::SeqCst);
    assert_eq!(*agent.claim().split().0, 1, "the turn was waited for");
    owner.join().unwrap();
}

/// Two hundred thousand turns of an owner against claims of two others, on a plain counter.
#[test]
fn no_turn_is_lost_between_an_owner_and_those_who_claim() {
    const TURNS: usize = 200_000;
    let agent = Agent::leak(0usize);
    let done = AtomicBool::new(false);
    let claims = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    *agent.claim().split().0 += 1;
                    claims.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            });
        }
        assert!(agent.own());
        let mut turns = 0;
        while turns < TURNS {
            if let Some(mut turn) = agent.enter() {
                *turn.split().0 += 1;
                turns += 1;
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    let total = *agent.claim().split().0;
    assert_eq!(total, TURNS + claims.load(Ordering::SeqCst));
}
