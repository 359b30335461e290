//! Who has which memory, as `/proc` tells.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// First address.
    pub start: usize,
    /// Bytes.
    pub length: usize,
    /// As `r--s`.
    pub permissions: String,
    /// What is mapped.
    pub path: String,
}

/// Returns the mappings of a process of whatever has `needle` in its path.
pub fn mappings_of(pid: u32, needle: &str) -> Vec<Mapped> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines()
        .filter_map(parse)
        .filter(|mapped| mapped.path.contains(needle))
        .collect()
}

fn parse(line: &str) -> Option<Mapped> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = fields.next()?.to_owned();
    let path = fields.nth(3)?.trim_start().to_owned();
    Some(Mapped {
        start,
        length: end - start,
        permissions,
        path,
    })
}

/// Returns the processes that map, or hold an fd of, whatever has `needle` in its path: when
/// there are none, a memfd's memory is free.
pub fn processes_with(needle: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| holds(pid, needle))
        .collect()
}

fn holds(pid: u32, needle: &str) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd"));
    let has_fd = fds.into_iter().flatten().flatten().any(|fd| {
        fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy().contains(needle))
    });
    has_fd || !mappings_of(pid, needle).is_empty()
}

/// Returns how many fds this process has open, the one for looking included.
///
/// # Panics
/// Where `/proc` is not mounted.
pub fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the named segments in `/dev/shm` that no living daemon has locked: leftovers. Reads
/// the kernel's list of locks, since trying one would be in the way of daemons that start.
pub fn abandoned_segments() -> Vec<String> {
    let named: Vec<(String, u64)> = fs::read_dir("/dev/shm")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let inode = entry.metadata().ok()?.ino();
            name.starts_with("goumem-").then_some((name, inode))
        })
        .collect();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 123 00:1a:4711 0 EOF`
    let locked: HashSet<u64> = locks
        .lines()
        .filter(|line| line.contains("FLOCK"))
        .filter_map(|line| {
            line.split_whitespace()
                .nth(5)?
                .rsplit(':')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    named
        .into_iter()
        .filter(|(_, inode)| !locked.contains(inode))
        .map(|(name, _)| name)
        .collect()
}
