//! What `top` knows and shows, and how it changes: by what the poller saw and by keys. It draws
//! nothing, asks nobody and reads no clock, so that all of it is tested without a terminal.

use std::cmp::Ordering;
use std::time::Duration;

use super::history::History;
use crate::observation::{Observation, Row, Topic};
use crate::output::Cell;

#[cfg(test)]
mod tests;

/// The intervals that `+` and `-` choose from.
pub(super) const INTERVALS: [Duration; 7] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(60),
];
/// More than any name has, so that nobody types for ever.
const MAX_FILTER_CHARS: usize = 64;

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) topic: Topic,
    tables: [TableState; 3],
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) paused: bool,
    /// Whether the selected row is shown in full.
    pub(super) detail: bool,
    pub(super) link: Link,
    pub(super) interval: Duration,
    pub(super) now: Option<Observation>,
    pub(super) before: Option<Observation>,
    pub(super) history: History,
    /// How often another run of the daemon has answered than before.
    pub(super) restarts: u32,
    /// Rows that fit on the screen, as the last drawing found.
    pub(super) page_rows: usize,
}

/// What keys do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Normal,
    /// They are letters of the filter.
    Filter,
    /// Any of them ends the help.
    Help,
}

/// How it stands with the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Connecting,
    Live,
    Lost {
        since: Duration,
        now: Duration,
        why: String,
    },
}

/// How a table is looked at.
#[derive(Debug, Clone)]
struct TableState {
    sort_column: usize,
    descending: bool,
    /// The row's id; none: the first.
    selected: Option<String>,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The poller has looked.
    Observed(Box<Observation>),
    /// The poller could not.
    Lost {
        at: Duration,
        why: String,
    },
    Do(Action),
    /// Nothing but that the screen has to be drawn anew.
    Redraw,
    /// Someone wants the program to end.
    End,
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Help,
    Pause,
    Refresh,
    Show(Topic),
    NextTopic,
    PreviousTopic,
    NextSort,
    PreviousSort,
    Reverse,
    Move(isize),
    Page(isize),
    First,
    Last,
    Detail,
    Slower,
    Faster,
    BeginFilter,
    Type(char),
    Erase,
    /// Keeps the filter.
    EndFilter,
    /// Away with the filter, the help, the detail.
    Back,
}

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Draw,
    Quit,
    /// Tell the poller how often to look, and to look now.
    Poll(Duration),
}

impl Model {
    pub(super) fn new(interval: Duration) -> Self {
        let by_bytes = TableState {
            sort_column: 1,
            descending: true,
            selected: None,
        };
        Self {
            topic: Topic::Pools,
            tables: [by_bytes.clone(), by_bytes.clone(), by_bytes],
            filter: String::new(),
            mode: Mode::Normal,
            paused: false,
            detail: false,
            link: Link::Connecting,
            interval,
            now: None,
            before: None,
            history: History::default(),
            restarts: 0,
            page_rows: 1,
        }
    }

    /// Takes in what has happened.
    pub(super) fn update(&mut self, event: Event) -> Effect {
        match event {
            Event::Observed(observation) => self.observe(*observation),
            Event::Lost { at, why } => {
                let since = match self.link {
                    Link::Lost { since, .. } => since,
                    _ => at,
                };
                self.link = Link::Lost {
                    since,
                    now: at,
                    why,
                };
            }
            Event::Do(action) => return self.act(action),
            Event::Redraw => {}
            Event::End => return Effect::Quit,
        }
        Effect::Draw
    }

    /// Returns the rows to show, in order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Some(now) = &self.now else {
            return Vec::new();
        };
        let mut rows = now.rows(self.topic, self.before.as_ref());
        rows.retain(|row| matches(row, &self.filter));
        let table = self.table();
        rows.sort_by(|a, b| order(a, b, table));
        rows
    }

    /// Returns which of the rows is selected.
    pub(super) fn selected(&self, rows: &[Row]) -> Option<usize> {
        let id = self.table().selected.as_ref();
        let found = id.and_then(|id| rows.iter().position(|row| row.id == *id));
        found.or_else(|| (!rows.is_empty()).then_some(0))
    }

    /// Returns the column that the rows are sorted by, and whether the most comes first.
    pub(super) fn sort(&self) -> (usize, bool) {
        (self.table().sort_column, self.table().descending)
    }

    fn observe(&mut self, observation: Observation) {
        let is_another_run = self
            .now
            .as_ref()
            .is_some_and(|now| now.daemon.epoch != observation.daemon.epoch);
        self.link = Link::Live;
        if is_another_run {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.history.push(observation.at, observation.totals());
        if self.paused {
            return;
        }
        self.before = self.now.replace(observation);
    }

    fn act(&mut self, action: Action) -> Effect {
        match action {
            Action::Quit => return Effect::Quit,
            Action::Help => self.mode = Mode::Help,
            Action::Pause => self.paused = !self.paused,
            Action::Refresh => return Effect::Poll(self.interval),
            Action::Show(topic) => self.topic = topic,
            Action::NextTopic => self.turn_to(1),
            Action::PreviousTopic => self.turn_to(Topic::ALL.len() - 1),
            Action::NextSort => self.sort_by(1),
            Action::PreviousSort => self.sort_by(self.topic.columns().len() - 1),
            Action::Reverse => self.table_mut().descending ^= true,
            Action::Move(by) => self.select(by),
            Action::Page(pages) => {
                let rows = isize::try_from(self.page_rows.max(1)).unwrap_or(1);
                self.select(pages.saturating_mul(rows));
            }
            Action::First => self.select(isize::MIN),
            Action::Last => self.select(isize::MAX),
            Action::Detail => self.detail = !self.detail,
            Action::Slower => return self.pace(|at| at.saturating_add(1)),
            Action::Faster => return self.pace(|at| at.saturating_sub(1)),
            Action::BeginFilter => self.mode = Mode::Filter,
            Action::Type(c) => {
                if self.filter.chars().count() < MAX_FILTER_CHARS {
                    self.filter.push(c);
                }
            }
            Action::Erase => {
                self.filter.pop();
            }
            Action::EndFilter => self.mode = Mode::Normal,
            Action::Back => match self.mode {
                Mode::Help => self.mode = Mode::Normal,
                Mode::Filter => {
                    self.mode = Mode::Normal;
                    self.filter.clear();
                }
                Mode::Normal if self.detail => self.detail = false,
                Mode::Normal => self.filter.clear(),
            },
        }
        Effect::Draw
    }

    fn table(&self) -> &TableState {
        &self.tables[self.topic as usize]
    }

    fn table_mut(&mut self) -> &mut TableState {
        &mut self.tables[self.topic as usize]
    }

    fn turn_to(&mut self, steps: usize) {
        self.topic = Topic::ALL[(self.topic as usize + steps) % Topic::ALL.len()];
    }

    fn sort_by(&mut self, steps: usize) {
        let columns = self.topic.columns().len();
        let table = self.table_mut();
        table.sort_column = (table.sort_column + steps) % columns;
        // Names from A to Z, numbers from the largest.
        table.descending = table.sort_column != 0;
    }

    fn select(&mut self, by: isize) {
        let rows = self.rows();
        let at = self.selected(&rows).unwrap_or(0);
        let to = at
            .saturating_add_signed(by)
            .min(rows.len().saturating_sub(1));
        self.table_mut().selected = rows.get(to).map(|row| row.id.clone());
    }

    fn pace(&mut self, step: impl FnOnce(usize) -> usize) -> Effect {
        let at = INTERVALS
            .iter()
            .position(|&interval| interval >= self.interval)
            .unwrap_or(INTERVALS.len() - 1);
        self.interval = INTERVALS[step(at).min(INTERVALS.len() - 1)];
        Effect::Poll(self.interval)
    }
}

/// Returns whether a text or the pid of a row has the filter in it, upper or lower case.
fn matches(row: &Row, filter: &str) -> bool {
    let filter = filter.to_lowercase();
    row.cells.iter().any(|cell| match cell {
        Cell::Text(text) => text.to_lowercase().contains(&filter),
        Cell::Number(number) => !filter.is_empty() && number.to_string() == filter,
        _ => filter.is_empty(),
    })
}

/// Compares two rows; where the column is equal, by name.
fn order(a: &Row, b: &Row, table: &TableState) -> Ordering {
    let by = |column: usize| match (a.cells.get(column), b.cells.get(column)) {
        (Some(a), Some(b)) => a.order(b),
        _ => Ordering::Equal,
    };
    let first = by(table.sort_column);
    let first = if table.descending {
        first.reverse()
    } else {
        first
    };
    first.then_with(|| by(0)).then_with(|| a.id.cmp(&b.id))
}
