use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;
use crate::observation::tests::observation;
use crate::top::model::{Action, Event};

const MIB: u64 = 1 << 20;

fn model() -> Model {
    let mut model = Model::new(Duration::from_secs(1));
    for second in 0..200 {
        let frames = (second % 60) * 4 * MIB;
        model.update(Event::Observed(Box::new(observation(second, frames))));
    }
    model
}

fn buffer(model: &mut Model, width: u16, height: u16, colour: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| draw(frame, model, Theme { colour }));
    drawn.unwrap().buffer.clone()
}

fn screen(model: &mut Model, width: u16, height: u16) -> String {
    let buffer = buffer(model, width, height, false);
    let line = |y| {
        let cells = (0..width).map(|x| buffer.cell((x, y)).unwrap().symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn act(model: &mut Model, actions: &[Action]) {
    for &action in actions {
        model.update(Event::Do(action));
    }
}

#[test]
fn pools_at_80_by_24() {
    insta::assert_snapshot!(screen(&mut model(), 80, 24));
}

#[test]
fn pools_on_a_wide_screen_have_every_column() {
    let screen = screen(&mut model(), 140, 20);
    for key in Topic::Pools.columns() {
        let header = spoken_upper(key);
        assert!(screen.contains(&header), "{header} in\n{screen}");
    }
}

fn spoken_upper(key: &str) -> String {
    crate::output::spoken(key).to_uppercase()
}

#[test]
fn pools_on_a_narrow_screen() {
    insta::assert_snapshot!(screen(&mut model(), 40, 12));
}

#[test]
fn arena_pools_and_sessions() {
    let mut model = model();
    act(&mut model, &[Action::NextTopic]);
    insta::assert_snapshot!("arena_pools", screen(&mut model, 80, 12));
    act(&mut model, &[Action::NextTopic]);
    insta::assert_snapshot!("sessions", screen(&mut model, 80, 12));
}

#[test]
fn detail_says_who_holds_the_selected_pool() {
    let mut model = model();
    act(&mut model, &[Action::Detail]);
    let screen = screen(&mut model, 100, 24);
    assert!(
        screen.contains("held by pid 4121 trainer (uid 1000) 76 MiB"),
        "{screen}"
    );
}

#[test]
fn help_lists_the_keys() {
    let mut model = model();
    act(&mut model, &[Action::Help]);
    insta::assert_snapshot!(screen(&mut model, 80, 24));
}

#[test]
fn a_lost_daemon_is_said_over_what_was_known_last() {
    let mut model = model();
    for second in [201, 204] {
        model.update(Event::Lost {
            at: Duration::from_secs(second),
            why: "no goumemd answers at /run/goumem/goumemd.sock".to_owned(),
        });
    }
    let screen = screen(&mut model, 100, 12);
    let first = screen.lines().next().unwrap();
    assert!(
        first.contains("no goumemd answers at /run/goumem/goumemd.sock"),
        "{first}"
    );
    assert!(first.contains("disconnected for 3 s, retrying"), "{first}");
    assert!(screen.contains("frames"), "{screen}");
}

#[test]
fn nothing_known_yet_is_said() {
    let mut model = Model::new(Duration::from_secs(1));
    let screen = screen(&mut model, 80, 24);
    assert!(
        screen.contains("connecting") && screen.contains("nothing known yet"),
        "{screen}"
    );
}

#[test]
fn no_size_of_the_screen_is_too_small() {
    let mut model = model();
    act(&mut model, &[Action::Detail]);
    for help in [false, true] {
        if help {
            act(&mut model, &[Action::Help]);
        }
        for (width, height) in [(1, 1), (2, 3), (5, 5), (10, 2), (19, 7), (300, 1), (1, 100)] {
            screen(&mut model, width, height);
        }
    }
}

#[test]
fn without_colour_there_is_none() {
    let mut model = model();
    let colours = |buffer: &Buffer| {
        let coloured =
            |cell: &&ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
        buffer.content.iter().filter(coloured).count()
    };
    assert_eq!(colours(&buffer(&mut model, 80, 24, false)), 0);
    assert!(colours(&buffer(&mut model, 80, 24, true)) > 50);
}

#[test]
fn control_characters_of_others_never_reach_the_terminal() {
    let mut seen = observation(300, MIB);
    seen.sessions[1].command = Some("\u{1b}[2Jevil".to_owned());
    let mut model = model();
    model.update(Event::Observed(Box::new(seen)));
    act(&mut model, &[Action::Show(Topic::Sessions), Action::Detail]);
    let screen = screen(&mut model, 100, 20);
    assert!(screen.contains(r"\u{1b}[2Jevil"), "{screen}");
}

#[test]
fn the_selected_row_is_in_sight_among_many() {
    let mut seen = observation(300, MIB);
    seen.pools = (1..=500)
        .map(|id| crate::observation::tests::pool(id, &format!("pool{id:03}"), MIB, 2 * MIB))
        .collect();
    let mut model = model();
    model.update(Event::Observed(Box::new(seen)));
    act(&mut model, &[Action::Last]);
    assert!(screen(&mut model, 80, 24).contains("pool500"));
    act(&mut model, &[Action::Page(-1), Action::First]);
    assert!(screen(&mut model, 80, 24).contains("pool001"));
}
