//! The default backing: a sealed memfd. It has no name, no size limit of its own, and nobody can
//! truncate it, so a page that was committed never faults.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

use super::{Backing, BackingKind, Promises, SegmentSpec, check_len, create_error};
use crate::os::error::SegmentError;
use crate::os::segment::Segment;

/// The seals of every memfd segment. `SHRINK` is what keeps mappers from `SIGBUS`; `SEAL` keeps
/// a writer from adding `FUTURE_WRITE`, which would forbid purging.
pub(in crate::os) const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// The kernel takes 249 bytes of name; shorter keeps `/proc/PID/maps` readable.
const MAX_LABEL_CHARS: usize = 64;

/// Makes memfd segments.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemfdBacking;

impl Backing for MemfdBacking {
    fn kind(&self) -> BackingKind {
        BackingKind::Memfd
    }

    fn promises(&self) -> Promises {
        Promises {
            sealed: true,
            fd_handover: true,
            punch: true,
            survives_reboot: false,
            chown: true,
            independent_of_dev_shm: true,
        }
    }

    fn create(&self, spec: &SegmentSpec<'_>) -> Result<Segment, SegmentError> {
        check_len(spec)?;
        let kind = BackingKind::Memfd;
        let fd = open(spec.label).map_err(create_error(kind, spec, "create"))?;
        // A memfd is born 0777 or 0666: without this, any process that gets a read-only fd of it
        // could open it again for writing through /proc/self/fd.
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map_err(create_error(kind, spec, "set the mode of"))?;
        rustix::fs::ftruncate(&fd, spec.len_bytes)
            .map_err(io::Error::from)
            .map_err(create_error(kind, spec, "size"))?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)
            .map_err(io::Error::from)
            .map_err(create_error(kind, spec, "seal"))?;
        Ok(Segment::created(fd.into(), kind, spec.len_bytes, None))
    }
}

/// Opens a memfd named after `label`, never executable where the kernel can say so.
fn open(label: &str) -> io::Result<OwnedFd> {
    let label: String = label
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_LABEL_CHARS)
        .collect();
    let name = format!("goumem-{label}");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name.as_str(), flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create(name.as_str(), flags)?),
        other => Ok(other?),
    }
}
