//! Real threads on one pool. The models under loom explore every order of a few steps; this runs
//! many steps of the real code in the orders that the machine finds.

use std::thread;

use super::*;
use crate::TakenBlocks;
use crate::sync::{AtomicU64, Ordering};

const LENGTH: usize = 4096;
const ROUNDS: u8 = 200;

#[test]
fn copies_that_succeed_are_of_one_life() {
    let daemon = TestDaemon::new(16);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(LENGTH as u64));
    // One slot, so that each life lies where the last one lay.
    let mut blocks: Vec<_> = std::iter::from_fn(|| span.alloc()).collect();
    let mut block = blocks.pop();
    let offset = block.as_ref().unwrap().offset();
    let current = AtomicU64::new(u64::MAX);
    let reads = AtomicU64::new(0);
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let memory = daemon.view();
                let mut copy = vec![0; LENGTH];
                loop {
                    let life = current.load(Ordering::Acquire);
                    let Some(generation) = Generation::new(life) else {
                        if life == u64::MAX - 1 {
                            return;
                        }
                        continue;
                    };
                    let handle = memory.handle(generation, offset);
                    match memory.read(handle, 0, &mut copy) {
                        Ok(()) => {
                            let expected = u8::try_from(life % 251).unwrap();
                            assert!(copy.iter().all(|&byte| byte == expected), "life {life}");
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error, AccessError::Stale { handle }),
                    }
                }
            });
        }
        for _ in 0..ROUNDS {
            let at = memory.block_at(offset).unwrap();
            let generation = memory.slot(&at).load().generation();
            let pattern = u8::try_from(generation.get() % 251).unwrap();
            memory
                .data()
                .copy_in(offset.get(), &[pattern; LENGTH])
                .unwrap();
            let shape = bytes(LENGTH as u64);
            let handle = block.take().unwrap().export(ALICE, shape).unwrap();
            current.store(handle.generation().get(), Ordering::Release);
            let seen = reads.load(Ordering::Relaxed);
            let deadline = std::time::Instant::now() + std::time::Duration::from_millis(1);
            while reads.load(Ordering::Relaxed) == seen && std::time::Instant::now() < deadline {
                thread::yield_now();
            }
            assert_eq!(memory.free(handle), Ok(Freed::Free));
            span.collect(false);
            block = span.alloc();
        }
        current.store(u64::MAX - 1, Ordering::Release);
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
}

#[test]
fn of_many_frees_and_takes_of_one_block_one_succeeds() {
    let daemon = TestDaemon::new(16);
    let memory = daemon.view();
    let mut span = daemon.lease(&memory, ALICE, class(1024));
    for _ in 0..ROUNDS {
        let handle = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
        let winners: usize = thread::scope(|threads| {
            let rivals: Vec<_> = (0..4)
                .map(|i| {
                    let memory = &memory;
                    threads.spawn(move || {
                        if i % 2 == 0 {
                            return memory.free(handle).is_ok();
                        }
                        let taken = TakenBlocks::new(memory, BOB).unwrap();
                        taken.take_over(handle).is_ok()
                    })
                })
                .collect();
            rivals
                .into_iter()
                .map(|rival| usize::from(rival.join().unwrap()))
                .sum()
        });
        assert_eq!(winners, 1);
        span.collect(false);
        assert!(span.is_empty());
    }
}
