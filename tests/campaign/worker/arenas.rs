//! Arenas: got, filled, reset and returned alone; filled by several who hold one by its name.

use goumem::blocking::Arena;
use goumem::{Access, AccessError, Error, Handle};

use std::time::Duration;

use super::hand::Hand;
use super::{bug, report_mismatch, tell};
use crate::stamp::Stamp;
use crate::wire::{News, Wrong};

/// Arenas at a time.
const MAX_ARENAS: usize = 2;

/// The arenas that a thread holds.
#[derive(Debug, Default)]
pub(super) struct Desk(Vec<Sheet>);

/// An arena, and what this thread has written in it.
#[derive(Debug)]
struct Sheet {
    arena: Arena,
    written: Vec<(Handle, usize, Stamp)>,
}

impl Desk {
    /// Returns how many arenas nobody else holds.
    pub(super) fn held_alone(&self) -> u64 {
        let alone = |sheet: &&Sheet| !sheet.arena.is_shared();
        self.0.iter().filter(alone).count() as u64
    }
}

impl Hand {
    /// Does something with an arena.
    pub(super) fn arena_work(&mut self) {
        if self.desk.0.is_empty() {
            return self.get_arena();
        }
        let at = self.random.index(self.desk.0.len());
        match self.random.below(64) {
            0..44 => self.bump(at),
            44..50 => self.verify_sheet(at),
            50..52 => self.reset(at),
            52..54 => self.share_arena(at),
            54..58 if self.desk.0.len() < MAX_ARENAS => self.get_arena(),
            58..60 => self.free_last(at),
            _ => self.give_back(at),
        }
    }

    /// Attaches to an arena that somebody has shared.
    pub(super) fn attach(&mut self, name: &str) {
        if self.desk.0.len() >= MAX_ARENAS {
            return;
        }
        match self.crew.arenas.attach(name, Access::ReadWrite) {
            Ok(arena) => self.desk.0.push(Sheet {
                arena,
                written: Vec::new(),
            }),
            // Its holders have returned it, or have died.
            Err(Error::NameNotFound { .. }) => {}
            Err(error) => bug(Wrong::Error, format!("attach {name}: {error:?}")),
        }
    }

    /// Returns every arena.
    pub(super) fn clear_desk(&mut self) {
        while !self.desk.0.is_empty() {
            self.give_back(0);
        }
    }

    fn get_arena(&mut self) {
        let wait = Duration::from_millis(self.random.below(20));
        match self.crew.arenas.get_timeout(wait) {
            Ok(arena) => {
                match arena.used_bytes() {
                    Ok(0) => {}
                    used => bug(Wrong::Overlap, format!("a new arena is in use: {used:?}")),
                }
                self.desk.0.push(Sheet {
                    arena,
                    written: Vec::new(),
                });
            }
            Err(Error::TimedOut { .. } | Error::NoFreeArena) => {}
            // So short a wait may be over before the next daemon serves.
            Err(Error::NoDaemon { .. } | Error::NoAnswer { .. }) => {}
            Err(error) => bug(Wrong::Error, format!("get an arena: {error:?}")),
        }
    }

    fn bump(&mut self, at: usize) {
        let words = 1 + self.random.index(60);
        let stamp = self.crew.stamp();
        let sheet = &mut self.desk.0[at];
        let mut content = vec![0; words];
        stamp.write(&mut content);
        let place = sheet.arena.alloc_slice::<u64>(words);
        match place.and_then(|place| place.write(&content).map(|()| place.handle())) {
            Ok(handle) => sheet.written.push((handle, words, stamp)),
            Err(Error::Access(AccessError::ArenaFull { .. })) => {
                self.verify_sheet(at);
                self.give_back(at);
            }
            Err(error) => bug(Wrong::Error, format!("bump: {error:?}")),
        }
    }

    fn verify_sheet(&self, at: usize) {
        let sheet = &self.desk.0[at];
        for &(handle, words, stamp) in &sheet.written {
            let mut content = vec![0; words];
            let place = sheet.arena.resolve_slice::<u64>(handle, words);
            match place.and_then(|place| place.copy_to(&mut content)) {
                Ok(()) => {
                    if let Err(mismatch) = stamp.verify(&content) {
                        report_mismatch(&mismatch, "look into an arena");
                    }
                }
                Err(error) => bug(Wrong::Lost, format!("{stamp} in an arena: {error:?}")),
            }
        }
    }

    fn reset(&mut self, at: usize) {
        self.verify_sheet(at);
        let sheet = &mut self.desk.0[at];
        match sheet.arena.reset() {
            Ok(()) => {
                if let Some(&(handle, words, _)) = sheet.written.last()
                    && sheet.arena.resolve_slice::<u64>(handle, words).is_ok()
                {
                    bug(Wrong::Stale, format!("{handle} outlived a reset"));
                }
                sheet.written.clear();
            }
            Err(Error::Access(AccessError::Shared { .. })) if sheet.arena.is_shared() => {}
            Err(error) => bug(Wrong::Error, format!("reset: {error:?}")),
        }
    }

    fn free_last(&mut self, at: usize) {
        let sheet = &mut self.desk.0[at];
        let Some((handle, words, _)) = sheet.written.pop() else {
            return;
        };
        let place = sheet.arena.resolve_slice::<u64>(handle, words);
        if let Err(error) = place.and_then(|place| sheet.arena.free(place)) {
            bug(Wrong::Error, format!("free in an arena: {error:?}"));
        }
    }

    fn share_arena(&mut self, at: usize) {
        let name = format!("a/{}", self.crew.stamp());
        let sheet = &mut self.desk.0[at];
        if sheet.arena.is_shared() {
            return;
        }
        match sheet.arena.share(&name) {
            Ok(()) => tell(&News::Arena(name)),
            Err(error) => bug(Wrong::Error, format!("share an arena: {error:?}")),
        }
    }

    fn give_back(&mut self, at: usize) {
        self.verify_sheet(at);
        let sheet = self.desk.0.swap_remove(at);
        let outcome = if sheet.arena.is_shared() {
            sheet.arena.detach().map(drop)
        } else {
            sheet.arena.return_arena()
        };
        self.expect(outcome, "return an arena");
    }
}
