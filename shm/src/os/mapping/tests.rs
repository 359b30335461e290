//! What a mapping looks like to the kernel, and what it refuses.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use super::*;
use crate::os::backing::{Backing, MemfdBacking, SegmentSpec};
use crate::sync::Ordering;

const LEN_BYTES: u64 = 4 << 20;
const GUARD: Range<u64> = 65_536..131_072;

fn segment(label: &str) -> Segment {
    let spec = SegmentSpec {
        len_bytes: LEN_BYTES,
        label,
        uid: 0,
        gid: 0,
        mode: 0,
        path_stem: None,
    };
    MemfdBacking.create(&spec).unwrap()
}

fn guarded() -> MapPlan {
    MapPlan {
        len_bytes: LEN_BYTES,
        guard: Some(GUARD),
        align_2mib: true,
    }
}

fn map(segment: &Segment) -> Mapping {
    Mapping::map(segment, Access::ReadWrite, guarded()).unwrap()
}

/// Returns permissions and `VmFlags` of the mapped area that an address lies in.
fn area_at(address: usize) -> (String, String) {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut permissions = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let bound = |text| usize::from_str_radix(text, 16).unwrap();
            let found = (bound(start)..bound(end)).contains(&address);
            permissions = found.then(|| words.next().unwrap().to_owned());
        } else if first == "VmFlags:"
            && let Some(permissions) = permissions.take()
        {
            return (permissions, words.collect::<Vec<_>>().join(" "));
        }
    }
    panic!("{address:#x} is not mapped");
}

#[test]
fn guard_is_mapped_without_access_between_two_windows() {
    let segment = segment("guard-test");
    for (access, expected) in [(Access::ReadWrite, "rw-s"), (Access::ReadOnly, "r--s")] {
        let mapping = Mapping::map(&segment, access, guarded()).unwrap();
        let base = mapping.base.addr().get();
        assert_eq!(base % to_usize(HUGE_PAGE_BYTES), 0);
        assert_eq!(mapping.is_writable(), access.is_writable());
        for offset in [0, GUARD.start - 1, GUARD.end, LEN_BYTES - 1] {
            let (permissions, flags) = area_at(base + to_usize(offset));
            assert_eq!(permissions, expected, "at {offset}");
            // Not copied to a forked child, not dumped.
            assert!(
                flags.contains("dc") && flags.contains("dd"),
                "at {offset}: {flags}"
            );
        }
        for offset in [GUARD.start, GUARD.end - 1] {
            assert_eq!(area_at(base + to_usize(offset)).0, "---p", "at {offset}");
        }
    }
}

#[test]
fn mapping_without_a_guard_is_not_inherited_either() {
    let segment = segment("whole-test");
    let mapping = Mapping::map(&segment, Access::ReadOnly, MapPlan::whole(LEN_BYTES)).unwrap();
    let (permissions, flags) = area_at(mapping.base.addr().get());
    assert_eq!(permissions, "r--s");
    assert!(flags.contains("dc") && flags.contains("dd"), "{flags}");
}

#[test]
fn dropped_mapping_leaves_nothing_mapped() {
    let segment = segment("drop-test");
    let is_mapped = || {
        fs::read_to_string("/proc/self/maps")
            .unwrap()
            .contains("goumem-drop-test")
    };
    for plan in [guarded(), MapPlan::whole(LEN_BYTES)] {
        let mapping = Mapping::map(&segment, Access::ReadWrite, plan).unwrap();
        assert!(is_mapped());
        drop(mapping);
        assert!(!is_mapped());
    }
}

#[test]
fn two_mappings_of_a_segment_see_the_same_bytes() {
    let segment = segment("");
    let (one, other) = (map(&segment), map(&segment));
    one.atomic_u64(8)
        .unwrap()
        .store(0x0102_0304_0506_0708, Ordering::Release);
    assert_eq!(
        other.atomic_u64(8).unwrap().load(Ordering::Acquire),
        0x0102_0304_0506_0708
    );
    assert_eq!(
        other.atomic_slice_u64(0, 2).unwrap()[1].load(Ordering::Relaxed) >> 56,
        1
    );
    assert_eq!(
        other.atomic_u32(12).unwrap().load(Ordering::Relaxed),
        0x0102_0304
    );

    // From the second window on, offsets are still those of the segment.
    one.copy_in(GUARD.end + 3, b"payload").unwrap();
    let mut copy = [0; 7];
    let whole = Mapping::map(&segment, Access::ReadOnly, MapPlan::whole(LEN_BYTES)).unwrap();
    whole.copy_out(GUARD.end + 3, &mut copy).unwrap();
    assert_eq!(&copy, b"payload");

    other.fill_zero(GUARD.end + 4..GUARD.end + 9).unwrap();
    one.copy_out(GUARD.end + 3, &mut copy).unwrap();
    assert_eq!(&copy, b"p\0\0\0\0\0d");
}

#[test]
fn access_outside_the_mapping_is_refused() {
    let mapping = map(&segment(""));
    let mut bytes = [0; 16];
    for offset in [LEN_BYTES - 15, LEN_BYTES, u64::MAX, u64::MAX - 15] {
        let refused = MapError::OutOfRange {
            offset_bytes: offset,
            len_bytes: 16,
            mapping_bytes: LEN_BYTES,
        };
        assert_eq!(mapping.copy_out(offset, &mut bytes), Err(refused));
        assert_eq!(mapping.copy_in(offset, &bytes), Err(refused));
    }
    assert!(mapping.atomic_u64(LEN_BYTES - 8).is_ok());
    assert!(mapping.atomic_u64(LEN_BYTES).is_err());
    assert!(mapping.atomic_u32(LEN_BYTES - 4).is_ok());
    for (offset, n_words) in [(LEN_BYTES - 8, 2), (0, usize::MAX), (0, usize::MAX / 8 + 1)] {
        let refused = mapping.atomic_slice_u64(offset, n_words);
        assert!(
            matches!(refused, Err(MapError::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    let backwards = Range { start: 9, end: 8 };
    for range in [
        backwards.clone(),
        0..LEN_BYTES + 1,
        LEN_BYTES + 1..LEN_BYTES + 2,
    ] {
        assert!(matches!(
            mapping.fill_zero(range.clone()),
            Err(MapError::OutOfRange { .. })
        ));
        assert_eq!(
            mapping.prefault_read(range).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
    assert!(mapping.copy_out(LEN_BYTES, &mut []).is_ok());
}

#[test]
fn access_to_the_guard_is_refused_and_beside_it_is_not() {
    let mapping = map(&segment(""));
    let mut bytes = [0; 16];
    for offset in [GUARD.start - 15, GUARD.start, GUARD.end - 16, GUARD.end - 1] {
        let refused = MapError::Guard {
            offset_bytes: offset,
            len_bytes: 16,
        };
        assert_eq!(mapping.copy_out(offset, &mut bytes), Err(refused));
        assert_eq!(mapping.copy_in(offset, &bytes), Err(refused));
    }
    for offset in [GUARD.start - 16, GUARD.end] {
        mapping.copy_in(offset, &bytes).unwrap();
        mapping.copy_out(offset, &mut bytes).unwrap();
    }
    assert!(matches!(
        mapping.atomic_u64(GUARD.start),
        Err(MapError::Guard { .. })
    ));
    assert!(matches!(
        mapping.fill_zero(0..LEN_BYTES),
        Err(MapError::Guard { .. })
    ));
    assert!(mapping.prefault_write(0..LEN_BYTES).is_err());
}

#[test]
fn misaligned_word_is_refused() {
    let mapping = Mapping::anonymous(4096).unwrap();
    let refused = |align_bytes| {
        Err(MapError::Misaligned {
            offset_bytes: 12 + align_bytes / 4,
            align_bytes,
        })
    };
    assert_eq!(mapping.atomic_u64(14).map(|_| ()), refused(8));
    assert_eq!(mapping.atomic_u32(13).map(|_| ()), refused(4));
    assert_eq!(mapping.atomic_slice_u64(14, 3).map(|_| ()), refused(8));
}

#[test]
fn read_only_mapping_refuses_writes() {
    let segment = segment("");
    let mapping = Mapping::map(&segment, Access::ReadOnly, guarded()).unwrap();
    let refused = Err(MapError::ReadOnly {
        offset_bytes: 8,
        len_bytes: 4,
    });
    assert_eq!(mapping.copy_in(8, b"four"), refused);
    assert_eq!(mapping.fill_zero(8..12), refused);
    assert!(mapping.prefault_write(0..4096).is_err());
    assert_eq!(mapping.atomic_u64(8).unwrap().load(Ordering::Relaxed), 0);
}

#[test]
fn prefaulting_commits_the_pages_it_touches() {
    let segment = segment("");
    let mapping = map(&segment);
    // In the middle of pages on both sides.
    mapping
        .prefault_write(GUARD.end + 100..GUARD.end + 8192)
        .unwrap();
    assert_eq!(segment.committed_bytes().unwrap(), 8192);
    mapping.prefault_read(4096..4097).unwrap();
    assert_eq!(segment.committed_bytes().unwrap(), 12_288);
}

#[test]
fn plan_that_does_not_fit_the_segment_is_refused() {
    let segment = segment("");
    let guard = |start, end| MapPlan {
        guard: Some(Range { start, end }),
        ..guarded()
    };
    for plan in [
        MapPlan::whole(0),
        MapPlan::whole(4097),
        MapPlan::whole(LEN_BYTES + 4096),
        guard(0, 4096),
        guard(4096, LEN_BYTES),
        guard(4096, LEN_BYTES + 4096),
        guard(8192, 4096),
        guard(4096, 4096),
        guard(4097, 8192),
        guard(4096, 8193),
    ] {
        let refused = Mapping::map(&segment, Access::ReadWrite, plan.clone()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{plan:?}");
    }
    assert!(Mapping::anonymous(0).is_err());
    assert!(Mapping::anonymous(100).is_err());
}

#[test]
fn mapping_outlives_its_segment() {
    let segment = segment("");
    let mapping = map(&segment);
    drop(segment);
    mapping.copy_in(0, b"alive").unwrap();
}

#[test]
fn forked_child_unmaps_nothing_when_it_drops_what_it_did_not_inherit() {
    let mut mapping = Some(map(&segment("")));
    let mut command = Command::new("true");
    let in_child = move || {
        let base = mapping
            .as_ref()
            .map_or(null_mut(), |mapping| mapping.base.as_ptr());
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // The child puts something of its own where the mapping was.
        // SAFETY: NOREPLACE replaces nothing.
        let own =
            unsafe { mmap_anonymous(base.cast(), 4096, prot, flags | MapFlags::FIXED_NOREPLACE) }?;
        drop(mapping.take());
        // SAFETY: just mapped; were it gone by now, this would end the child by a signal.
        unsafe { own.cast::<u8>().write_volatile(1) };
        Ok(())
    };
    // SAFETY: the closure makes system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(in_child) };
    let status = command.status().unwrap();
    assert!(status.success(), "{status}");
}
