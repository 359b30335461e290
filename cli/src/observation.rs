//! What the daemon has at one moment: the same for one look (`top --once`) and for many (`top`).
//! The rows are made here too, so that both show the same under the same names.

use std::collections::HashMap;
use std::time::Duration;

use goumem::blocking::Client;
use goumem::{
    ArenaPoolInfo, ArenaPoolStat, DaemonInfo, Error, Holder, PoolInfo, PoolStat, Reason,
    SessionInfo, SessionNumber,
};

use crate::output::{Cell, List, Output, Record};

#[cfg(test)]
pub(crate) mod tests;

/// What a caller may see of the daemon at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observation {
    /// When it was taken, since the program began to look.
    pub(crate) at: Duration,
    pub(crate) daemon: DaemonInfo,
    pub(crate) pools: Vec<PoolStat>,
    pub(crate) arena_pools: Vec<ArenaPoolStat>,
    pub(crate) sessions: Vec<SessionInfo>,
}

/// Sums over all pools and arena pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// In exported blocks and in arenas.
    pub(crate) used_bytes: u64,
    /// Of pools: in spans that somebody holds. Of arena pools: in arenas that somebody holds.
    pub(crate) held_bytes: u64,
    /// Backed by memory, tables included.
    pub(crate) committed_bytes: u64,
}

/// The tables there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Pools,
    Arenas,
    Sessions,
}

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Names the same thing in the next observation.
    pub(crate) id: String,
    /// In the order of the topic's columns.
    pub(crate) cells: Vec<Cell>,
}

impl Observation {
    /// Looks at everything that the caller may see: a call for each pool.
    ///
    /// # Errors
    /// Whatever a call fails with, but for pools that go meanwhile or are not the caller's.
    pub(crate) fn take(client: &Client, at: Duration) -> Result<Self, Error> {
        let daemon = client.info()?;
        let mut pools = Vec::new();
        for pool in client.list_pools()? {
            pools.extend(unless_hidden(client.stat_pool(pool.name.as_str()))?);
        }
        let mut arena_pools = Vec::new();
        for pool in client.list_arena_pools()? {
            arena_pools.extend(unless_hidden(client.stat_arena_pool(pool.name.as_str()))?);
        }
        Ok(Self {
            at,
            daemon,
            pools,
            arena_pools,
            sessions: client.sessions()?,
        })
    }

    /// Returns the sums over all pools.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for pool in &self.pools {
            totals.used_bytes += pool.used_bytes;
            totals.held_bytes += held_bytes(pool);
        }
        for pool in &self.arena_pools {
            totals.used_bytes += pool.used_bytes;
            totals.held_bytes += arenas_held_bytes(pool);
        }
        totals.committed_bytes = self.daemon.committed_bytes;
        totals
    }

    /// Returns a table's rows. Changes are since `before`, if there was anything before.
    pub(crate) fn rows(&self, topic: Topic, before: Option<&Self>) -> Vec<Row> {
        // Another daemon's numbers say nothing about this one's.
        let before = before.filter(|before| before.at < self.at);
        match topic {
            Topic::Pools => self.pool_rows(before),
            Topic::Arenas => self.arena_rows(before),
            Topic::Sessions => self.session_rows(before),
        }
    }

    /// Returns who holds most of a pool, for people.
    pub(crate) fn holders(&self, pool: &PoolStat) -> Vec<String> {
        let whats = whats(&self.sessions);
        pool.top_holders
            .iter()
            .map(|holder| say_holder(holder, &whats))
            .collect()
    }

    /// Returns everything, for one print.
    pub(crate) fn output(&self, before: Option<&Self>) -> Output {
        let totals = self.totals();
        let list = |topic: Topic| {
            let mut list = List::new(topic.columns());
            for row in self.rows(topic, before) {
                list.push_row(row.cells);
            }
            list
        };
        let record = Record::new()
            .with("version", self.daemon.version.as_str())
            .with("pid", self.daemon.pid)
            .with("epoch", self.daemon.epoch)
            .with("uptime_ms", self.daemon.uptime)
            .with("used_bytes", Cell::Bytes(totals.used_bytes))
            .with("held_bytes", Cell::Bytes(totals.held_bytes))
            .with("committed_bytes", Cell::Bytes(totals.committed_bytes))
            .with(
                "budget_limit_bytes",
                Cell::Bytes(self.daemon.budget_limit_bytes),
            )
            .with("available_bytes", Cell::Bytes(self.daemon.available_bytes))
            .with("pools", list(Topic::Pools))
            .with("arena_pools", list(Topic::Arenas))
            .with("sessions", list(Topic::Sessions));
        Output::Record(record)
    }

    fn pool_rows(&self, before: Option<&Self>) -> Vec<Row> {
        let then: HashMap<_, _> = before
            .iter()
            .flat_map(|before| &before.pools)
            .map(|pool| (pool.pool.pool_id.get(), held_bytes(pool)))
            .collect();
        let row = |pool: &PoolStat| {
            let PoolInfo {
                pool_id,
                name,
                capacity_bytes,
                ..
            } = &pool.pool;
            let held = held_bytes(pool);
            let free = capacity_bytes.saturating_sub(held);
            Row {
                id: pool_id.to_string(),
                cells: vec![
                    name.as_str().into(),
                    Cell::Bytes(held),
                    Cell::Bytes(pool.used_bytes),
                    Cell::Bytes(*capacity_bytes),
                    Cell::Percent(percent(held, *capacity_bytes)),
                    self.change(before, then.get(&pool_id.get()), held),
                    Cell::Bytes(pool.committed_bytes),
                    Cell::Bytes(pool.largest_free_bytes),
                    Cell::Percent(fragmented_percent(free, pool.largest_free_bytes)),
                    pool.blocks.into(),
                    pool.sessions.into(),
                ],
            }
        };
        self.pools.iter().map(row).collect()
    }

    fn arena_rows(&self, before: Option<&Self>) -> Vec<Row> {
        let then: HashMap<_, _> = before
            .iter()
            .flat_map(|before| &before.arena_pools)
            .map(|pool| (pool.pool.pool_id.get(), pool.used_bytes))
            .collect();
        let row = |pool: &ArenaPoolStat| {
            let ArenaPoolInfo {
                pool_id,
                name,
                arenas,
                arena_bytes,
                ..
            } = &pool.pool;
            Row {
                id: pool_id.to_string(),
                cells: vec![
                    name.as_str().into(),
                    Cell::Bytes(pool.used_bytes),
                    (*arenas).into(),
                    pool.free.into(),
                    pool.exclusive.into(),
                    pool.named.into(),
                    pool.waiting.into(),
                    self.change(before, then.get(&pool_id.get()), pool.used_bytes),
                    Cell::Bytes(*arena_bytes),
                    Cell::Bytes(pool.committed_bytes),
                    pool.sessions.into(),
                ],
            }
        };
        self.arena_pools.iter().map(row).collect()
    }

    fn session_rows(&self, before: Option<&Self>) -> Vec<Row> {
        let held = |session: &SessionInfo| session.leased_bytes + session.rpc_bytes;
        let then: HashMap<_, _> = before
            .iter()
            .flat_map(|before| &before.sessions)
            .map(|session| (session.serial, held(session)))
            .collect();
        let row = |session: &SessionInfo| Row {
            id: session.serial.to_string(),
            cells: vec![
                what_is(session).into(),
                Cell::Bytes(held(session)),
                session.pid.into(),
                session.uid.into(),
                session.arenas_held.into(),
                self.change(before, then.get(&session.serial), held(session)),
                session.pins.into(),
                session.age.into(),
                u32::from(session.session.get()).into(),
                session.connected.into(),
            ],
        };
        self.sessions.iter().map(row).collect()
    }

    /// Returns the bytes a second by which something has grown. What was not there before has none.
    fn change(&self, before: Option<&Self>, then: Option<&u64>, now: u64) -> Cell {
        let (Some(before), Some(&then)) = (before, then) else {
            return Cell::None;
        };
        let micros = i128::try_from((self.at - before.at).as_micros()).unwrap_or(i128::MAX);
        let grown = i128::from(now) - i128::from(then);
        let rate = grown * 1_000_000 / micros.max(1);
        let saturated = rate.clamp(i64::MIN.into(), i64::MAX.into());
        Cell::PerSecond(i64::try_from(saturated).expect("clamped to that"))
    }
}

impl Topic {
    pub(crate) const ALL: [Self; 3] = [Self::Pools, Self::Arenas, Self::Sessions];

    /// Returns its columns, the most telling first: the last ones go where there is no room.
    pub(crate) const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Pools => &[
                "name",
                "held_bytes",
                "used_bytes",
                "capacity_bytes",
                "full_percent",
                "change_bytes_per_second",
                "committed_bytes",
                "largest_free_bytes",
                "fragmented_percent",
                "blocks",
                "sessions",
            ],
            Self::Arenas => &[
                "name",
                "used_bytes",
                "arenas",
                "free",
                "exclusive",
                "named",
                "waiting",
                "change_bytes_per_second",
                "arena_bytes",
                "committed_bytes",
                "sessions",
            ],
            Self::Sessions => &[
                "what",
                "held_bytes",
                "pid",
                "uid",
                "arenas",
                "change_bytes_per_second",
                "pins",
                "age_ms",
                "session",
                "connected",
            ],
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Pools => "Pools",
            Self::Arenas => "Arena pools",
            Self::Sessions => "Sessions",
        }
    }
}

/// Returns what is granted of a pool's capacity.
pub(crate) fn held_bytes(pool: &PoolStat) -> u64 {
    pool.leased_bytes.saturating_add(pool.abandoned_bytes)
}

fn arenas_held_bytes(pool: &ArenaPoolStat) -> u64 {
    let held = pool.exclusive.saturating_add(pool.named);
    u64::from(held).saturating_mul(pool.pool.arena_bytes)
}

/// Returns how much of what is free cannot be had as one block, in percent; 0 where nothing is
/// free.
pub(crate) fn fragmented_percent(free_bytes: u64, largest_free_bytes: u64) -> u64 {
    match free_bytes {
        0 => 0,
        free => 100 - percent(largest_free_bytes.min(free), free),
    }
}

/// Returns a part in percent, rounded down but never from something to nothing.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if part == 0 || whole == 0 {
        return 0;
    }
    let exact = u128::from(part) * 100 / u128::from(whole);
    u64::try_from(exact).unwrap_or(u64::MAX).max(1)
}

/// What sessions are, by number.
pub(crate) fn whats(sessions: &[SessionInfo]) -> HashMap<u16, String> {
    sessions
        .iter()
        .map(|session| (session.session.get(), what_is(session)))
        .collect()
}

/// Returns what a session calls itself: the label, else its command.
pub(crate) fn what_is(session: &SessionInfo) -> String {
    match session.label.as_str() {
        "" => session.command.clone().unwrap_or_default(),
        label => label.to_owned(),
    }
}

/// Returns what a holder is.
pub(crate) fn what_holds(holder: &Holder, whats: &HashMap<u16, String>) -> String {
    if holder.session == SessionNumber::NOBODY {
        return "kept blocks of sessions that have ended".to_owned();
    }
    if holder.session == SessionNumber::DAEMON {
        return "blocks allocated by RPC".to_owned();
    }
    whats
        .get(&holder.session.get())
        .cloned()
        .unwrap_or_default()
}

/// Returns a holder for people.
pub(crate) fn say_holder(holder: &Holder, whats: &HashMap<u16, String>) -> String {
    let what = what_holds(holder, whats);
    crate::error::holder(holder.pid, &what, holder.uid, holder.bytes)
}

/// Returns nothing for what has gone since it was listed, or is not the caller's to see.
fn unless_hidden<T>(stat: Result<T, Error>) -> Result<Option<T>, Error> {
    match stat {
        Ok(stat) => Ok(Some(stat)),
        Err(error) => match error.reason() {
            Some(Reason::PoolNotFound | Reason::PoolDestroyed | Reason::PermissionDenied) => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}
