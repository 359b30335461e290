//! How much memory the machine has and how much of it this process may use: `/proc/meminfo`, and
//! the limits of the cgroups it is in, version 1 or 2 or both.
//!
//! A memfd has no limit of its own, and the kernel answers a commit past a cgroup's limit with a
//! kill and not with an error. So whoever commits reads this first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Version 1 writes "no limit" as the largest page count in bytes (9223372036854771712). Nobody
/// has 2^62 bytes, so anything from there on is none.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// The machine that this process runs on.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

/// What the machine had at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// All of its RAM.
    pub total_bytes: u64,
    /// The kernel's estimate of what can be had without swapping.
    pub available_bytes: u64,
    /// Limit of the cgroup that leaves this process the least room, of all it is in. `None`: no
    /// limit, or none that can be read.
    pub cgroup_limit_bytes: Option<u64>,
    /// What that cgroup uses. `None` exactly when there is no limit.
    pub cgroup_usage_bytes: Option<u64>,
}

impl Machine {
    /// Reads it anew. A few files of `/proc`: about 0.1 ms, so not once per page.
    ///
    /// # Errors
    ///
    /// What `/proc/meminfo` says. What cannot be read of cgroups counts as no limit, since
    /// machines without any are common.
    pub fn read() -> io::Result<MachineMemory> {
        let (total_bytes, available_bytes) = parse_meminfo(&fs::read_to_string("/proc/meminfo")?)
            .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no totals in /proc/meminfo")
        })?;
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let tightest = hierarchies(&cgroups, &mounts)
            .iter()
            .flat_map(Hierarchy::levels)
            .min_by_key(Level::room_bytes);
        Ok(MachineMemory {
            total_bytes,
            available_bytes,
            cgroup_limit_bytes: tightest.map(|level| level.limit_bytes),
            cgroup_usage_bytes: tightest.map(|level| level.usage_bytes),
        })
    }
}

/// One cgroup with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    limit_bytes: u64,
    usage_bytes: u64,
}

impl Level {
    fn room_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.usage_bytes)
    }
}

/// The files of a hierarchy of memory cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    const fn limit_file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }

    const fn usage_file(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }
}

/// Where this process is in a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// The top that is to be seen from here.
    mount: PathBuf,
    /// The process's cgroup: `mount` or below it.
    leaf: PathBuf,
}

impl Hierarchy {
    /// Reads the limits from the process's cgroup up to the top. A parent's limit binds its
    /// children.
    fn levels(&self) -> Vec<Level> {
        let number =
            |directory: &Path, file| parse_bytes(&fs::read_to_string(directory.join(file)).ok()?);
        self.leaf
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.mount))
            .filter_map(|directory| {
                Some(Level {
                    limit_bytes: number(directory, self.version.limit_file())?,
                    usage_bytes: number(directory, self.version.usage_file())?,
                })
            })
            .collect()
    }
}

/// Returns total and available bytes.
fn parse_meminfo(meminfo: &str) -> Option<(u64, u64)> {
    let bytes = |key: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    Some((bytes("MemTotal:")?, bytes("MemAvailable:")?))
}

/// Returns the number in a cgroup file, or `None` if it means no limit.
fn parse_bytes(text: &str) -> Option<u64> {
    // "max" and what is no number end here too.
    text.trim()
        .parse()
        .ok()
        .filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

/// Finds the hierarchies that limit memory, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn hierarchies(cgroups: &str, mounts: &str) -> Vec<Hierarchy> {
    mounts
        .lines()
        .filter_map(parse_mount)
        .filter_map(|mount| {
            let own = own_cgroup(cgroups, mount.version)?;
            // A bind mount shows a part of the hierarchy; what lies outside of it is not to be
            // seen, and the top of the part is the nearest.
            let below = Path::new(own)
                .strip_prefix(&mount.root)
                .unwrap_or_else(|_| Path::new(""));
            Some(Hierarchy {
                version: mount.version,
                leaf: mount.point.join(below),
                mount: mount.point,
            })
        })
        .collect()
}

/// Returns this process's cgroup in a hierarchy: of the line `0::PATH` in version 2, of
/// `N:…,memory,…:PATH` in version 1.
fn own_cgroup(cgroups: &str, version: Version) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match version {
            Version::One => controllers
                .split(',')
                .any(|controller| controller == "memory"),
            Version::Two => number == "0" && controllers.is_empty(),
        };
        found.then_some(path)
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// Which cgroup is at the mount point.
    root: PathBuf,
    point: PathBuf,
}

/// Reads a line of mountinfo: `id parent dev root point options [tags…] - type source super`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (unescape(place.next()?), unescape(place.next()?));
    let mut kind = kind.split(' ');
    let version = match kind.next()? {
        "cgroup2" => Version::Two,
        "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => Version::One,
        _ => return None,
    };
    Some(Mount {
        version,
        root,
        point,
    })
}

/// Undoes `\040` and its like, which mountinfo writes for blanks and backslashes.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                path.push(char::from(code));
                path.push_str(&part[3..]);
            }
            None => {
                path.push('\\');
                path.push_str(part);
            }
        }
    }
    path.into()
}
