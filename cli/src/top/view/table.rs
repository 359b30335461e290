//! The table: as many columns as there is room for, numbers to the right, the selected row marked
//! and always in sight.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::Theme;
use crate::observation::Row;
use crate::output::{Cell, spoken};
use crate::top::model::{Link, Model};

const GAP: usize = 2;
/// A name is cut down to this before a column has to go.
const MIN_NAME: usize = 8;

/// A column that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    column: usize,
    width: usize,
    is_number: bool,
}

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let rows = model.rows();
    let (sort_column, descending) = model.sort();
    let headers: Vec<String> = (0..)
        .zip(model.topic.columns())
        .map(|(column, key)| {
            let arrow = match (column == sort_column, descending) {
                (false, _) => "",
                (true, true) => "▼",
                (true, false) => "▲",
            };
            format!("{}{arrow}", spoken(key).to_uppercase())
        })
        .collect();
    let shown = fit(&headers, &rows, usize::from(area.width));
    let mut lines = vec![header(&headers, &shown, sort_column, theme)];
    let selected = model.selected(&rows);
    let height = usize::from(area.height.saturating_sub(1));
    // The selected row stays in sight, and a page at a time goes by.
    let page = selected.unwrap_or(0).checked_div(height).unwrap_or(0);
    for (at, row) in rows.iter().enumerate().skip(page * height).take(height) {
        lines.push(line(row, &shown, Some(at) == selected, theme));
    }
    if rows.is_empty() {
        lines.push(Line::styled(nothing(model), theme.faint()));
    }
    for (y, line) in (0..area.height).zip(lines) {
        let place = Rect {
            y: area.y + y,
            height: 1,
            ..area
        };
        frame.render_widget(line, place);
    }
}

/// Says why there are no rows.
fn nothing(model: &Model) -> &'static str {
    match (&model.now, &model.link) {
        (None, Link::Lost { .. }) => "nothing known yet: goumemd does not answer",
        (None, _) => "nothing known yet",
        (Some(_), _) if !model.filter.is_empty() => "nothing with that text",
        (Some(_), _) => "none",
    }
}

/// Chooses the columns from the left that fit, and their widths.
fn fit(headers: &[String], rows: &[Row], width: usize) -> Vec<Shown> {
    let natural = |column: usize| {
        let cells = rows
            .iter()
            .map(|row| text_width(&row.cells[column].human()));
        let is_number = rows.iter().any(|row| row.cells[column].is_number());
        Shown {
            column,
            width: cells
                .chain([text_width(&headers[column])])
                .max()
                .unwrap_or(0),
            is_number,
        }
    };
    let mut shown: Vec<Shown> = (0..headers.len()).map(natural).collect();
    let total = |shown: &[Shown]| {
        let widths: usize = shown.iter().map(|shown| shown.width).sum();
        widths + GAP * shown.len().saturating_sub(1)
    };
    while shown.len() > 1 {
        let cut = shown[0].width.saturating_sub(MIN_NAME);
        if total(&shown) <= width + cut {
            break;
        }
        shown.pop();
    }
    let over = total(&shown).saturating_sub(width);
    shown[0].width = shown[0].width.saturating_sub(over).max(1);
    shown
}

fn header(headers: &[String], shown: &[Shown], sorted: usize, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for (i, column) in shown.iter().enumerate() {
        let style = if column.column == sorted {
            theme.title()
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        };
        let text = padded(&headers[column.column], *column, i + 1 == shown.len());
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

fn line(row: &Row, shown: &[Shown], is_selected: bool, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for (i, column) in shown.iter().enumerate() {
        let cell = &row.cells[column.column];
        let style = match cell {
            Cell::Percent(percent) => theme.fill(*percent),
            Cell::None => theme.faint(),
            Cell::PerSecond(0) => theme.faint(),
            _ => Style::new(),
        };
        let text = padded(&cell.human(), *column, i + 1 == shown.len());
        spans.push(Span::styled(text, style));
    }
    let line = Line::from(spans);
    if is_selected {
        line.style(Style::new().add_modifier(Modifier::REVERSED))
    } else {
        line
    }
}

/// Fills a text up to its column, or cuts it.
fn padded(text: &str, column: Shown, is_last: bool) -> String {
    let text = clip(text, column.width);
    let pad = " ".repeat(column.width.saturating_sub(text_width(&text)));
    let gap = if is_last { "" } else { "  " };
    if column.is_number {
        format!("{pad}{text}{gap}")
    } else {
        format!("{text}{pad}{gap}")
    }
}

/// Cuts a text to a width, and marks that it did.
fn clip(text: &str, width: usize) -> String {
    if text_width(text) <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if text_width(&cut) >= width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

/// Returns how many cells of the screen a text takes.
fn text_width(text: &str) -> usize {
    Span::raw(text).width()
}
