//! A forked child inherits every value of this crate and nothing that is mapped: calls are typed
//! errors there, and drops do nothing.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;
use crate::TakenBlocks;
use crate::os::fork;

/// Runs `look` in a forked child, which touches unmapped memory only to its death; returns
/// whether it came out of it with `true`.
fn holds_in_a_child(mut look: impl FnMut() -> bool + Send + Sync + 'static) -> bool {
    fork::install().unwrap();
    let mut command = Command::new("true");
    let look = move || {
        if look() {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EPROTO))
        }
    };
    // SAFETY: `look` compares values and drops some; glibc makes its allocator usable in a child
    // of fork, and no lock that another thread may hold is taken.
    unsafe { command.pre_exec(look) };
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn forked_child_gets_typed_errors_and_its_drops_do_nothing() {
    let (daemon, mut span, handle) = pool_with(bytes(8));
    let memory = daemon.view();
    let at = memory.resolve(handle).unwrap();
    let mut dropped = span.alloc();
    let mut exported = span.alloc();
    let dropped_at = dropped.as_ref().unwrap().offset();
    let other = span.alloc().unwrap().export(ALICE, bytes(8)).unwrap();
    let taken = TakenBlocks::new(&memory, BOB).unwrap();
    let mut held = Some(taken.take_over(other).unwrap().0);
    let lease = span.lease();
    let free_before = span.free_count();
    let mut agent = Some(span);
    let in_child = {
        let memory = Arc::clone(&memory);
        move || {
            let forked = |refused: Option<AccessError>| refused == Some(AccessError::Forked);
            let mut into = [0; 1];
            let exported = exported.take().map(|block| block.export(ALICE, bytes(8)));
            let refused_export = match exported {
                Some(Err((block, error))) => {
                    drop(block);
                    Some(error)
                }
                _ => None,
            };
            let refusals = [
                memory.resolve(handle).err(),
                memory.free(handle).err(),
                memory.free_at(&at, handle).err(),
                memory.read(handle, 0, &mut into).err(),
                memory.read_resolved(&at, handle, 0, &mut into).err(),
                memory.read_pinned(&at, 0, &mut into).err(),
                memory.write(handle, 0, &into).err(),
                memory.adopt(handle, BOB).err(),
                taken.take_over(handle).map(drop).err(),
                LeasedSpan::attach(&memory, lease, ALICE, true)
                    .map(drop)
                    .err(),
                refused_export,
            ];
            if let Some(span) = &mut agent {
                span.collect(true);
                span.reclaim(0);
            }
            drop(agent.take());
            drop(dropped.take());
            drop(held.take());
            refusals.into_iter().all(forked) && memory.block_at(dropped_at).is_none()
        }
    };
    assert!(holds_in_a_child(in_child));
    // Nothing of that reached the parent, but that its own values are dropped by now.
    assert!(memory.resolve(handle).is_ok());
    assert_eq!(memory.free(handle), Ok(Freed::Free));
    assert!(free_before > 0);
}
