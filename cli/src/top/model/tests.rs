use super::*;
use crate::observation::tests::observation;

const MIB: u64 = 1 << 20;

fn model() -> Model {
    let mut model = Model::new(Duration::from_secs(1));
    see(&mut model, 1);
    model
}

fn see(model: &mut Model, second: u64) {
    let seen = observation(second, 64 * MIB);
    assert_eq!(model.update(Event::Observed(Box::new(seen))), Effect::Draw);
}

fn act(model: &mut Model, actions: &[Action]) {
    for &action in actions {
        model.update(Event::Do(action));
    }
}

fn names(model: &Model) -> Vec<String> {
    model
        .rows()
        .iter()
        .map(|row| row.cells[0].human())
        .collect()
}

#[test]
fn the_largest_comes_first_and_order_turns_around() {
    let mut model = model();
    assert_eq!(names(&model), ["frames", "features", "empty"]);
    act(&mut model, &[Action::Reverse]);
    assert_eq!(names(&model), ["empty", "features", "frames"]);
}

#[test]
fn sorting_goes_through_the_columns_and_around() {
    let mut model = model();
    act(&mut model, &[Action::PreviousSort]);
    assert_eq!(model.sort(), (0, false), "names go from A to Z");
    assert_eq!(names(&model), ["empty", "features", "frames"]);
    act(&mut model, &[Action::PreviousSort]);
    let columns = Topic::Pools.columns().len();
    assert_eq!(model.sort(), (columns - 1, true));
    act(&mut model, &[Action::NextSort, Action::NextSort]);
    assert_eq!(model.sort(), (1, true));
}

#[test]
fn each_table_has_an_order_of_its_own() {
    let mut model = model();
    act(&mut model, &[Action::NextSort, Action::NextTopic]);
    assert_eq!((model.topic, model.sort()), (Topic::Arenas, (1, true)));
    act(&mut model, &[Action::PreviousTopic]);
    assert_eq!((model.topic, model.sort()), (Topic::Pools, (2, true)));
    act(&mut model, &[Action::PreviousTopic]);
    assert_eq!(model.topic, Topic::Sessions);
}

#[test]
fn the_filter_keeps_rows_with_the_text_until_it_is_ended() {
    let mut model = model();
    act(
        &mut model,
        &[Action::BeginFilter, Action::Type('F'), Action::Type('e')],
    );
    assert_eq!(
        (names(&model), model.mode),
        (vec!["features".to_owned()], Mode::Filter)
    );
    act(&mut model, &[Action::Erase, Action::EndFilter]);
    assert_eq!((names(&model).len(), model.mode), (2, Mode::Normal));
    act(&mut model, &[Action::Back]);
    assert_eq!(names(&model).len(), 3);
    act(&mut model, &[Action::BeginFilter]);
    act(&mut model, &[Action::Type('x'); 100]);
    assert_eq!((model.filter.len(), names(&model).len()), (64, 0));
    act(&mut model, &[Action::Back]);
    assert_eq!((model.filter.as_str(), model.mode), ("", Mode::Normal));
}

#[test]
fn a_session_is_found_by_its_pid() {
    let mut model = model();
    act(
        &mut model,
        &[Action::Show(Topic::Sessions), Action::BeginFilter],
    );
    for digit in "4122".chars() {
        act(&mut model, &[Action::Type(digit)]);
    }
    assert_eq!(names(&model), ["/usr/bin/python3"]);
}

#[test]
fn the_selected_row_stays_selected_when_the_order_changes() {
    let mut model = model();
    act(&mut model, &[Action::Move(1)]);
    assert_eq!(model.selected(&model.rows()), Some(1));
    act(&mut model, &[Action::Reverse, Action::Last]);
    assert_eq!(model.selected(&model.rows()), Some(2));
    act(&mut model, &[Action::Reverse]);
    assert_eq!(model.selected(&model.rows()), Some(0), "frames");
    act(&mut model, &[Action::Move(-5), Action::Page(9)]);
    assert_eq!(model.selected(&model.rows()), Some(2));
    act(&mut model, &[Action::First]);
    assert_eq!(model.selected(&model.rows()), Some(0));
}

#[test]
fn what_has_gone_is_selected_no_longer() {
    let mut model = model();
    act(&mut model, &[Action::Last]);
    let mut seen = observation(2, 64 * MIB);
    seen.pools.pop();
    model.update(Event::Observed(Box::new(seen)));
    assert_eq!(model.selected(&model.rows()), Some(0));
    let mut seen = observation(3, 64 * MIB);
    seen.pools.clear();
    model.update(Event::Observed(Box::new(seen)));
    assert_eq!(model.selected(&model.rows()), None);
    act(&mut model, &[Action::Move(1), Action::Detail]);
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut model = model();
    act(&mut model, &[Action::Pause]);
    see(&mut model, 2);
    assert_eq!(
        model.now.as_ref().map(|now| now.at),
        Some(Duration::from_secs(1))
    );
    act(&mut model, &[Action::Pause]);
    see(&mut model, 3);
    assert_eq!(
        model.now.as_ref().map(|now| now.at),
        Some(Duration::from_secs(3))
    );
}

#[test]
fn a_lost_daemon_is_said_for_how_long_and_comes_back() {
    let mut model = model();
    let lost = |second| Event::Lost {
        at: Duration::from_secs(second),
        why: "gone".to_owned(),
    };
    model.update(lost(2));
    model.update(lost(5));
    let expected = Link::Lost {
        since: Duration::from_secs(2),
        now: Duration::from_secs(5),
        why: "gone".to_owned(),
    };
    assert_eq!(model.link, expected);
    assert_eq!(names(&model).len(), 3, "what was known last stays");
    let mut seen = observation(6, MIB);
    seen.daemon.epoch += 1;
    model.update(Event::Observed(Box::new(seen)));
    assert_eq!((model.link, model.restarts), (Link::Live, 1));
}

#[test]
fn intervals_have_ends() {
    let mut model = model();
    let two = Duration::from_secs(2);
    assert_eq!(model.update(Event::Do(Action::Slower)), Effect::Poll(two));
    for _ in 0..20 {
        model.update(Event::Do(Action::Slower));
    }
    assert_eq!(model.interval, INTERVALS[INTERVALS.len() - 1]);
    for _ in 0..20 {
        model.update(Event::Do(Action::Faster));
    }
    assert_eq!(model.interval, INTERVALS[0]);
    model.interval = Duration::from_millis(700);
    model.update(Event::Do(Action::Faster));
    assert_eq!(model.interval, INTERVALS[1], "the next that there is");
}

#[test]
fn it_ends_by_key_and_by_signal() {
    assert_eq!(model().update(Event::Do(Action::Quit)), Effect::Quit);
    assert_eq!(model().update(Event::End), Effect::Quit);
}

#[test]
fn going_back_ends_the_nearest_thing() {
    let mut model = model();
    act(
        &mut model,
        &[Action::BeginFilter, Action::Type('f'), Action::EndFilter],
    );
    act(&mut model, &[Action::Detail, Action::Help, Action::Back]);
    assert_eq!((model.mode, model.detail), (Mode::Normal, true));
    act(&mut model, &[Action::Back]);
    assert_eq!((model.detail, model.filter.as_str()), (false, "f"));
    act(&mut model, &[Action::Back]);
    assert_eq!(model.filter, "");
}
