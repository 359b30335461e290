//! The daemon's metrics: counters and histograms of what it does, kept here, and gauges made from
//! an [`Observation`] when somebody asks. Written as OpenMetrics text; docs/metrics.md lists them.
//!
//! The number of series is bounded whatever clients do: methods, codes, reasons and causes are
//! those of the protocol, and only the largest pools have series of their own.

use std::sync::OnceLock;
use std::time::Duration;

use goumem_proto::METHODS;
use goumem_proto::model::{EndCause, Happening};
use goumem_proto::reason::Reason;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::observation::Observation;

mod gauges;
mod process;
#[cfg(test)]
mod tests;

/// One label and its value.
type Label = (&'static str, &'static str);

/// Upper bounds of the latencies of calls, in seconds: from what a small call takes here to what
/// somebody notices.
const SECONDS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05,
    0.25, 1.0, 10.0,
];

/// What the metrics call a method that there is not.
const UNKNOWN_METHOD: &str = "_unknown";

/// Every code, by its number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Reasons for which memory is not to be had.
const REFUSALS: [Reason; 5] = [
    Reason::PoolExhausted,
    Reason::BudgetExhausted,
    Reason::QuotaExceeded,
    Reason::NoFreeArena,
    Reason::TooManyRecords,
];

/// Counts what the daemon does.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Pools with series of their own.
    most_pools: usize,
    sessions_opened: Counter,
    sessions_ended: Family<[Label; 1], Counter>,
    reclaimed_bytes: Family<[Label; 1], Counter>,
    pools_created: Family<[Label; 1], Counter>,
    pools_destroyed: Family<[Label; 1], Counter>,
    alloc_failures: Family<[Label; 1], Counter>,
    pressure: Counter,
    connections_refused: Counter,
    keepers_replaced: Counter,
    reloads: Counter,
    events_missed: Counter,
    calls: Family<[Label; 2], Counter>,
    call_seconds: Family<[Label; 1], Histogram, fn() -> Histogram>,
    /// By the place of its name in [`METHODS`], the unknown one last: looked up once.
    methods: Box<[OnceLock<Method>]>,
}

/// The series of one method.
#[derive(Debug)]
struct Method {
    name: &'static str,
    seconds: Histogram,
    codes: [OnceLock<Counter>; CODES.len()],
}

/// Names a method to [`Metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodIndex(usize);

impl MethodIndex {
    /// Finds a method by its full name, `goumem.v1.PoolService/Alloc`.
    pub(crate) fn of(name: &str) -> Self {
        Self(METHODS.binary_search(&name).unwrap_or(METHODS.len()))
    }
}

impl Metrics {
    /// Makes counters that stand at zero. At most `most_pools` pools and as many arena pools get
    /// series of their own.
    pub fn new(most_pools: usize) -> Self {
        let mut registry = Registry::with_prefix("goumem");
        let r = &mut registry;
        let sessions_opened = counter(r, "sessions_opened", "Sessions opened");
        let sessions_ended = counters(r, "sessions_ended", "Sessions ended, by cause");
        let reclaimed_bytes = Family::<[Label; 1], Counter>::default();
        r.register_with_unit(
            "reclaimed",
            "Bytes of spans and arenas that came back when their session ended, by cause",
            Unit::Bytes,
            reclaimed_bytes.clone(),
        );
        let pools_created = counters(r, "pools_created", "Pools created, by kind");
        let pools_destroyed = counters(r, "pools_destroyed", "Pools that lost their name, by kind");
        let alloc_failures = counters(
            r,
            "alloc_failures",
            "Allocations, leases, arenas and pools that were not to be had, by reason",
        );
        let pressure = counter(
            r,
            "pressure_events",
            "Times that clients were asked to give idle spans back",
        );
        let connections_refused = counter(
            r,
            "connections_refused",
            "Connections closed because there were too many",
        );
        let keepers_replaced = counter(
            r,
            "keepers_replaced",
            "Times that the process which keeps fds was replaced",
        );
        let reloads = counter(r, "reloads", "Times that the configuration was read again");
        let events_missed = counter(
            r,
            "events_missed",
            "Events that watchers lost because they did not keep up",
        );
        let calls = Family::<[Label; 2], Counter>::default();
        r.register(
            "calls",
            "Calls answered, by method and code; a stream counts when it begins",
            calls.clone(),
        );
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let call_seconds = Family::new_with_constructor(histogram);
        r.register_with_unit(
            "call",
            "Time from a call to its answer in the daemon, by method; of a stream to its beginning",
            Unit::Seconds,
            call_seconds.clone(),
        );
        let metrics = Self {
            registry,
            most_pools,
            sessions_opened,
            sessions_ended,
            reclaimed_bytes,
            pools_created,
            pools_destroyed,
            alloc_failures,
            pressure,
            connections_refused,
            keepers_replaced,
            reloads,
            events_missed,
            calls,
            call_seconds,
            methods: (0..=METHODS.len()).map(|_| OnceLock::new()).collect(),
        };
        metrics.show_zeros();
        metrics
    }

    /// What has not happened yet is 0, and not unknown: rates need a first value.
    fn show_zeros(&self) {
        for cause in EndCause::ALL {
            let label = [("cause", cause.as_str())];
            drop(self.sessions_ended.get_or_create(&label));
            drop(self.reclaimed_bytes.get_or_create(&label));
        }
        for arenas in [false, true] {
            drop(self.pools_created.get_or_create(&[kind(arenas)]));
            drop(self.pools_destroyed.get_or_create(&[kind(arenas)]));
        }
        for reason in REFUSALS {
            let label = [("reason", reason.as_str())];
            drop(self.alloc_failures.get_or_create(&label));
        }
    }

    /// Counts what has happened.
    pub(crate) fn count(&self, happening: &Happening) {
        match happening {
            Happening::PoolCreated(pool) => {
                self.pools_created.get_or_create(&[kind(pool.arenas)]).inc();
            }
            Happening::PoolDestroyed(pool) => {
                let label = [kind(pool.arenas)];
                self.pools_destroyed.get_or_create(&label).inc();
            }
            Happening::SessionOpened(_) => {
                self.sessions_opened.inc();
            }
            Happening::SessionEnded {
                cause,
                reclaimed_bytes,
                ..
            } => {
                let label = [("cause", cause.as_str())];
                self.sessions_ended.get_or_create(&label).inc();
                let reclaimed = self.reclaimed_bytes.get_or_create(&label);
                reclaimed.inc_by(*reclaimed_bytes);
            }
            Happening::Pressure(_) => {
                self.pressure.inc();
            }
            Happening::Refused(refusal) => {
                let label = [("reason", refusal.reason.as_str())];
                self.alloc_failures.get_or_create(&label).inc();
            }
            Happening::ConnectionRefused { .. } => {
                self.connections_refused.inc();
            }
            Happening::KeeperReplaced => {
                self.keepers_replaced.inc();
            }
            Happening::Reloaded { .. } => {
                self.reloads.inc();
            }
            _ => {}
        }
    }

    /// Counts events that a watcher lost.
    pub(crate) fn count_missed(&self, events: u64) {
        self.events_missed.inc_by(events);
    }

    /// Notes how a call ended, and how long it took.
    pub(crate) fn called(&self, method: MethodIndex, code: Code, took: Duration) {
        let Some(cell) = self.methods.get(method.0) else {
            return;
        };
        let method = cell.get_or_init(|| {
            let name = METHODS.get(method.0).copied().unwrap_or(UNKNOWN_METHOD);
            Method {
                name,
                seconds: self.call_seconds.get_or_create_owned(&[("method", name)]),
                codes: Default::default(),
            }
        });
        method.seconds.observe(took.as_secs_f64());
        let number = usize::try_from(i32::from(code)).unwrap_or(0);
        if let (Some(counter), Some(code)) = (method.codes.get(number), CODES.get(number)) {
            let label = [("method", method.name), ("code", *code)];
            counter
                .get_or_init(|| self.calls.get_or_create_owned(&label))
                .inc();
        }
    }

    /// Returns how many connections were refused.
    #[cfg(test)]
    pub(crate) fn connections_refused(&self) -> u64 {
        self.connections_refused.get()
    }

    /// Writes all metrics as OpenMetrics text.
    pub fn encode(&self, observation: &Observation) -> String {
        let gauges = gauges::registry(observation, self.most_pools);
        let process = process::registry();
        let mut text = String::with_capacity(64 << 10);
        [&gauges, &self.registry, &process]
            .into_iter()
            .try_for_each(|registry| encode_registry(&mut text, registry))
            .and_then(|()| encode_eof(&mut text))
            .expect("a string takes all text");
        text
    }
}

fn kind(arenas: bool) -> Label {
    ("kind", if arenas { "arenas" } else { "blocks" })
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn counters(registry: &mut Registry, name: &str, help: &str) -> Family<[Label; 1], Counter> {
    let counters = Family::default();
    registry.register(name, help, Family::clone(&counters));
    counters
}
