//! What the daemon's error leaves out, asked for while it can still be told: how full something is,
//! in words for people, and who holds it. An error that cannot be explained stays as it is.

use goumem::blocking::Client;
use goumem::{PoolStat, Reason};

use super::advice::Subject;
use super::{Failure, holder};
use crate::args::Command;
use crate::observation::{Observation, fragmented_percent, held_bytes, say_holder, what_is, whats};
use crate::output::human_bytes;

/// More say little, and the line gets long.
const MAX_HOLDERS: usize = 4;

/// Adds the numbers and who holds what is short.
pub(crate) fn explain(client: &Client, command: &Command, failure: Failure) -> Failure {
    let subject = Subject::of(command);
    let pool = subject.pool.as_deref().filter(|_| subject.kind == "pool");
    match (failure.reason(), pool) {
        (Some(Reason::PoolExhausted), Some(pool)) => match client.stat_pool(pool) {
            Ok(stat) => full(client, &stat, failure),
            Err(_) => failure,
        },
        (
            Some(Reason::CapacityTooSmall | Reason::TooManyRecords | Reason::BlockPinned),
            Some(pool),
        ) => match client.stat_pool(pool) {
            Ok(stat) => failure.held_by(holders(client, &stat)),
            Err(_) => failure,
        },
        (Some(Reason::BudgetExhausted | Reason::TooManyPools), _) => spent(client, failure),
        (Some(Reason::QuotaExceeded | Reason::TooManySessions), _) => match client.sessions() {
            Ok(sessions) => {
                let mut sessions: Vec<_> = sessions.iter().collect();
                sessions.sort_by_key(|s| std::cmp::Reverse(s.leased_bytes + s.rpc_bytes));
                let lines = sessions.iter().map(|session| {
                    let bytes = session.leased_bytes + session.rpc_bytes;
                    holder(session.pid, &what_is(session), session.uid, bytes)
                });
                failure.held_by(lines.take(MAX_HOLDERS).collect())
            }
            Err(_) => failure,
        },
        (Some(Reason::PermissionDenied), _) => denied(client, &subject, failure),
        _ => failure,
    }
}

/// Says of a full pool how full it is, and who holds it.
fn full(client: &Client, stat: &PoolStat, failure: Failure) -> Failure {
    let capacity = stat.pool.capacity_bytes;
    let held = held_bytes(stat);
    let free = capacity.saturating_sub(held);
    let asked = failure.number("requested_bytes").map(human_bytes);
    let message = format!(
        "pool {:?} is full: asked {}, largest free {} (held {} of {}, {} % fragmented)",
        stat.pool.name.as_str(),
        asked.as_deref().unwrap_or("more"),
        human_bytes(stat.largest_free_bytes),
        human_bytes(held),
        human_bytes(capacity),
        fragmented_percent(free, stat.largest_free_bytes),
    );
    failure
        .saying(message)
        .held_by(holders(client, stat))
        .with_number("largest_free_bytes", stat.largest_free_bytes)
        .with_number("held_bytes", held)
        .with_number("capacity_bytes", capacity)
}

/// Says how much the daemon has committed, and for which pools.
fn spent(client: &Client, failure: Failure) -> Failure {
    let Ok(seen) = Observation::take(client, std::time::Duration::ZERO) else {
        return failure;
    };
    let blocks = seen.pools.iter().map(|stat| {
        let committed = stat.committed_bytes + stat.table_bytes;
        (
            committed,
            "pool",
            &stat.pool.name,
            stat.pool.permissions.uid,
        )
    });
    let arenas = seen.arena_pools.iter().map(|stat| {
        let committed = stat.committed_bytes + stat.table_bytes;
        (
            committed,
            "arena pool",
            &stat.pool.name,
            stat.pool.permissions.uid,
        )
    });
    let mut pools: Vec<_> = blocks.chain(arenas).collect();
    pools.sort_by_key(|&(committed, ..)| std::cmp::Reverse(committed));
    let lines = pools.iter().map(|(committed, kind, name, uid)| {
        format!("{kind} {name} (uid {uid}) {}", human_bytes(*committed))
    });
    let failure = failure.held_by(lines.take(MAX_HOLDERS).collect());
    if failure.reason() != Some(Reason::BudgetExhausted) {
        return failure;
    }
    let daemon = &seen.daemon;
    let asked = failure.number("requested_bytes").map(human_bytes);
    let message = format!(
        "the daemon's budget is spent: asked {}, committed {} of {}, {} left on the machine",
        asked.as_deref().unwrap_or("more"),
        human_bytes(daemon.committed_bytes),
        human_bytes(daemon.budget_limit_bytes),
        human_bytes(daemon.available_bytes),
    );
    failure
        .saying(message)
        .with_number("committed_bytes", daemon.committed_bytes)
        .with_number("budget_limit_bytes", daemon.budget_limit_bytes)
        .with_number("available_bytes", daemon.available_bytes)
}

/// Says whose pool it is.
fn denied(client: &Client, subject: &Subject, failure: Failure) -> Failure {
    let Some(pool) = subject.pool.as_deref() else {
        return failure;
    };
    let permissions = match subject.kind {
        "pool" => client.list_pools().ok().and_then(|pools| {
            let found = pools.into_iter().find(|info| info.name.as_str() == pool);
            found.map(|info| info.permissions)
        }),
        _ => client.list_arena_pools().ok().and_then(|pools| {
            let found = pools.into_iter().find(|info| info.name.as_str() == pool);
            found.map(|info| info.permissions)
        }),
    };
    match permissions {
        Some(owner) => failure.held_by(vec![format!(
            "uid {}, gid {}, mode 0{:03o}",
            owner.uid, owner.gid, owner.mode
        )]),
        None => failure,
    }
}

fn holders(client: &Client, stat: &PoolStat) -> Vec<String> {
    // Without the sessions a holder is a number, which is still worth saying.
    let whats = whats(&client.sessions().unwrap_or_default());
    let lines = stat.top_holders.iter();
    lines
        .take(MAX_HOLDERS)
        .map(|holder| say_holder(holder, &whats))
        .collect()
}
