use goumem_alloc::{Placement, SessionNumber, SizeClass};

use super::*;
use crate::leased_span::LeasedSpan;
use crate::shape::Shape;
use crate::test_daemon::TestDaemon;

const ALICE: SessionNumber = SessionNumber::new(7);

/// A block of 12 bytes of the given element type, with these bytes in it.
fn block_of<E: ShmType>(bytes: &[u8; 12]) -> (TestDaemon, LeasedSpan, Handle) {
    let daemon = TestDaemon::new(8);
    let Ok(Placement::Class(class)) = SizeClass::for_layout(12, 4) else {
        panic!("12 bytes have a class");
    };
    let mut span = daemon.lease(daemon.memory(), ALICE, class);
    let shape = Shape {
        type_tag: E::TYPE_TAG,
        length_bytes: 12,
    };
    let handle = span.alloc().unwrap().export(ALICE, shape).unwrap();
    daemon.memory().write(handle, 0, bytes).unwrap();
    (daemon, span, handle)
}

#[test]
fn elements_are_copied_out_whole() {
    let (daemon, _span, handle) = block_of::<u32>(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    let living = daemon.memory().living(handle).unwrap();
    assert_eq!(living.read_elements::<u32>().unwrap(), [1, 2, 3]);
    assert_eq!(living.read_elements::<[u8; 6]>().unwrap().len(), 2);
    assert_eq!(living.shape().length_bytes, 12);
}

#[test]
fn bytes_that_are_no_elements_or_not_whole_ones_are_refused() {
    let (daemon, _span, handle) = block_of::<bool>(&[1, 0, 1, 1, 0, 0, 0, 0, 1, 2, 0, 0]);
    let living = daemon.memory().living(handle).unwrap();
    let corrupt = living.read_elements::<bool>().unwrap_err();
    assert!(matches!(
        corrupt,
        AccessError::Corrupt { what: "value", .. }
    ));
    let odd = living.read_elements::<u64>().unwrap_err();
    assert_eq!(
        odd,
        AccessError::WrongLength {
            expected_bytes: 8,
            found_bytes: 12
        }
    );
}

#[test]
fn what_was_looked_up_before_a_free_is_stale_after_it() {
    let (daemon, _span, handle) = block_of::<u8>(&[7; 12]);
    let living = daemon.memory().living(handle).unwrap();
    assert!(living.is_alive());
    daemon.memory().free(handle).map(|_| ()).unwrap();
    let stale = AccessError::Stale { handle };
    assert!(!living.is_alive());
    assert_eq!(living.read_elements::<u8>().unwrap_err(), stale);
    assert_eq!(living.read(0, &mut [0; 12]).unwrap_err(), stale);
    assert_eq!(living.read(0, &mut [0; 99]).unwrap_err(), stale);
    assert_eq!(daemon.memory().living(handle).unwrap_err(), stale);
}

#[test]
fn a_range_outside_of_the_block_is_refused() {
    let (daemon, _span, handle) = block_of::<u8>(&[7; 12]);
    let living = daemon.memory().living(handle).unwrap();
    for (offset_bytes, len) in [(0, 13), (12, 1), (u64::MAX, 1)] {
        let refused = living.read(offset_bytes, &mut vec![0; len]).unwrap_err();
        assert!(matches!(
            refused,
            AccessError::OutOfRange {
                limit_bytes: 12,
                ..
            }
        ));
    }
    living.read(11, &mut [0]).unwrap();
}
