//! Exported blocks: handed over, taken, adopted, kept, named, pinned, freed by somebody else.

use goumem::{AccessError, Error, Handle};

use super::hand::Hand;
use super::{bug, report_mismatch, tell};
use crate::wire::{News, Token, Wrong};

/// What a thread has at a time.
const MAX_SHARED: usize = 60;
const MAX_TAKEN: usize = 60;
const MAX_PINS: usize = 20;

impl Hand {
    /// Does something with a token that has come.
    pub(super) fn take(&mut self, token: Token) {
        if !self.verify_shared(&token, "look at what has come") {
            return tell(&News::Stale(
                token.stamp,
                "look at what has come".to_owned(),
            ));
        }
        if token.named && !self.look_up(&token) {
            return;
        }
        match self.random.below(16) {
            0..4 => self.free(token),
            4..9 => self.take_over(token),
            9..12 => self.adopt(token),
            12 => self.pin(token),
            13 if token.named => self.withdraw(token),
            _ => tell(&News::Give(token)),
        }
    }

    fn free(&mut self, token: Token) {
        match self.crew.pool.free(token.handle) {
            Ok(()) => {
                self.note_freed(token.handle);
                tell(&News::Gone(token.stamp));
            }
            Err(error) => self.refused(token, &error, "free"),
        }
    }

    fn take_over(&mut self, token: Token) {
        if self.taken.len() >= MAX_TAKEN {
            self.end_taken();
        }
        match self.crew.pool.take_slice::<u64>(token.handle) {
            Ok(mut block) => {
                self.verify(&block, token.stamp, "take");
                self.note_freed(token.handle);
                // With another stamp: who still took it for theirs would see it.
                let stamp = self.crew.stamp();
                stamp.write(&mut block);
                self.taken.push((block, stamp));
                tell(&News::Gone(token.stamp));
            }
            Err(error) => self.refused(token, &error, "take"),
        }
    }

    fn adopt(&mut self, token: Token) {
        if self.shared.len() >= MAX_SHARED {
            self.end_shared();
        }
        match self.crew.pool.adopt_slice::<u64>(token.handle) {
            Ok(shared) => {
                let token = Token {
                    owner: Some(self.crew.id),
                    named: false,
                    ..token
                };
                tell(&News::Have(token));
                self.verify_shared(&token, "look at what was adopted");
                self.shared.push((shared, token));
            }
            Err(error) => self.refused(token, &error, "adopt"),
        }
    }

    /// Says what a handle was refused for: it is somebody's fault, or somebody has died.
    fn refused(&self, token: Token, error: &Error, doing: &str) {
        match error {
            error if error.is_stale() => tell(&News::Stale(token.stamp, doing.to_owned())),
            Error::Access(AccessError::Pinned { .. }) => tell(&News::Give(token)),
            error => {
                bug(Wrong::Error, format!("{doing} {token}: {error:?}"));
                tell(&News::Give(token));
            }
        }
    }

    /// Looks for a published block by its name. Returns whether it is there.
    fn look_up(&self, token: &Token) -> bool {
        match self.crew.pool.lookup(&token.name()) {
            Ok(handle) if handle == token.handle => true,
            Ok(handle) => {
                bug(Wrong::Lost, format!("{token} has its name for {handle}"));
                true
            }
            Err(error) => {
                bug(
                    Wrong::Lost,
                    format!("{token} is not found by name: {error:?}"),
                );
                true
            }
        }
    }

    fn withdraw(&mut self, token: Token) {
        match self.crew.pool.withdraw(&token.name()) {
            Ok(handle) => {
                if handle != token.handle {
                    bug(Wrong::Once, format!("withdrew {handle} for {token}"));
                }
                tell(&News::Give(Token {
                    named: false,
                    ..token
                }));
            }
            Err(error) => self.refused(token, &error, "withdraw"),
        }
    }

    /// Keeps a block of its own, with or without a name.
    pub(super) fn keep(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let at = self.random.index(self.shared.len());
        let (shared, token) = self.shared.swap_remove(at);
        let named = self.random.below(2) == 0;
        let kept = if named {
            goumem::blocking::wait(shared.publish(&token.name()))
        } else {
            goumem::blocking::wait(shared.keep())
        };
        match kept {
            Ok(_) => tell(&News::Give(Token {
                owner: None,
                named,
                ..token
            })),
            Err(error) => {
                // It frees the block when it is dropped.
                let _ = shared.into_handle();
                self.refused(token, &error, "keep");
            }
        }
    }

    /// Pins a block whose token is here.
    pub(super) fn pin_shared(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let at = self.random.index(self.shared.len());
        let token = self.shared[at].1;
        if let Some(pin) = self.expect(self.crew.pool.pin(token.handle), "pin its own") {
            self.hold_pin(pin, token);
        }
    }

    /// Pins a block and lets somebody else have it.
    fn pin(&mut self, token: Token) {
        match self.crew.pool.pin(token.handle) {
            Ok(pin) => {
                self.hold_pin(pin, token);
                tell(&News::Give(token));
            }
            Err(error) => self.refused(token, &error, "pin"),
        }
    }

    fn hold_pin(&mut self, pin: goumem::Pin, token: Token) {
        self.pins.push((pin, token));
        if self.pins.len() > MAX_PINS {
            self.unpin();
        }
    }

    /// Lets a pinned block go, whose bytes must still be there, whoever has freed it.
    pub(super) fn unpin(&mut self) {
        if self.pins.is_empty() {
            return;
        }
        let at = self.random.index(self.pins.len());
        let (pin, token) = self.pins.swap_remove(at);
        let mut words = vec![0; token.words];
        match pin.copy_at(0, &mut words) {
            Ok(()) => self.verify(&words, token.stamp, "look at a pinned block"),
            Err(error) => bug(Wrong::Lost, format!("pinned {token}: {error:?}")),
        }
        self.expect(goumem::blocking::wait(pin.unpin()), "unpin");
    }

    /// Frees a block whose token is here.
    pub(super) fn end_shared(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let at = self.random.index(self.shared.len());
        let (shared, token) = self.shared.swap_remove(at);
        if !self.verify_shared(&token, "free its own") {
            tell(&News::Stale(token.stamp, "free its own".to_owned()));
            return;
        }
        drop(shared);
        self.note_freed(token.handle);
        tell(&News::Gone(token.stamp));
    }

    pub(super) fn end_taken(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let at = self.random.index(self.taken.len());
        let (block, stamp) = self.taken.swap_remove(at);
        self.verify(&block, stamp, "free what was taken");
    }

    /// Exports a block that was taken again.
    pub(super) fn share_taken(&mut self) {
        let Some((block, stamp)) = self.taken.pop() else {
            return;
        };
        self.verify(&block, stamp, "share what was taken");
        let words = block.len();
        if let Some(shared) = self.expect(block.share(), "share what was taken") {
            let token = self.token(stamp, words, shared.into_handle());
            tell(&News::Give(token));
        }
    }

    /// Looks at a block that should be what it was made. Returns whether it is there.
    pub(super) fn verify_shared(&self, token: &Token, doing: &str) -> bool {
        match self.read(token.handle) {
            Ok(words) => {
                self.verify(&words, token.stamp, doing);
                if words.len() != token.words {
                    bug(Wrong::Overlap, format!("{token} has {} words", words.len()));
                }
                true
            }
            Err(error) if error.is_stale() => false,
            Err(error) => {
                bug(Wrong::Error, format!("{doing}, {token}: {error:?}"));
                true
            }
        }
    }

    fn read(&self, handle: Handle) -> Result<Vec<u64>, Error> {
        self.crew.pool.resolve_slice::<u64>(handle)?.read_slice()
    }

    /// Looks at a block that is somebody else's: it is what it was, or gone, but nothing else.
    pub(super) fn look(&self, token: Token) {
        match self.read(token.handle) {
            Ok(words) => {
                if let Err(mismatch) = token.stamp.verify(&words) {
                    report_mismatch(&mismatch, "look at somebody's block");
                }
            }
            Err(error) if error.is_stale() => {}
            Err(error) => bug(Wrong::Error, format!("look at {token}: {error:?}")),
        }
    }

    /// Tries a handle of a block that is gone: everything must be refused.
    pub(super) fn try_freed(&mut self) {
        let Some(handle) = self.freed.pop_front() else {
            return;
        };
        let pool = &self.crew.pool;
        let outcome = match self.random.below(5) {
            0 => pool.free(handle),
            1 => pool.resolve_slice::<u64>(handle).map(drop),
            2 => pool.take_slice::<u64>(handle).map(std::mem::forget),
            3 => pool.adopt_slice::<u64>(handle).map(std::mem::forget),
            _ => pool.pin(handle).map(drop),
        };
        match outcome {
            Err(error) if error.is_stale() => {}
            outcome => bug(Wrong::Stale, format!("stale {handle}: {outcome:?}")),
        }
        self.freed.push_back(handle);
    }

    /// Looks at a handle of its own that others may have, and at its name if it has one.
    pub(super) fn look_again(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let at = self.random.index(self.shared.len());
        let token = self.shared[at].1;
        if !self.verify_shared(&token, "look at its own") {
            let (shared, token) = self.shared.swap_remove(at);
            let _ = shared.into_handle();
            tell(&News::Stale(token.stamp, "look at its own".to_owned()));
        }
    }
}
