//! What watchers hear and metrics count: the same things, in order, and each only by those whose
//! business it is.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use goumem_proto::model::{EndCause, EventKind, Happening, WatchEvent, WatchRequest};
use tokio_stream::Stream;

use super::*;
use crate::core::Viewer;
use crate::events::Watcher;

impl Daemon {
    fn watch(&self, caller: &Caller, kinds: &[EventKind]) -> Watcher {
        let kinds = kinds.to_vec();
        self.core
            .hub()
            .watch(caller.clone(), WatchRequest { kinds }, self.now)
    }

    /// The value of one series.
    #[track_caller]
    fn metric(&self, series: &str) -> f64 {
        let text = self
            .core
            .metrics()
            .encode(&self.core.observe(Viewer::Everything, self.now));
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
        value.trim().parse().unwrap()
    }
}

/// Everything that has come by now.
fn heard(watcher: &mut Watcher) -> Vec<WatchEvent> {
    let mut context = Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    while let Poll::Ready(Some(event)) = Pin::new(&mut *watcher).poll_next(&mut context) {
        events.push(event);
    }
    events
}

fn kinds(events: &[WatchEvent]) -> Vec<EventKind> {
    let kinds = events.iter().map(|event| event.happening.kind().unwrap());
    kinds.collect()
}

#[test]
fn life_of_pools_and_sessions_is_told_in_order_and_counted() {
    let mut daemon = Daemon::start();
    let root = daemon.caller(0);
    let mut watcher = daemon.watch(&root, &[]);
    daemon.now += Duration::from_secs(3);
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    let arenas = daemon.arena_pool(&alice, "a", 4);
    let class = SizeClass::for_simple_layout(100, 16).unwrap();
    let spans: u64 = (0..3)
        .map(|_| daemon.lease(&alice, pool, class).unwrap()[0].pages.bytes())
        .sum();
    let get = GetArena {
        pool_id: arenas,
        request_id: RequestId::NONE,
        wait: Duration::ZERO,
    };
    daemon.core.get_arena(&alice, get, daemon.now).unwrap();
    let arena_bytes = daemon.core.list_arena_pools(&root).unwrap()[0].arena_bytes;
    daemon.die(&alice);
    let bob = daemon.caller(0);
    daemon.destroy(&bob, "p").unwrap();
    let close = CloseSession { force: false };
    daemon.core.close_session(&bob, close, daemon.now).unwrap();

    let events = heard(&mut watcher);
    use EventKind::*;
    assert_eq!(
        kinds(&events),
        [
            Watching,
            SessionOpened,
            PoolCreated,
            PoolCreated,
            SessionEnded,
            SessionOpened,
            PoolDestroyed,
            SessionEnded
        ]
    );
    let numbers: Vec<u64> = events[1..].iter().map(|event| event.sequence).collect();
    let first = numbers[0];
    assert_eq!(numbers, (first..first + 7).collect::<Vec<_>>());
    assert_eq!(events[1].uptime, Duration::from_secs(3));
    let (Happening::PoolCreated(blocks), Happening::PoolCreated(arena_pool)) =
        (&events[2].happening, &events[3].happening)
    else {
        panic!("{events:?}");
    };
    assert_eq!((blocks.name.as_str(), blocks.arenas), ("p", false));
    assert_eq!((arena_pool.name.as_str(), arena_pool.arenas), ("a", true));
    let Happening::SessionEnded {
        session,
        cause,
        reclaimed_bytes,
    } = &events[4].happening
    else {
        panic!("{events:?}");
    };
    assert_eq!(session.session, alice.session.as_ref().unwrap().number);
    assert_eq!((session.uid, *cause), (1000, EndCause::Died));
    assert_eq!(
        *reclaimed_bytes,
        spans + arena_bytes,
        "what it held, exactly"
    );

    let count = |series: &str| daemon.metric(series);
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let held = (spans + arena_bytes) as f64;
    for (series, value) in [
        ("goumem_sessions_opened_total", 3.0),
        ("goumem_sessions_ended_total{cause=\"died\"}", 1.0),
        ("goumem_sessions_ended_total{cause=\"closed\"}", 1.0),
        ("goumem_sessions_ended_total{cause=\"expired\"}", 0.0),
        ("goumem_reclaimed_bytes_total{cause=\"died\"}", held),
        ("goumem_reclaimed_bytes_total{cause=\"closed\"}", 0.0),
        ("goumem_pools_created_total{kind=\"blocks\"}", 1.0),
        ("goumem_pools_created_total{kind=\"arenas\"}", 1.0),
        ("goumem_pools_destroyed_total{kind=\"blocks\"}", 1.0),
        ("goumem_sessions ", 1.0),
        ("goumem_arena_pool_free{pool=\"a\"}", 4.0),
    ] {
        assert_eq!(count(series), value, "{series}");
    }
}

#[test]
fn each_hears_only_what_is_its_business() {
    let daemon = Daemon::start();
    // Not the user that runs the tests, who hears everything.
    let (alice, bob) = (daemon.caller(71_000), daemon.caller(71_001));
    let root = daemon.caller(0);
    let far = Caller {
        local: false,
        ..root.clone()
    };
    let mut watchers = [&alice, &bob, &root, &far].map(|caller| daemon.watch(caller, &[]));
    daemon.pool(&alice, "closed", MIB);
    let open = CreatePool {
        mode: 0o664,
        ..create("open", MIB)
    };
    daemon.core.create_pool(&alice, open, daemon.now).unwrap();
    let pool = daemon.pool(&bob, "bobs", MIB);
    daemon.alloc(&bob, pool, 2 * MIB).unwrap_err();
    daemon.die(&bob);
    daemon.core.hub().tell(
        crate::events::About::Operators,
        Happening::KeeperReplaced,
        daemon.now,
    );
    let [of_alice, of_bob, of_root, of_far] = watchers.each_mut().map(|watcher| {
        let events = heard(watcher);
        kinds(&events)
    });
    use EventKind::*;
    assert_eq!(of_alice, [Watching, PoolCreated, PoolCreated]);
    assert_eq!(
        of_bob,
        [
            Watching,
            PoolCreated,
            PoolCreated,
            Pressure,
            Refused,
            SessionEnded
        ]
    );
    assert_eq!(
        of_root,
        [
            Watching,
            PoolCreated,
            PoolCreated,
            PoolCreated,
            Pressure,
            Refused,
            SessionEnded,
            KeeperReplaced
        ]
    );
    assert_eq!(of_far, [Watching, PoolCreated], "what others may read");
}

#[test]
fn only_the_kinds_that_were_asked_for_are_told() {
    let daemon = Daemon::start();
    let root = daemon.caller(0);
    let mut watcher = daemon.watch(&root, &[EventKind::SessionEnded]);
    let alice = daemon.caller(1000);
    daemon.pool(&alice, "p", MIB);
    daemon.die(&alice);
    let events = heard(&mut watcher);
    assert_eq!(
        kinds(&events),
        [EventKind::Watching, EventKind::SessionEnded]
    );
}

#[test]
fn who_does_not_keep_up_hears_how_much_was_lost() {
    let daemon = Daemon::start();
    let root = daemon.caller(0);
    let mut watcher = daemon.watch(&root, &[]);
    let n = 1024 + 50;
    for _ in 0..n {
        let reloaded = Happening::Reloaded {
            changes: String::new(),
        };
        let about = crate::events::About::Operators;
        daemon.core.hub().tell(about, reloaded, daemon.now);
    }
    let events = heard(&mut watcher);
    assert_eq!(events[0].happening, Happening::Watching);
    assert_eq!(events[1].happening, Happening::Lagged { missed: 50 });
    assert_eq!(events.len(), 2 + 1024);
    // Its number is that of the last one that was lost.
    assert_eq!(events[1].sequence, events[0].sequence + 50);
    assert_eq!(events[2].sequence, events[1].sequence + 1);
    assert_eq!(daemon.metric("goumem_events_missed_total"), 50.0);
    assert_eq!(daemon.metric("goumem_reloads_total"), f64::from(n));
}

#[test]
fn refusals_are_counted_each_time_and_told_ten_times_a_second() {
    let mut daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let arenas = daemon.arena_pool(&alice, "a", 1);
    let mut watcher = daemon.watch(&alice, &[EventKind::Refused]);
    for _ in 0..7 {
        daemon.alloc(&alice, pool, 2 * MIB).unwrap_err();
    }
    daemon.now += Duration::from_millis(100);
    let get = GetArena {
        pool_id: arenas,
        request_id: RequestId::NONE,
        wait: Duration::ZERO,
    };
    daemon.core.get_arena(&alice, get, daemon.now).unwrap();
    daemon.core.get_arena(&alice, get, daemon.now).unwrap_err();
    let events = heard(&mut watcher);
    let refusals: Vec<_> = events[1..]
        .iter()
        .map(|event| match &event.happening {
            Happening::Refused(refusal) => (refusal.reason, refusal.requested_bytes),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        refusals,
        [
            (Reason::PoolExhausted, Some(2 * MIB)),
            (Reason::NoFreeArena, None)
        ]
    );
    let failures = |reason: &str| {
        daemon.metric(&format!(
            "goumem_alloc_failures_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(failures("POOL_EXHAUSTED"), 7.0);
    assert_eq!(failures("NO_FREE_ARENA"), 1.0);
    assert_eq!(failures("BUDGET_EXHAUSTED"), 0.0);
    assert_eq!(daemon.metric("goumem_pressure_events_total"), 7.0);
}

#[test]
fn sharing_an_arena_and_letting_go_of_it_is_told() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.arena_pool(&alice, "a", 2);
    let mut watcher = daemon.watch(&alice, &[]);
    let get = GetArena {
        pool_id: pool,
        request_id: RequestId::NONE,
        wait: Duration::ZERO,
    };
    let Waited::Now(got) = daemon.core.get_arena(&alice, get, daemon.now).unwrap() else {
        panic!("there are free arenas");
    };
    let share = ShareArena {
        arena: got.arena,
        name: ArenaName::try_from("batch/1").unwrap(),
        request_id: RequestId::NONE,
    };
    let shared = daemon.core.share_arena(&alice, share, daemon.now).unwrap();
    let detach = DetachArena {
        arena: shared.arena,
        request_id: RequestId::NONE,
    };
    daemon
        .core
        .detach_arena(&alice, detach, daemon.now)
        .unwrap();
    let events = heard(&mut watcher);
    let [_, shared, detached] = &events[..] else {
        panic!("{events:?}");
    };
    let (Happening::ArenaShared(shared), Happening::ArenaDetached(detached)) =
        (&shared.happening, &detached.happening)
    else {
        panic!("{events:?}");
    };
    assert_eq!(shared, detached);
    assert_eq!((shared.index, shared.name.as_str()), (0, "batch/1"));
    assert_eq!(shared.pool.as_str(), "a");
}

#[test]
fn sessions_that_died_while_no_daemon_ran_are_counted_as_lost() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    let class = SizeClass::for_simple_layout(100, 16).unwrap();
    daemon.lease(&bob, pool, class).unwrap();
    // Its sweep did not come to its end.
    bob.session.as_ref().unwrap().mark_dead();
    let (daemon, _) = daemon.kill_and_restart([&alice]);
    assert_eq!(
        daemon.metric("goumem_sessions_ended_total{cause=\"lost\"}"),
        1.0
    );
    assert!(daemon.metric("goumem_reclaimed_bytes_total{cause=\"lost\"}") > 0.0);
}
