//! What `/proc` says about another process. A pid can be a new process by the time the answer is
//! read: whoever decides by it checks afterwards, through the pidfd, that the process lives.

use std::fs;
use std::io;

/// Returns the effective user of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns the command name of a process (at most 15 bytes, as `ps` shows it), for display.
pub fn command_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    // The process chose its name: it must not reach a terminal or a log as control characters.
    let name = String::from_utf8_lossy(&name);
    Some(name.trim_end_matches('\n').replace(char::is_control, "?"))
}

/// Returns the supplementary groups of a process.
///
/// # Errors
///
/// `NotFound` when there is no such process; `InvalidData` when `/proc` reads otherwise than it
/// always has.
pub fn groups_of(pid: u32) -> io::Result<Vec<u32>> {
    let status = fs::read(format!("/proc/{pid}/status"))?;
    parse_groups(&String::from_utf8_lossy(&status)).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("no groups in /proc/{pid}/status"),
        )
    })
}

/// Returns when a process started, in clock ticks since boot: with its pid, its identity.
///
/// # Errors
///
/// As [`groups_of`].
pub fn start_time_of(pid: u32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    parse_start_time(&String::from_utf8_lossy(&stat)).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("no start time in /proc/{pid}/stat"),
        )
    })
}

fn parse_groups(status: &str) -> Option<Vec<u32>> {
    let groups = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))?;
    groups
        .split_whitespace()
        .map(|group| group.parse().ok())
        .collect()
}

/// Field 22 of `/proc/PID/stat`. The second field is the command in parentheses, which may itself
/// hold spaces and parentheses, so counting begins behind the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The first field behind the command is the third.
    fields.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_groups_line() {
        let status = "Name:\tGroups: 7\nUid:\t0\t0\t0\t0\nGroups:\t4 24 1000 \nNStgid:\t1\n";
        assert_eq!(parse_groups(status), Some(vec![4, 24, 1000]));
        assert_eq!(parse_groups("Groups:\t \n"), Some(vec![]));
        assert_eq!(parse_groups("Groups:\t4 x\n"), None);
        assert_eq!(parse_groups("Name:\tx\n"), None);
    }

    #[test]
    fn start_time_survives_a_hostile_command_name() {
        let rest = "S 1 10 10 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 8812345 0 0";
        assert_eq!(
            parse_start_time(&format!("10 (sh) {rest}")),
            Some(8_812_345)
        );
        assert_eq!(
            parse_start_time(&format!("10 (a) S 1 (b) {rest}")),
            Some(8_812_345)
        );
        assert_eq!(parse_start_time("10 (sh) S 1"), None);
        assert_eq!(parse_start_time("10 sh"), None);
    }

    #[test]
    fn own_process_is_found() {
        let pid = std::process::id();
        assert!(!command_of(pid).unwrap().is_empty());
        groups_of(pid).unwrap();
        assert_eq!(start_time_of(pid).unwrap(), start_time_of(pid).unwrap());
    }

    #[test]
    fn absent_process_is_not_found() {
        // Above the kernel's PID_MAX_LIMIT of 2^22.
        let pid = (1 << 22) + 1;
        assert_eq!(command_of(pid), None);
        assert_eq!(groups_of(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(
            start_time_of(pid).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
