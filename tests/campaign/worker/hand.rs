//! A thread that works by the mapping.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use goumem::{Block, Error, Handle, Pin, Shared};
use harness::{Random, sys};

use super::arenas::Desk;
use super::{Crew, bug, tell};
use crate::stamp::Stamp;
use crate::wire::{Belongings, News, Order, Token, Wrong};

/// Operations between two reports of how many.
const REPORT_OPS: u64 = 512;
/// Freed handles that are tried again.
const MAX_FREED: usize = 16;

/// A thread that works by the mapping, and what it has.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) crew: Arc<Crew>,
    pub(super) random: Random,
    threads: u64,
    /// Blocks that nobody else knows of.
    pub(super) private: Vec<(Block<[u64]>, Stamp)>,
    pub(super) private_words: usize,
    /// The same in the pool that lies in `/dev/shm`.
    pub(super) named: Vec<(Block<[u64]>, Stamp)>,
    /// Blocks that were taken over, which the daemon sees.
    pub(super) taken: Vec<(Block<[u64]>, Stamp)>,
    /// Blocks whose tokens are here.
    pub(super) shared: Vec<(Shared<[u64]>, Token)>,
    pub(super) pins: Vec<(Pin, Token)>,
    /// Handles of blocks that are gone.
    pub(super) freed: VecDeque<Handle>,
    pub(super) desk: Desk,
    ops: u64,
}

impl Hand {
    pub(super) fn new(crew: Arc<Crew>, number: u64, threads: u64) -> Self {
        Self {
            random: crew.random(number),
            desk: Desk::default(),
            crew,
            threads,
            private: Vec::new(),
            private_words: 0,
            named: Vec::new(),
            taken: Vec::new(),
            shared: Vec::new(),
            pins: Vec::new(),
            freed: VecDeque::new(),
            ops: 0,
        }
    }

    /// Works until the director has gone.
    pub(super) fn work(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.try_recv() {
                Ok(Order::Pause) => {
                    if !self.stand_still(orders) {
                        return;
                    }
                }
                Ok(Order::Drain) => {
                    self.drain();
                    if !self.stand_still(orders) {
                        return;
                    }
                }
                Ok(Order::Take(token)) => self.take(token),
                Ok(Order::Look(token)) => self.look(token),
                Ok(Order::Attach(name)) => self.attach(&name),
                Ok(Order::Go | Order::Sabotage(_)) => {}
                Err(TryRecvError::Empty) => self.step(),
                Err(TryRecvError::Disconnected) => return,
            }
            self.ops += 1;
            if self.ops == REPORT_OPS {
                self.report_ops();
            }
        }
    }

    fn report_ops(&mut self) {
        tell(&News::Ops(std::mem::take(&mut self.ops)));
    }

    /// Says what it has, and waits until it may go on. Returns whether it may.
    fn stand_still(&mut self, orders: &Receiver<Order>) -> bool {
        self.report_ops();
        tell(&News::Paused(Belongings {
            taken: self.taken.len() as u64,
            pins: self.pins.len() as u64,
            arenas: self.desk.held_alone(),
            threads: self.threads,
        }));
        loop {
            match orders.recv() {
                Ok(Order::Go) => return true,
                Ok(Order::Drain) => {
                    self.drain();
                    return self.stand_still(orders);
                }
                // The director tells nothing else to who stands still.
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(200) {
            0..75 => self.make(),
            75..80 => self.make_named(),
            80..120 => self.end_private(),
            120..130 => self.swap(),
            130..140 => self.share_and_give(),
            140..146 => self.share_and_hold(),
            146..152 => self.end_shared(),
            152..155 => self.keep(),
            155..158 => self.pin_shared(),
            158..161 => self.unpin(),
            161..166 => self.end_taken(),
            166..168 => self.share_taken(),
            168..174 => self.try_freed(),
            174..180 => self.look_again(),
            180..196 => self.arena_work(),
            196 if self.random.below(50) == 0 => self.purge(),
            197 if self.random.below(1000) == 0 => self.fork_and_die(),
            198 if self.random.below(1000) == 0 => self.fork_and_leave(),
            _ => self.verify_something(),
        }
    }

    /// Gives up everything.
    fn drain(&mut self) {
        while !self.private.is_empty() {
            self.end_private();
        }
        while !self.named.is_empty() {
            self.end_named();
        }
        let left = std::mem::take(&mut *self.crew.exchange());
        for (block, stamp) in left {
            self.verify(&block, stamp, "free what another thread left");
        }
        while !self.taken.is_empty() {
            self.end_taken();
        }
        while !self.shared.is_empty() {
            self.end_shared();
        }
        while !self.pins.is_empty() {
            self.unpin();
        }
        self.clear_desk();
        self.purge();
    }

    fn purge(&self) {
        for pool in [&self.crew.pool].into_iter().chain(&self.crew.named) {
            self.expect(pool.purge(), "purge");
        }
    }

    /// Reports what should not have failed.
    pub(super) fn expect<T>(&self, outcome: Result<T, Error>, doing: &str) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let wrong = match error {
                    Error::SessionExpired => Wrong::FalseDeath,
                    _ => Wrong::Error,
                };
                bug(wrong, format!("{doing}: {error:?}"));
                None
            }
        }
    }

    pub(super) fn note_freed(&mut self, handle: Handle) {
        self.freed.push_back(handle);
        if self.freed.len() > MAX_FREED {
            self.freed.pop_front();
        }
    }

    /// A forked child has nothing, and its end harms nobody.
    fn fork_and_die(&mut self) {
        let crew = Arc::clone(&self.crew);
        let handle = self.freed.front().copied();
        let private = self.pop_private();
        let child = sys::in_forked_child(|| {
            let allocated = crew.pool.try_alloc::<u64>().is_ok();
            let freed = handle.is_some_and(|handle| crew.pool.free(handle).is_ok());
            // Drops in the child do nothing.
            drop(private);
            u8::from(allocated) | u8::from(freed) << 1
        });
        match child {
            Ok(0) => {}
            Ok(code) => bug(Wrong::Error, format!("a forked child was let in: {code}")),
            Err(error) => bug(Wrong::Error, format!("fork: {error}")),
        }
    }

    /// A forked child that has every fd of this process lives on for a while, perhaps longer than
    /// its parent.
    fn fork_and_leave(&mut self) {
        let ms = self.random.below(3_000);
        if let Err(error) = sys::fork_sleeper(std::time::Duration::from_millis(ms)) {
            bug(Wrong::Error, format!("fork: {error}"));
        }
    }
}
