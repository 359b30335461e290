//! Blocks that nobody else knows of: no call, no shared word, and nobody's stamp but one's own.

use goumem::{Block, Error};

use super::hand::Hand;
use super::{report_mismatch, tell};
use crate::stamp::Stamp;
use crate::wire::{News, Token};

/// What a thread has at a time.
const MAX_BLOCKS: usize = 400;
const MAX_WORDS: usize = 200_000;
const MAX_NAMED: usize = 40;
/// What a process has between its threads.
const MAX_EXCHANGED: usize = 64;

impl Hand {
    /// Allocates a block and stamps it.
    pub(super) fn make(&mut self) {
        if self.private.len() >= MAX_BLOCKS || self.private_words >= MAX_WORDS {
            return self.end_private();
        }
        let words = match self.random.below(256) {
            // Above the largest class, too.
            0 => 20_000 + self.random.index(150_000),
            1..20 => 100 + self.random.index(4_000),
            _ => 1 + self.random.index(64),
        };
        match self.crew.pool.alloc_slice::<u64>(words) {
            Ok(mut block) => {
                let stamp = self.crew.stamp();
                stamp.write(&mut block);
                self.push_private(block, stamp);
            }
            Err(Error::Exhausted { .. }) => {
                for _ in 0..self.private.len() / 2 {
                    self.end_private();
                }
            }
            Err(error) => drop(self.expect::<()>(Err(error), "alloc")),
        }
    }

    pub(super) fn push_private(&mut self, block: Block<[u64]>, stamp: Stamp) {
        self.private_words += block.len();
        self.private.push((block, stamp));
    }

    pub(super) fn pop_private(&mut self) -> Option<(Block<[u64]>, Stamp)> {
        if self.private.is_empty() {
            return None;
        }
        let at = self.random.index(self.private.len());
        let (block, stamp) = self.private.swap_remove(at);
        self.private_words -= block.len();
        Some((block, stamp))
    }

    /// Allocates in the pool whose memory is short, or frees something there.
    pub(super) fn make_named(&mut self) {
        let Some(pool) = &self.crew.named else {
            return;
        };
        let words = 1 + self.random.index(30_000);
        if self.named.len() < MAX_NAMED && self.random.below(2) == 0 {
            match pool.alloc_slice::<u64>(words) {
                Ok(mut block) => {
                    let stamp = self.crew.stamp();
                    stamp.write(&mut block);
                    return self.named.push((block, stamp));
                }
                Err(Error::Exhausted { .. }) => {}
                Err(error) => drop(self.expect::<()>(Err(error), "alloc in /dev/shm")),
            }
        }
        self.end_named();
    }

    pub(super) fn end_named(&mut self) {
        if !self.named.is_empty() {
            let at = self.random.index(self.named.len());
            let (block, stamp) = self.named.swap_remove(at);
            self.verify(&block, stamp, "free in /dev/shm");
        }
    }

    /// Frees a block.
    pub(super) fn end_private(&mut self) {
        if let Some((block, stamp)) = self.pop_private() {
            self.verify(&block, stamp, "free");
        }
    }

    /// Leaves a block to another thread of the process, and frees one that was left.
    pub(super) fn swap(&mut self) {
        let left = self.pop_private();
        let mut exchange = self.crew.exchange();
        exchange.extend(left);
        let at = self.random.index(exchange.len().max(1));
        let found = (exchange.len() > at && exchange.len() > MAX_EXCHANGED / 2)
            .then(|| exchange.swap_remove(at));
        drop(exchange);
        if let Some((block, stamp)) = found {
            self.verify(&block, stamp, "free what another thread left");
        }
    }

    /// Exports a block and leaves it to whoever comes.
    pub(super) fn share_and_give(&mut self) {
        let Some((block, stamp)) = self.pop_private() else {
            return;
        };
        self.verify(&block, stamp, "share");
        let words = block.len();
        if let Some(shared) = self.expect(block.share(), "share") {
            let token = self.token(stamp, words, shared.into_handle());
            tell(&News::Give(token));
        }
    }

    /// Exports a block and has it.
    pub(super) fn share_and_hold(&mut self) {
        let Some((block, stamp)) = self.pop_private() else {
            return;
        };
        self.verify(&block, stamp, "share");
        let words = block.len();
        if let Some(shared) = self.expect(block.share(), "share") {
            let token = self.token(stamp, words, shared.handle());
            tell(&News::Have(token));
            self.shared.push((shared, token));
        }
    }

    pub(super) fn token(&self, stamp: Stamp, words: usize, handle: goumem::Handle) -> Token {
        Token {
            stamp,
            words,
            handle,
            owner: Some(self.crew.id),
            named: false,
        }
    }

    /// Looks at a block that this process has alone.
    pub(super) fn verify(&self, block: &[u64], stamp: Stamp, doing: &str) {
        if let Err(mismatch) = stamp.verify(block) {
            report_mismatch(&mismatch, doing);
        }
    }

    /// Looks at something at random.
    pub(super) fn verify_something(&mut self) {
        let kinds = [self.private.len(), self.taken.len(), self.shared.len()];
        let kind = self.random.index(kinds.len());
        if kinds[kind] == 0 {
            return;
        }
        let at = self.random.index(kinds[kind]);
        match kind {
            0 => {
                let (block, stamp) = &self.private[at];
                self.verify(block, *stamp, "look at a private block");
            }
            1 => {
                let (block, stamp) = &self.taken[at];
                self.verify(block, *stamp, "look at a taken block");
            }
            _ => {
                let token = self.shared[at].1;
                self.verify_shared(&token, "look at a shared block");
            }
        }
    }
}
