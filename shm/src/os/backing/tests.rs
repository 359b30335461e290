//! One body over the three backings, for what each declares.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::os::{Access, MapPlan, Mapping};

const LEN_BYTES: u64 = 1 << 20;
const ALL: [BackingKind; 3] = [BackingKind::Memfd, BackingKind::Named, BackingKind::File];

/// A backing, and a place for its files that goes with it.
struct Case {
    backing: Box<dyn Backing>,
    directory: TempDir,
}

impl Case {
    fn of(kind: BackingKind) -> Self {
        let case = Self {
            backing: kind.backing(),
            directory: tempfile::tempdir().unwrap(),
        };
        assert_eq!(case.backing.kind(), kind);
        case
    }

    fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(Self::of)
    }

    fn create_len(&self, len_bytes: u64) -> Result<Segment, SegmentError> {
        let stem = self.directory.path().join("segment");
        self.backing.create(&SegmentSpec {
            len_bytes,
            label: "backing-test",
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mode: 0o600,
            path_stem: Some(&stem),
        })
    }

    fn create(&self) -> Segment {
        self.create_len(LEN_BYTES).unwrap()
    }
}

fn map(segment: &Segment, access: Access) -> io::Result<Mapping> {
    Mapping::map(segment, access, MapPlan::whole(segment.len_bytes()))
}

fn byte_at(segment: &Segment, offset: u64) -> u8 {
    let mut byte = [0xee];
    map(segment, Access::ReadOnly)
        .unwrap()
        .copy_out(offset, &mut byte)
        .unwrap();
    byte[0]
}

#[test]
fn new_segment_costs_nothing_and_reads_as_zero() {
    for case in Case::all() {
        let segment = case.create();
        assert_eq!(segment.len_bytes(), LEN_BYTES);
        assert_eq!(segment.kind(), case.backing.kind());
        assert_eq!(segment.committed_bytes().unwrap(), 0);
        assert_eq!(byte_at(&segment, LEN_BYTES - 1), 0);
        segment.remove().unwrap();
    }
}

#[test]
fn purge_gives_committed_bytes_back_and_zeroes_them() {
    for case in Case::all() {
        let segment = case.create();
        assert!(case.backing.promises().punch);
        segment.commit(65_536..196_608).unwrap();
        segment.commit(65_536..196_608).unwrap();
        assert_eq!(segment.committed_bytes().unwrap(), 131_072);
        map(&segment, Access::ReadWrite)
            .unwrap()
            .copy_in(65_536, &[7; 131_072])
            .unwrap();
        segment.purge(65_536..131_072).unwrap();
        assert_eq!(segment.committed_bytes().unwrap(), 65_536);
        assert_eq!(
            (byte_at(&segment, 65_536), byte_at(&segment, 131_072)),
            (0, 7)
        );
        segment.remove().unwrap();
    }
}

#[test]
fn range_that_leaves_the_segment_is_refused() {
    for case in Case::all() {
        let segment = case.create();
        let empty = 4096..4096;
        for range in [
            empty,
            0..LEN_BYTES + 1,
            LEN_BYTES..LEN_BYTES + 4096,
            0..u64::MAX,
        ] {
            for result in [segment.commit(range.clone()), segment.purge(range.clone())] {
                assert!(
                    matches!(result, Err(SegmentError::OutOfRange { .. })),
                    "{range:?}"
                );
            }
        }
        assert_eq!(segment.committed_bytes().unwrap(), 0);
        segment.remove().unwrap();
    }
}

#[test]
fn length_that_is_not_whole_pages_is_refused() {
    for case in Case::all() {
        for len_bytes in [0, 1, 4097, 1 << 63, u64::MAX - 4095] {
            let result = case.create_len(len_bytes);
            assert!(
                matches!(result, Err(SegmentError::BadLength { .. })),
                "{result:?}"
            );
        }
        assert_eq!(case.directory.path().read_dir().unwrap().count(), 0);
    }
}

#[test]
fn only_a_sealed_segment_refuses_to_be_resized() {
    for case in Case::all() {
        let segment = case.create();
        let file = File::from(segment.hand_out(true).unwrap());
        for len_bytes in [0, LEN_BYTES * 2] {
            let resized = file.set_len(len_bytes);
            if case.backing.promises().sealed {
                assert_eq!(resized.unwrap_err().raw_os_error(), Some(libc::EPERM));
            } else {
                resized.unwrap();
            }
        }
        segment.remove().unwrap();
    }
}

#[test]
fn read_only_fd_cannot_be_mapped_writable() {
    for case in Case::all() {
        assert!(case.backing.promises().fd_handover);
        let segment = case.create();
        map(&segment, Access::ReadWrite)
            .unwrap()
            .copy_in(5, b"x")
            .unwrap();
        let receive = |writable| {
            let fd = segment.hand_out(writable).unwrap();
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            Segment::from_fd(fd, segment.kind(), LEN_BYTES).unwrap()
        };
        let reader = receive(false);
        assert_eq!(byte_at(&reader, 5), b'x');
        for plan in [MapPlan::whole(LEN_BYTES), guarded()] {
            let refused = Mapping::map(&reader, Access::ReadWrite, plan).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        }
        map(&receive(true), Access::ReadWrite)
            .unwrap()
            .copy_in(5, b"y")
            .unwrap();
        assert_eq!(byte_at(&reader, 5), b'y');
        segment.remove().unwrap();
    }
}

fn guarded() -> MapPlan {
    MapPlan {
        len_bytes: LEN_BYTES,
        guard: Some(65_536..131_072),
        align_2mib: true,
    }
}

#[test]
fn owner_and_mode_can_be_set_as_far_as_the_process_may() {
    for case in Case::all() {
        assert!(case.backing.promises().chown);
        let segment = case.create();
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        segment.set_owner(uid, gid, 0o640).unwrap();
        assert_eq!(segment.file().metadata().unwrap().mode() & 0o777, 0o640);
        let other = segment.set_owner(uid + 1, gid, 0o640);
        if rustix::process::geteuid().is_root() {
            other.unwrap();
            assert_eq!(segment.file().metadata().unwrap().uid(), uid + 1);
        } else {
            assert!(
                matches!(other, Err(SegmentError::Owner { mode: 0o640, .. })),
                "{other:?}"
            );
        }
        segment.remove().unwrap();
    }
}

#[test]
fn fd_is_the_creators_alone_until_it_is_handed_out() {
    for case in Case::all() {
        let segment = case.create();
        assert_eq!(segment.file().metadata().unwrap().mode() & 0o777, 0o600);
        segment.remove().unwrap();
    }
}

#[test]
fn received_object_is_checked_before_it_is_used() {
    for case in Case::all() {
        let segment = case.create();
        let short = Segment::from_fd(
            segment.hand_out(true).unwrap(),
            segment.kind(),
            LEN_BYTES + 1,
        );
        assert!(
            matches!(
                short,
                Err(SegmentError::TooShort {
                    found_bytes: LEN_BYTES,
                    ..
                })
            ),
            "{short:?}"
        );
        let as_memfd = Segment::from_fd(
            segment.hand_out(true).unwrap(),
            BackingKind::Memfd,
            LEN_BYTES,
        );
        match as_memfd {
            Ok(_) => assert!(case.backing.promises().sealed),
            Err(SegmentError::NotSealed { .. }) => assert!(!case.backing.promises().sealed),
            Err(error) => panic!("{error}"),
        }
        segment.remove().unwrap();
    }
}

#[test]
fn only_what_survives_a_reboot_can_be_flushed_and_opened_again() {
    for case in Case::all() {
        let segment = case.create();
        map(&segment, Access::ReadWrite)
            .unwrap()
            .copy_in(9, b"kept")
            .unwrap();
        let path = segment.path().map(Path::to_owned).unwrap_or_default();
        let flushed = segment.flush();
        drop(segment);
        let opened = case.backing.open_existing(&path);
        if case.backing.promises().survives_reboot {
            flushed.unwrap();
            let opened = opened.unwrap();
            assert_eq!((opened.len_bytes(), byte_at(&opened, 9)), (LEN_BYTES, b'k'));
            opened.remove().unwrap();
            assert!(!path.exists());
        } else {
            assert!(matches!(flushed, Err(SegmentError::Unsupported { .. })));
            assert!(matches!(opened, Err(SegmentError::Unsupported { .. })));
        }
    }
}

#[test]
fn name_goes_with_its_segment_unless_it_is_kept() {
    let case = Case::of(BackingKind::Named);
    let segment = case.create();
    let name = segment.os_name().unwrap().to_owned();
    let path = Path::new("/dev/shm").join(&name);
    assert_eq!(segment.path(), Some(path.as_path()));
    assert_eq!(path.metadata().unwrap().len(), LEN_BYTES);
    drop(segment);
    assert!(!path.exists());
    assert_eq!(Case::of(BackingKind::Memfd).create().os_name(), None);
}

#[test]
fn leftovers_of_the_dead_go_and_the_living_stay() {
    let case = Case::of(BackingKind::Named);
    let living = case.create();
    let path = |segment: &Segment| segment.path().unwrap().to_owned();
    let left = case.create();
    let left_path = path(&left);
    left.keep();
    let handed_out = left.hand_out(true).unwrap();
    // As a killed daemon would: the name stays, and a client still has the memory.
    drop(left);
    assert!(left_path.exists());
    // Another test's child holds a copy of every lock between its fork and its exec.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut removed = case.backing.remove_leftovers().unwrap();
    while removed == 0 && Instant::now() < deadline {
        std::thread::yield_now();
        removed = case.backing.remove_leftovers().unwrap();
    }
    assert_eq!(removed, 1);
    assert!(!left_path.exists());
    assert!(path(&living).exists());
    drop(handed_out);
    assert_eq!(
        Case::of(BackingKind::Memfd)
            .backing
            .remove_leftovers()
            .unwrap(),
        0
    );
}

#[test]
fn full_dev_shm_is_an_error_and_not_a_signal() {
    let size_blocks = rustix::fs::statvfs("/dev/shm").unwrap();
    let size_bytes = size_blocks.f_blocks * size_blocks.f_frsize;
    if size_bytes == 0 {
        println!("skipped: /dev/shm has no limit to run into");
        return;
    }
    let case = Case::of(BackingKind::Named);
    assert!(!case.backing.promises().independent_of_dev_shm);
    let len_bytes = size_bytes.next_multiple_of(OS_PAGE) + OS_PAGE;
    // More than the whole file system: the kernel refuses before it takes a page.
    let segment = case.create_len(len_bytes).unwrap();
    match segment.commit(0..len_bytes) {
        Err(SegmentError::NoSpace {
            offset_bytes: 0,
            source,
            ..
        }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(segment.committed_bytes().unwrap(), 0);
}

const OS_PAGE: u64 = crate::os::OS_PAGE_BYTES;

#[test]
fn file_that_is_there_is_not_overwritten() {
    let case = Case::of(BackingKind::File);
    let first = case.create();
    let again = case.create_len(LEN_BYTES).unwrap_err();
    assert!(
        matches!(&again, SegmentError::Os { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
        "{again:?}"
    );
    assert!(first.path().unwrap().exists());
    let spec = SegmentSpec {
        len_bytes: OS_PAGE,
        label: "",
        uid: 0,
        gid: 0,
        mode: 0,
        path_stem: None,
    };
    assert!(matches!(
        FileBacking.create(&spec),
        Err(SegmentError::Unsupported { .. })
    ));
}

#[test]
fn file_that_is_not_ours_is_not_opened() {
    let case = Case::of(BackingKind::File);
    let segment = case.create();
    let path = segment.path().unwrap();
    let refused = |path: &Path| match FileBacking.open_existing(path) {
        Err(SegmentError::NotASegment { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let link = case.directory.path().join("link");
    std::os::unix::fs::symlink(path, &link).unwrap();
    assert_eq!(refused(&link), "it is a symbolic link");
    let fifo = case.directory.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(refused(&fifo), "it is not a plain file");
    rustix::fs::fchmod(segment.as_fd(), mode | rustix::fs::Mode::WGRP).unwrap();
    assert_eq!(refused(path), "others may write it");
    if rustix::process::geteuid().is_root() {
        segment.set_owner(1, 1, 0o600).unwrap();
        assert_eq!(refused(path), "it belongs to another user");
    }
    let missing = FileBacking.open_existing(&case.directory.path().join("missing"));
    assert!(matches!(
        missing,
        Err(SegmentError::Os { doing: "open", .. })
    ));
}

#[test]
fn memfd_takes_no_further_seals() {
    let segment = Case::of(BackingKind::Memfd).create();
    // One of these would forbid purging.
    let more = rustix::fs::fcntl_add_seals(&segment, rustix::fs::SealFlags::FUTURE_WRITE);
    assert_eq!(more, Err(Errno::PERM));
}

#[test]
fn only_what_was_touched_counts_as_written() {
    for case in Case::all() {
        let segment = case.create();
        assert_eq!(segment.written(0..LEN_BYTES).unwrap(), []);
        segment.commit(65_536..196_608).unwrap();
        let mapped = map(&segment, Access::ReadWrite).unwrap();
        mapped.copy_in(65_536, &[7; 131_072]).unwrap();
        mapped.copy_in(0, b"x").unwrap();
        assert_eq!(
            segment.written(0..LEN_BYTES).unwrap(),
            [0..4096, 65_536..196_608]
        );
        assert_eq!(
            segment.written(69_632..73_728).unwrap(),
            std::slice::from_ref(&(69_632..73_728))
        );
        segment.remove().unwrap();
    }
}

#[test]
fn segment_kept_as_an_fd_is_taken_over_with_its_name() {
    for case in Case::all() {
        let segment = case.create();
        map(&segment, Access::ReadWrite)
            .unwrap()
            .copy_in(9, b"kept")
            .unwrap();
        let fd = segment.as_fd().try_clone_to_owned().unwrap();
        let path = segment.path().map(Path::to_owned);
        // As a daemon that is killed: its names stay.
        segment.keep();
        drop(segment);
        let taken = Segment::reopen(fd, case.backing.kind()).unwrap();
        assert_eq!(taken.len_bytes(), LEN_BYTES);
        assert_eq!(byte_at(&taken, 9), b'k');
        assert_eq!(taken.path().map(Path::to_owned), path);
        assert_eq!(
            taken.os_name().is_some(),
            case.backing.kind() == BackingKind::Named
        );
        let again = taken.as_fd().try_clone_to_owned().unwrap();
        taken.remove().unwrap();
        // Without a name by now, which is no reason to refuse it.
        let nameless = Segment::reopen(again, case.backing.kind()).unwrap();
        assert_eq!((nameless.path(), byte_at(&nameless, 9)), (None, b'k'));
    }
}
