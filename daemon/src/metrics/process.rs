//! What the daemon's own process takes, under the names that every exporter uses. What the kernel
//! does not tell is left out.

use std::fs;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};

/// Makes the gauges.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::with_prefix("process");
    if let Some(bytes) = resident_bytes() {
        let gauge: Gauge = Gauge::default();
        gauge.set(bytes);
        registry.register_with_unit(
            "resident_memory",
            "Memory in use by the daemon, pages of pools that it has touched included",
            Unit::Bytes,
            gauge,
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let gauge: Gauge = Gauge::default();
        // The look itself has one open.
        let count = i64::try_from(open.count()).unwrap_or(i64::MAX);
        gauge.set(count.saturating_sub(1));
        registry.register("open_fds", "Files that the daemon has open", gauge);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(limit).unwrap_or(i64::MAX));
        registry.register("max_fds", "Files that the daemon may have open", gauge);
    }
    registry
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}
