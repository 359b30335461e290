use super::*;

fn used(bytes: u64) -> Totals {
    Totals {
        used_bytes: bytes,
        ..Totals::default()
    }
}

fn steps(history: &History, n: u16) -> Vec<Option<u64>> {
    history.steps(n, |totals| totals.used_bytes)
}

#[test]
fn nothing_is_known_from_before_the_first_observation() {
    let mut history = History::default();
    assert_eq!(steps(&history, 3), [None; 3]);
    history.push(Duration::from_secs(1000), used(5));
    assert_eq!(steps(&history, 3), [None, None, Some(5)]);
}

#[test]
fn a_step_has_the_most_that_was_in_it_and_gaps_go_on() {
    let mut history = History::default();
    // Five steps of a minute each.
    for (second, bytes) in [(600, 1), (610, 9), (650, 2), (790, 4)] {
        history.push(Duration::from_secs(second), used(bytes));
    }
    assert_eq!(
        steps(&history, 5),
        [None, Some(9), Some(2), Some(2), Some(4)]
    );
}

#[test]
fn steps_do_not_change_while_time_goes_on_within_one() {
    let mut history = History::default();
    for second in 0..120 {
        history.push(Duration::from_secs(second), used(second));
    }
    let before = steps(&history, 5);
    assert_eq!(before, [None, None, None, Some(59), Some(119)]);
    history.push(Duration::from_secs(120), used(0));
    let after = steps(&history, 5);
    assert_eq!(after[..4], before[1..]);
}

#[test]
fn it_has_a_bound() {
    let mut history = History::default();
    for tick in 0..100_000 {
        history.push(Duration::from_millis(tick), used(tick));
    }
    assert_eq!(history.0.len(), MAX_POINTS);
    history.push(Duration::from_secs(10_000), used(0));
    assert_eq!(history.0.len(), 1);
}
