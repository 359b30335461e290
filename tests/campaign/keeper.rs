//! The daemon's keeper, as seen from outside: which process it is, and whether it holds everything
//! that the daemon would need of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The first argument of a keeper's command line.
pub(crate) const ROLE: &str = "keeper";
/// How soon the daemon must have replaced a dead keeper and filled the new one, on a loaded
/// machine.
const MAX_REFILL: Duration = Duration::from_secs(10);

/// Returns the keeper of the daemon whose files lie in `directory`.
pub(crate) fn find(directory: &Path) -> Option<Pid> {
    let directory = directory.to_str()?;
    let is_keeper = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0');
        words.nth(1) == Some(ROLE) && words.any(|word| word.starts_with(directory))
    };
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(is_keeper)
        .and_then(Pid::from_raw)
}

/// Kills the keeper and waits until the daemon has another one that holds as much. Returns whether
/// there was one.
///
/// # Errors
/// When the daemon does not replace it.
pub(crate) fn kill(directory: &Path, daemon: Pid) -> Result<bool, String> {
    let Some(keeper) = find(directory) else {
        return Ok(false);
    };
    let before = kept_fds(keeper);
    // It fails if the keeper has just ended by itself.
    let _ = kill_process(keeper, Signal::KILL);
    let start = Instant::now();
    loop {
        // The daemon has fds that it does not store, too: of the keeper, of callers without a
        // session.
        let needed: BTreeSet<_> = kept_fds(daemon).intersection(&before).copied().collect();
        let held = find(directory)
            .filter(|&next| next != keeper)
            .map_or_else(BTreeSet::new, kept_fds);
        if !held.is_empty() && held.is_superset(&needed) {
            return Ok(true);
        }
        if start.elapsed() > MAX_REFILL {
            let missing: Vec<_> = needed.difference(&held).collect();
            return Err(format!("the next keeper does not hold {missing:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends the keeper, if there is one.
pub(crate) fn end(directory: &Path) {
    if let Some(keeper) = find(directory) {
        let _ = kill_process(keeper, Signal::KILL);
    }
}

/// Returns the memory and the processes that a process has fds of: kind and inode.
fn kept_fds(pid: Pid) -> BTreeSet<(&'static str, u64)> {
    let fds = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let kept = |path: std::path::PathBuf| {
        let target = fs::read_link(&path).ok()?;
        let target = target.to_str()?;
        let kind = if target.starts_with("/memfd:") || target.starts_with("/dev/shm/goumem") {
            "memory"
        } else if target.contains("[pidfd]") {
            "process"
        } else {
            return None;
        };
        Some((kind, fs::metadata(&path).ok()?.ino()))
    };
    fds.into_iter()
        .flatten()
        .filter_map(|fd| kept(fd.ok()?.path()))
        .collect()
}
