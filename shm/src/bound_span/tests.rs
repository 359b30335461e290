use std::thread;

use goumem_alloc::{Placement, SessionNumber, SizeClass};

use crate::agent::Agent;
use crate::bound_span::BoundSpan;
use crate::raw_block::RawBlock;
use crate::shape::Shape;
use crate::test_daemon::TestDaemon;

const ALICE: SessionNumber = SessionNumber::new(7);

type Spans = Vec<BoundSpan>;

fn class(size_bytes: u64) -> SizeClass {
    match SizeClass::for_layout(size_bytes, 16).unwrap() {
        Placement::Class(class) | Placement::Large { class, .. } => class,
    }
}

/// A span of 8 KiB blocks, bound to an agent of this thread under the key 5.
fn bound() -> (TestDaemon, &'static Agent<Spans>) {
    let daemon = TestDaemon::new(8);
    let span = daemon.lease(&daemon.view(), ALICE, class(8192));
    let agent = Agent::leak(Vec::new());
    assert!(agent.own());
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    spans.push(BoundSpan::bind(span, right, 5));
    drop(turn);
    (daemon, agent)
}

fn alloc(agent: &Agent<Spans>) -> Option<RawBlock> {
    let mut turn = agent.enter()?;
    let (spans, right) = turn.split();
    spans[0].alloc(right)
}

fn free_count(agent: &Agent<Spans>) -> u32 {
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    spans[0].free_count(right)
}

fn collect(agent: &Agent<Spans>) -> u32 {
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    spans[0].collect(right, false)
}

#[test]
fn block_dropped_on_the_owners_thread_is_free_at_once() {
    let (_daemon, agent) = bound();
    let slots = free_count(agent);
    let block = alloc(agent).unwrap();
    let at = block.offset();
    assert_eq!(free_count(agent), slots - 1);
    drop(block);
    assert_eq!(free_count(agent), slots);
    assert_eq!(
        alloc(agent).unwrap().offset(),
        at,
        "the warmest is the next"
    );
}

#[test]
fn block_dropped_elsewhere_or_in_a_turn_is_free_once_collected() {
    let (_daemon, agent) = bound();
    let slots = free_count(agent);
    let block = alloc(agent).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || drop(block));
    });
    assert_eq!(free_count(agent), slots - 1);
    assert_eq!(collect(agent), slots);

    let block = alloc(agent).unwrap();
    let turn = agent.enter().unwrap();
    drop(block);
    drop(turn);
    assert_eq!(free_count(agent), slots - 1);
    assert_eq!(collect(agent), slots);

    let block = alloc(agent).unwrap();
    let claim = agent.claim();
    drop(block);
    drop(claim);
    assert_eq!(collect(agent), slots);
}

#[test]
fn span_that_was_set_aside_wakes_once_with_its_first_free_block() {
    let (_daemon, agent) = bound();
    let mut blocks: Vec<_> = std::iter::from_fn(|| alloc(agent)).collect();
    let woken = || {
        let mut turn = agent.enter().unwrap();
        let mut keys = Vec::new();
        turn.split().1.take_woken(&mut keys);
        keys
    };
    drop(blocks.pop());
    assert_eq!(free_count(agent), 1);
    assert!(woken().is_empty(), "nobody asked");
    blocks.extend(alloc(agent));
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    spans[0].set_aside(right);
    drop(turn);
    drop(blocks);
    assert!(woken().is_empty(), "they are at hand, and in no bitmap");
    assert!(free_count(agent) > 0);
    assert_eq!(woken(), [5]);
    assert!(woken().is_empty());
}

#[test]
fn blocks_freed_last_come_first_and_the_older_go_back_to_their_span() {
    let daemon = TestDaemon::new(8);
    let span = daemon.lease(&daemon.view(), ALICE, class(64));
    let agent = Agent::leak(vec![]);
    assert!(agent.own());
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    spans.push(BoundSpan::bind(span, right, 5));
    drop(turn);
    let blocks: Vec<_> = (0..20).map(|_| alloc(agent).unwrap()).collect();
    let offsets: Vec<_> = blocks.iter().map(RawBlock::offset).collect();
    blocks.into_iter().for_each(drop);
    let again: Vec<_> = std::iter::from_fn(|| {
        let mut turn = agent.enter().unwrap();
        turn.split().1.take_recent(class(64))
    })
    .collect();
    let newest_first: Vec<_> = again.iter().map(RawBlock::offset).collect();
    assert!(newest_first.len() >= 4, "some are kept");
    let expected: Vec<_> = offsets.iter().rev().take(again.len()).copied().collect();
    assert_eq!(newest_first, expected);
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    let n_again = u32::try_from(again.len()).unwrap();
    assert_eq!(
        spans[0].private_count(right),
        n_again,
        "the others went back"
    );
}

#[test]
fn unbound_span_is_freed_into_from_afar_and_forgets_that_it_woke() {
    let (_daemon, agent) = bound();
    let block = alloc(agent).unwrap();
    let late = alloc(agent).unwrap();
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    spans[0].set_aside(right);
    drop(turn);
    drop(block);
    let mut turn = agent.enter().unwrap();
    let (spans, right) = turn.split();
    let mut span = spans.pop().unwrap().unbind(right);
    let mut keys = Vec::new();
    right.take_woken(&mut keys);
    assert!(keys.is_empty(), "the span is no longer here");
    drop(turn);
    let known = span.free_count();
    drop(late);
    assert_eq!(span.free_count(), known);
    span.collect(false);
    assert!(span.is_empty());
    assert!(span.detach().is_ok());
}

#[test]
#[should_panic(expected = "another agent")]
fn a_span_is_not_worked_on_in_another_agents_turn() {
    let (_daemon, agent) = bound();
    let other = Agent::leak(());
    assert!(other.own());
    let mut claim = agent.claim();
    let mut turn = other.enter().unwrap();
    let (spans, _) = claim.split();
    let (_, right) = turn.split();
    let _ = spans[0].alloc(right);
}

#[test]
fn exported_block_comes_back_by_its_word() {
    let (daemon, agent) = bound();
    let slots = free_count(agent);
    let shape = Shape {
        type_tag: goumem_alloc::TypeTag::UNTYPED,
        length_bytes: 8192,
    };
    let handle = alloc(agent).unwrap().export(ALICE, shape).unwrap();
    assert_eq!(collect(agent), slots - 1);
    daemon.memory().free(handle).map(|_| ()).unwrap();
    assert_eq!(collect(agent), slots);
}

/// Three threads: the owner allocates and frees, one frees what it is sent, one claims the agent
/// and collects.
#[test]
fn no_slot_is_handed_out_twice_or_lost_while_three_threads_work_on_a_span() {
    const ROUNDS: u64 = 20_000;
    let (_daemon, agent) = bound();
    let slots = free_count(agent);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<RawBlock>(4);
    thread::scope(|scope| {
        scope.spawn(move || {
            receiver.into_iter().for_each(drop);
        });
        let claimer = scope.spawn(move || {
            for _ in 0..500 {
                let mut claim = agent.claim();
                let (spans, right) = claim.split();
                spans[0].collect(right, true);
                drop(claim);
                thread::yield_now();
            }
        });
        let mut held: Vec<RawBlock> = Vec::new();
        for round in 0..ROUNDS {
            match alloc(agent) {
                Some(block) => {
                    let at = block.offset();
                    assert!(
                        held.iter().all(|other| other.offset() != at),
                        "handed out twice"
                    );
                    held.push(block);
                }
                None => {
                    if let Some(mut turn) = agent.enter() {
                        let (spans, right) = turn.split();
                        spans[0].collect(right, false);
                    }
                }
            }
            if held.len() > 4 {
                let block = held.swap_remove(usize::try_from(round).unwrap() % held.len());
                if round % 2 == 0 {
                    drop(block);
                } else {
                    sender.send(block).unwrap();
                }
            }
        }
        drop((held, sender));
        claimer.join().unwrap();
    });
    assert_eq!(collect(agent), slots, "every slot came back once");
}
