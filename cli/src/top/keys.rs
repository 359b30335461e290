//! From keys to what they mean: in the table, in the filter's line, in the help.

use crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Action, Event, Mode};
use crate::observation::Topic;

#[cfg(test)]
mod tests;

/// What the help says.
pub(super) const HELP: &[(&str, &str)] = &[
    ("Tab, 1 2 3", "pools, arena pools, sessions"),
    ("↑ ↓ k j", "select a row; PgUp PgDn Home End too"),
    ("Enter", "the selected row in full: who holds it"),
    ("s S, > <", "sort by the next column, the one before"),
    ("r", "reverse the order"),
    ("/", "show rows with a text; Enter keeps it, Esc ends it"),
    ("p", "pause and go on"),
    ("Space", "look now"),
    ("+ -", "look less often, more often"),
    ("? h", "this help"),
    ("q, Ctrl-C", "quit"),
];

/// Returns what something that the terminal says means in a mode; none: nothing.
pub(super) fn event(said: &TerminalEvent, mode: Mode) -> Option<Event> {
    match said {
        TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => {
            action(*key, mode).map(Event::Do)
        }
        TerminalEvent::Resize(..) => Some(Event::Redraw),
        _ => None,
    }
}

fn action(key: KeyEvent, mode: Mode) -> Option<Action> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match (key.code, mode) {
        (KeyCode::Char('c'), _) if control => Some(Action::Quit),
        (KeyCode::Char('l'), _) if control => Some(Action::Refresh),
        (_, _) if control => None,
        (KeyCode::Char('q'), Mode::Help) => Some(Action::Quit),
        (_, Mode::Help) => Some(Action::Back),
        (code, Mode::Filter) => in_filter(code),
        (code, Mode::Normal) => in_table(code),
    }
}

fn in_filter(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char(c) => Action::Type(c),
        KeyCode::Backspace => Action::Erase,
        KeyCode::Enter => Action::EndFilter,
        KeyCode::Esc => Action::Back,
        KeyCode::Up => Action::Move(-1),
        KeyCode::Down => Action::Move(1),
        _ => return None,
    })
}

fn in_table(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Action::Help,
        KeyCode::Char('p') => Action::Pause,
        KeyCode::Char(' ') => Action::Refresh,
        KeyCode::Char('1') => Action::Show(Topic::Pools),
        KeyCode::Char('2') => Action::Show(Topic::Arenas),
        KeyCode::Char('3') => Action::Show(Topic::Sessions),
        KeyCode::Tab | KeyCode::Right => Action::NextTopic,
        KeyCode::BackTab | KeyCode::Left => Action::PreviousTopic,
        KeyCode::Char('s' | '>') => Action::NextSort,
        KeyCode::Char('S' | '<') => Action::PreviousSort,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        KeyCode::PageUp => Action::Page(-1),
        KeyCode::PageDown => Action::Page(1),
        KeyCode::Home | KeyCode::Char('g') => Action::First,
        KeyCode::End | KeyCode::Char('G') => Action::Last,
        KeyCode::Enter => Action::Detail,
        KeyCode::Char('+' | '=') => Action::Slower,
        KeyCode::Char('-') => Action::Faster,
        KeyCode::Char('/') => Action::BeginFilter,
        KeyCode::Esc => Action::Back,
        _ => return None,
    })
}
