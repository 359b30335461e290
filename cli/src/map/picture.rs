//! The plan as text: rows of cells, then what they mean. With colours two cells share a character
//! (the upper and the lower half of it); without, each has a letter.

use std::fmt::Write as _;

use super::plan::{Label, Plan};
use crate::observation::percent;
use crate::output::{escape, human_bytes};

/// More rows than a screen has are no picture.
const MAX_ROWS: usize = 16;
/// Of a terminal with 256 colours: far apart, readable on dark and on light ground.
const COLOURS: [u8; 12] = [39, 208, 70, 170, 220, 37, 161, 105, 148, 130, 246, 117];
/// The rest is drawn as one.
const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const FREE_COLOUR: u8 = 236;
const COMMITTED_COLOUR: u8 = 240;
const MORE: &str = "more";

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) columns: u16,
    pub(super) colour: bool,
}

/// Returns the picture, its legend and the sums.
pub(super) fn text(plan: &Plan, look: Look) -> String {
    let columns = usize::from(look.columns);
    let per_row = if look.colour { 2 * columns } else { columns };
    let cells = MAX_ROWS * per_row;
    let units_per_cell = plan.units().div_ceil(cells as u64).max(1);
    let legend = Legend::of(plan, look.colour);
    let drawn = cells_of(plan, units_per_cell, &legend);
    let mut text = format!("{}\n", plan.summary());
    let _ = writeln!(
        text,
        "by {}, each cell {} of {}",
        plan.by.name(),
        match units_per_cell {
            1 => format!("one {}", plan.unit),
            n => format!("{n} {}s", plan.unit),
        },
        human_bytes(plan.unit_bytes.saturating_mul(units_per_cell)),
    );
    if look.colour {
        for pair in drawn.chunks(2 * columns) {
            // The first half of the cells above, the second below.
            let (above, below) = pair.split_at(pair.len().min(columns));
            for (column, &upper) in above.iter().enumerate() {
                text.push_str(&half_blocks(&legend, upper, below.get(column).copied()));
            }
            text.push_str("\x1b[0m\n");
        }
    } else {
        for row in drawn.chunks(columns) {
            text.extend(row.iter().map(|&entry| legend.entries[entry].letter));
            text.push('\n');
        }
    }
    legend.write(plan, &mut text);
    text
}

/// Two cells in one character.
fn half_blocks(legend: &Legend, upper: usize, lower: Option<usize>) -> String {
    let upper = legend.entries[upper].colour;
    match lower.map(|lower| legend.entries[lower].colour) {
        Some(lower) if lower == upper => format!("\x1b[0;38;5;{upper}m█"),
        Some(lower) => format!("\x1b[0;38;5;{upper};48;5;{lower}m▀"),
        None => format!("\x1b[0;38;5;{upper}m▀"),
    }
}

/// What is drawn how.
struct Legend {
    entries: Vec<Entry>,
}

struct Entry {
    /// None: everything that has no entry of its own.
    label: Option<Label>,
    count: u64,
    letter: char,
    colour: u8,
}

impl Legend {
    fn of(plan: &Plan, colour: bool) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let room = if colour { COLOURS.len() } else { LETTERS.len() };
        let (free, held): (Vec<_>, Vec<_>) = plan
            .shares()
            .into_iter()
            .partition(|share| matches!(share.label, Label::Free { .. }));
        // The last one stands for the rest, if there is a rest.
        let own = if held.len() > room {
            room - 1
        } else {
            held.len()
        };
        let letters = LETTERS.chars().chain(std::iter::repeat('?'));
        for ((at, share), letter) in held.iter().enumerate().zip(letters) {
            if at < own {
                entries.push(Entry {
                    label: Some(share.label.clone()),
                    count: share.count,
                    letter,
                    colour: COLOURS[at % COLOURS.len()],
                });
            }
        }
        let rest: u64 = held.iter().skip(own).map(|share| share.count).sum();
        if rest > 0 {
            entries.push(Entry {
                label: None,
                count: rest,
                letter: '+',
                colour: COLOURS[COLOURS.len() - 1],
            });
        }
        for share in free {
            let committed = share.label == Label::Free { committed: true };
            entries.push(Entry {
                label: Some(share.label),
                count: share.count,
                letter: if committed { ':' } else { '.' },
                colour: if committed {
                    COMMITTED_COLOUR
                } else {
                    FREE_COLOUR
                },
            });
        }
        Self { entries }
    }

    /// Returns the entry of a label.
    fn find(&self, label: &Label) -> usize {
        let own = self
            .entries
            .iter()
            .position(|entry| entry.label.as_ref() == Some(label));
        let rest = || self.entries.iter().position(|entry| entry.label.is_none());
        own.or_else(rest).unwrap_or(0)
    }

    fn write(&self, plan: &Plan, text: &mut String) {
        let units = plan.units();
        let name = |entry: &Entry| match &entry.label {
            Some(label) => escape(label.text()),
            None => MORE.to_owned(),
        };
        let width = self.entries.iter().map(|entry| name(entry).chars().count());
        let width = width.max().unwrap_or(0);
        let is_coloured = text.contains('\x1b');
        for entry in &self.entries {
            let sign = match is_coloured {
                true => format!("\x1b[38;5;{}m█\x1b[0m", entry.colour),
                false => entry.letter.to_string(),
            };
            let bytes = human_bytes(entry.count.saturating_mul(plan.unit_bytes));
            let _ = writeln!(
                text,
                "{sign} {:<width$}  {bytes:>10}  {:>3} %  {} {}s",
                name(entry),
                percent(entry.count, units),
                entry.count,
                plan.unit,
            );
        }
    }
}

/// Returns for each cell the entry that has most of its units; of equals the one that comes first.
fn cells_of(plan: &Plan, units_per_cell: u64, legend: &Legend) -> Vec<usize> {
    let mut cells = Vec::new();
    let mut counts = vec![0_u64; legend.entries.len()];
    let mut filled = 0;
    let close = |counts: &mut Vec<u64>, cells: &mut Vec<usize>| {
        let most = counts.iter().copied().max().unwrap_or(0);
        cells.extend(counts.iter().position(|&count| count == most));
        counts.fill(0);
    };
    for piece in &plan.pieces {
        let entry = legend.find(&piece.label);
        let mut left = piece.count;
        while left > 0 {
            let taken = left.min(units_per_cell - filled);
            counts[entry] += taken;
            filled += taken;
            left -= taken;
            if filled == units_per_cell {
                close(&mut counts, &mut cells);
                filled = 0;
            }
        }
    }
    if filled > 0 {
        close(&mut counts, &mut cells);
    }
    cells
}
