//! The moments of truth: everybody stands still, or is dead, and the model must agree with the
//! daemon to the block.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use goumem::PoolStat;

use super::{Director, STEP};
use crate::auditor::{SessionId, adds_up};
use crate::wire::{Belongings, Order, Token, Wrong};
use crate::{ARENA_BYTES, ARENAS};

/// How long everybody may take to come to a stand, on a loaded machine.
const MAX_STOP: Duration = Duration::from_secs(60);
/// How long the daemon may take to notice deaths and take back what the dead held.
const MAX_SWEEP: Duration = Duration::from_secs(5);

impl Director {
    /// Has everybody stand still, and compares every token with the daemon's counts.
    pub(super) fn check(&mut self) -> Result<()> {
        let daemon = std::sync::Arc::clone(&self.daemon);
        let _held = daemon.hold();
        let has = self.stand_still(&Order::Pause)?;
        self.check_sessions()?;
        self.check_tokens();
        self.check_counts(has)?;
        self.report.checks.add(1);
        for worker in &mut self.workers {
            worker.tell(&Order::Go);
        }
        Ok(())
    }

    /// Has everybody give up everything, and checks that nothing is left with them: a lease that
    /// was granted twice would be, since the client knows of one.
    pub(super) fn drain(&mut self) -> Result<()> {
        let daemon = std::sync::Arc::clone(&self.daemon);
        let _held = daemon.hold();
        let has = self.stand_still(&Order::Drain)?;
        if (has.taken, has.pins, has.arenas) != (0, 0, 0) {
            bail!("workers have not given up everything: {has:?}");
        }
        self.check_sessions()?;
        self.check_tokens();
        while let Some(token) = self.ledger.take_from_bank() {
            self.free(&token);
        }
        self.check_counts(Belongings::default())?;
        // With the others' blocks gone, all of their spans can go.
        let _ = self.stand_still(&Order::Drain)?;
        let living = self.living.sessions();
        let mut left = Vec::new();
        let none_is_left = within(MAX_SWEEP, || {
            left = self
                .client
                .sessions()?
                .into_iter()
                .filter(|info| living.contains_key(&(info.session.get(), info.serial)))
                .filter(|info| !info.label.as_str().starts_with("steady"))
                .filter(|info| (info.leased_bytes, info.pins, info.arenas_held) != (0, 0, 0))
                .collect();
            Ok(left.is_empty())
        })?;
        if !none_is_left {
            let text = format!("workers that have nothing hold, as the daemon says: {left:?}");
            self.report.wrong(Wrong::Once, text);
        }
        Ok(())
    }

    /// Kills everybody, after which everything must be free.
    pub(super) fn baseline(&mut self) -> Result<()> {
        let daemon = std::sync::Arc::clone(&self.daemon);
        let _held = daemon.hold();
        while !self.workers.is_empty() {
            self.kill(0);
        }
        self.check_sessions()?;
        for token in self.ledger.settle() {
            self.must_be_gone(&token);
        }
        while let Some(token) = self.ledger.take_from_bank() {
            self.free(&token);
        }
        let mut last = None;
        let is_free = within(MAX_SWEEP, || {
            self.pool.purge()?;
            let stat = self.pool.stat()?;
            let arenas = self.arenas.stat()?;
            let mut is_free = counts(&stat) == [0; 4]
                && stat.committed_bytes == 0
                && (arenas.free, arenas.waiting) == (ARENAS, 0);
            let mut bytes = stat.committed_bytes;
            bytes += u64::from(ARENAS.saturating_sub(arenas.free)) * ARENA_BYTES;
            let mut text = format!("everybody is dead: {stat:?}, {arenas:?}");
            if let Some(named) = &self.named {
                named.purge()?;
                let stat = named.stat()?;
                is_free &= stat.committed_bytes == 0;
                bytes += stat.committed_bytes;
                text += &format!(", {stat:?}");
            }
            last = Some((bytes, text));
            Ok(is_free)
        })?;
        if let Some((bytes, text)) = last.filter(|_| !is_free) {
            self.report.leak(bytes, text);
        }
        self.report.baselines.add(1);
        Ok(())
    }

    /// Tells everybody to stop, and waits until they have; returns what they have then.
    fn stand_still(&mut self, order: &Order) -> Result<Belongings> {
        for worker in &mut self.workers {
            worker.go_on();
            worker.paused.clear();
            worker.tell(order);
        }
        let start = Instant::now();
        while !self.workers.iter().all(|worker| worker.stands_still()) {
            self.hear(STEP)?;
            if start.elapsed() > MAX_STOP {
                let at_work = |worker: &&crate::team::Worker| !worker.stands_still();
                let at_work: Vec<u16> = self
                    .workers
                    .iter()
                    .filter(at_work)
                    .map(|worker| worker.id)
                    .collect();
                let text = format!("workers {at_work:?} do not come to a stand");
                self.report.wrong(Wrong::Error, text);
                bail!("workers hang");
            }
        }
        let mut sum = Belongings::default();
        for has in self.workers.iter().flat_map(|worker| &worker.paused) {
            sum.taken += has.taken;
            sum.pins += has.pins;
            sum.arenas += has.arenas;
        }
        Ok(sum)
    }

    /// Checks that exactly the living have sessions.
    fn check_sessions(&mut self) -> Result<()> {
        let mut expected: BTreeSet<SessionId> = self.living.sessions().into_keys().collect();
        expected.insert((self.client.session().get(), self.client.session_serial()));
        let mut listed = BTreeSet::new();
        let is_so = within(MAX_SWEEP, || {
            let sessions = self.client.sessions()?;
            listed = sessions
                .iter()
                .map(|info| (info.session.get(), info.serial))
                .collect();
            Ok(listed == expected)
        })?;
        if !is_so {
            for session in expected.difference(&listed) {
                let text = format!("a living worker has lost its session {session:?}");
                self.report.wrong(Wrong::FalseDeath, text);
            }
            for session in listed.difference(&expected) {
                self.report
                    .leak(0, format!("session {session:?} of the dead is alive"));
            }
        }
        Ok(())
    }

    /// Looks at the block of every token, while everybody stands still.
    fn check_tokens(&mut self) {
        for token in self.ledger.settle() {
            self.must_be_gone(&token);
        }
        for token in self.ledger.tokens() {
            match self.look(&token) {
                Ok(true) => {}
                Ok(false) => {
                    let text = format!("{token} is not there");
                    self.report.wrong(Wrong::Lost, text);
                }
                Err(text) => self.report.wrong(Wrong::Overlap, text),
            }
        }
    }

    fn must_be_gone(&self, token: &Token) {
        let view = self.pool.resolve_slice::<u64>(token.handle);
        if view.is_ok() {
            let bytes = 8 * token.words as u64;
            let text = format!("{token} is still there, though its owner is dead");
            self.report.leak(bytes, text);
        }
    }

    /// Compares the numbers, while everybody stands still.
    fn check_counts(&mut self, has: Belongings) -> Result<()> {
        let tokens = self.ledger.tokens();
        let kept = tokens.iter().filter(|token| token.owner.is_none()).count() as u64;
        let named = tokens.iter().filter(|token| token.named).count() as u64;
        let expected = [tokens.len() as u64 + has.taken, kept, named, has.pins];
        let mut stat = None;
        let mut found = ([0; 4], 0);
        let is_so = within(MAX_SWEEP, || {
            let now = self.pool.stat()?;
            found = (counts(&now), self.arenas.stat()?.exclusive);
            stat = Some(now);
            Ok((found.0, u64::from(found.1)) == (expected, has.arenas))
        })?;
        if let Some(stat) = stat {
            if let Err(what) = adds_up(&stat) {
                self.report.wrong(Wrong::Conservation, what);
            }
            if stat.condemned_blocks > stat.pins {
                self.report
                    .wrong(Wrong::Conservation, format!("condemned > pins: {stat:?}"));
            }
        }
        if !is_so {
            let text = format!(
                "[blocks, kept, named, pins], arenas: the daemon has {found:?}, the workers {:?}",
                (expected, has.arenas)
            );
            let (more, fewer) = (found.0[0] > expected[0], found.0[0] < expected[0]);
            self.report.wrong(
                match (more, fewer) {
                    (true, _) => Wrong::Leak,
                    (_, true) => Wrong::Lost,
                    _ => Wrong::Once,
                },
                text,
            );
        }
        Ok(())
    }

    /// Returns whether a block is there; an error if it is not what it was.
    fn look(&self, token: &Token) -> Result<bool, String> {
        let read = self
            .pool
            .resolve_slice::<u64>(token.handle)
            .and_then(|view| view.read_slice());
        match read {
            Ok(words) if words.len() != token.words => {
                Err(format!("{token} has {} words", words.len()))
            }
            Ok(words) => match token.stamp.verify(&words) {
                Ok(()) => Ok(true),
                Err(mismatch) => Err(format!("{token}: {mismatch}")),
            },
            Err(error) if error.is_stale() => Ok(false),
            Err(error) => Err(format!("{token}: {error:?}")),
        }
    }

    /// Frees a block out of the bank.
    pub(super) fn free(&self, token: &Token) {
        match self.look(token) {
            Ok(true) => self.free_uncertain(token),
            // Its owner may have been killed a moment ago.
            Ok(false) if self.ledger.died_with_owner(token) => {}
            Ok(false) => {
                let text = format!("director: {token} is not there");
                self.report.wrong(Wrong::Lost, text);
            }
            Err(text) => self
                .report
                .wrong(Wrong::Overlap, format!("director: {text}")),
        }
    }

    /// Frees a block that may be there or not, since nobody knows what its last owner, who is
    /// dead, has done to it.
    pub(super) fn free_uncertain(&self, token: &Token) {
        if let Err(text) = self.look(token) {
            self.report.wrong(Wrong::Overlap, text);
        }
        match self.pool.free(token.handle) {
            Ok(()) => {}
            Err(error) if error.is_stale() => {}
            Err(error) => {
                let text = format!("director: free {token}: {error:?}");
                self.report.wrong(Wrong::Error, text);
            }
        }
    }
}

/// Exported blocks, kept ones, named ones, pins.
fn counts(stat: &PoolStat) -> [u64; 4] {
    [stat.blocks, stat.kept_blocks, stat.named_blocks, stat.pins]
}

/// Waits until `is_so`; returns whether that came in time.
fn within(
    time: Duration,
    mut is_so: impl FnMut() -> Result<bool, goumem::Error>,
) -> Result<bool, goumem::Error> {
    let start = Instant::now();
    loop {
        // Before the look, so that a slow one is not held against it.
        let elapsed = start.elapsed();
        if is_so()? {
            return Ok(true);
        }
        if elapsed > time {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
