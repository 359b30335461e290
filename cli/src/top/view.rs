//! From the model to the screen: a line on the daemon, the budget, two curves, the table, the keys.
//! What there is no room for goes: first the curves, then columns from the right.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline, SparklineBar};

use super::history::WINDOW;
use super::keys::HELP;
use super::model::{Link, Mode, Model};
use crate::observation::{Observation, Topic, Totals, fragmented_percent, held_bytes, percent};
use crate::output::{escape, human_bytes};

mod table;
#[cfg(test)]
mod tests;

/// Below this, the table needs the curves' lines more.
const CURVES_FROM_HEIGHT: u16 = 18;
const CURVE_HEIGHT: u16 = 2;
/// Room for `committed` and a size.
const CURVE_LABEL: u16 = 20;

/// Colours, or none: then only bold and reversed text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) colour: bool,
}

impl Theme {
    fn of(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn faint(self) -> Style {
        self.of(Color::DarkGray)
    }

    fn title(self) -> Style {
        self.of(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn warning(self) -> Style {
        self.of(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Green, yellow and red by how full something is.
    fn fill(self, percent: u64) -> Style {
        self.of(match percent {
            0..70 => Color::Green,
            70..90 => Color::Yellow,
            _ => Color::Red,
        })
    }
}

/// Draws everything. Tells the model how many rows fit.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, theme: Theme) {
    let area = frame.area();
    let has_curves = area.height >= CURVES_FROM_HEIGHT;
    let curves = if has_curves { 2 * CURVE_HEIGHT } else { 0 };
    let detail = match model.detail {
        true => detail_lines(model),
        false => Vec::new(),
    };
    let most = area.height.saturating_sub(curves + 6);
    let detail_height = u16::try_from(detail.len()).unwrap_or(most).min(most);
    let [head, budget, curves, tabs, rows, details, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(curves),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(detail_height),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, model, theme);
    draw_budget(frame, budget, model, theme);
    if has_curves {
        draw_curves(frame, curves, model, theme);
    }
    draw_tabs(frame, tabs, model, theme);
    model.page_rows = usize::from(rows.height.saturating_sub(1)).max(1);
    table::draw(frame, rows, model, theme);
    frame.render_widget(Paragraph::new(detail), details);
    draw_foot(frame, foot, model, theme);
    if model.mode == Mode::Help {
        draw_help(frame, area, theme);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let link = match &model.link {
        Link::Connecting => Span::styled("connecting", theme.warning()),
        Link::Lost { since, now, .. } => {
            let away = now.saturating_sub(*since).as_secs();
            let text = format!("disconnected for {away} s, retrying");
            Span::styled(text, theme.warning())
        }
        Link::Live if model.paused => Span::styled("paused", theme.warning()),
        Link::Live => Span::styled(
            format!("every {}", humantime::format_duration(model.interval)),
            theme.faint(),
        ),
    };
    let mut what = vec![Span::styled("goumemd", theme.title())];
    match (&model.link, &model.now) {
        (Link::Lost { why, .. }, _) => what.push(Span::raw(format!(" {}", escape(why)))),
        (_, Some(now)) => {
            let daemon = &now.daemon;
            let text = format!(
                " {}  pid {}  up {}",
                escape(&daemon.version),
                daemon.pid,
                humantime::format_duration(Duration::from_secs(daemon.uptime.as_secs()))
            );
            what.push(Span::raw(text));
            if model.restarts > 0 {
                let text = format!("  restarted {} times", model.restarts);
                what.push(Span::styled(text, theme.faint()));
            }
            if daemon.quarantined > 0 {
                let text = format!("  {} quarantined", daemon.quarantined);
                what.push(Span::styled(text, theme.warning()));
            }
        }
        _ => {}
    }
    let room = u16::try_from(link.width()).unwrap_or(area.width);
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(room + 1)]).areas(area);
    frame.render_widget(Line::from(what), left);
    frame.render_widget(Line::from(link).alignment(Alignment::Right), right);
}

fn draw_budget(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let Some(now) = &model.now else {
        return;
    };
    let committed = now.daemon.committed_bytes;
    // Whichever ends first: the limit, or what the machine still has.
    let limit = now
        .daemon
        .budget_limit_bytes
        .min(committed.saturating_add(now.daemon.available_bytes));
    let full = percent(committed, limit).min(100);
    let text = format!(
        " {} of {}, {full} %",
        human_bytes(committed),
        human_bytes(limit)
    );
    let label = "committed ";
    let taken = label.len() + text.chars().count();
    let width = usize::from(area.width).saturating_sub(taken).min(60);
    let cells = usize::try_from(full).unwrap_or(100) * width / 100;
    let cells = if full > 0 { cells.max(1).min(width) } else { 0 };
    let line = Line::from(vec![
        Span::styled(label, theme.faint()),
        Span::styled("█".repeat(cells), theme.fill(full)),
        Span::styled("░".repeat(width - cells), theme.faint()),
        Span::raw(text),
    ]);
    frame.render_widget(line, area);
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let Some(now) = &model.now else {
        return;
    };
    let totals = now.totals();
    let lines = Layout::vertical([Constraint::Length(CURVE_HEIGHT); 2]).areas::<2>(area);
    let width = area.width.saturating_sub(CURVE_LABEL);
    let steps = |value: fn(&Totals) -> u64| model.history.steps(width, value);
    let held = steps(|totals| totals.held_bytes);
    let committed = steps(|totals| totals.committed_bytes);
    // One scale, so that the two can be compared.
    let most = held.iter().chain(&committed).flatten().max().copied();
    let curves = [
        ("held", totals.held_bytes, held, Color::Green),
        ("committed", totals.committed_bytes, committed, Color::Blue),
    ];
    for ((name, bytes, steps, colour), line) in curves.into_iter().zip(lines) {
        let [label, curve] =
            Layout::horizontal([Constraint::Length(CURVE_LABEL), Constraint::Fill(1)]).areas(line);
        let minutes = WINDOW.as_secs() / 60;
        let text = vec![
            Line::from(vec![
                Span::styled(format!("{name} "), theme.faint()),
                Span::raw(human_bytes(bytes)),
            ]),
            Line::styled(format!("last {minutes} min"), theme.faint()),
        ];
        frame.render_widget(Paragraph::new(text), label);
        let bars = steps.into_iter().map(SparklineBar::from);
        let curve_widget = Sparkline::default()
            .data(bars)
            .max(most.unwrap_or(0).max(1))
            .absent_value_symbol(" ")
            .style(theme.of(colour));
        frame.render_widget(curve_widget, curve);
    }
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let count = |topic: Topic| {
        let now = model.now.as_ref();
        now.map_or(0, |now: &Observation| match topic {
            Topic::Pools => now.pools.len(),
            Topic::Arenas => now.arena_pools.len(),
            Topic::Sessions => now.sessions.len(),
        })
    };
    let mut spans = Vec::new();
    for (number, topic) in (1..).zip(Topic::ALL) {
        let text = format!(" {number} {} {} ", topic.title(), count(topic));
        let style = if topic == model.topic {
            theme.title().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        spans.push(Span::styled(text, style));
        spans.push(Span::raw(" "));
    }
    frame.render_widget(Line::from(spans), area);
}

/// Says of the selected row what has no column.
fn detail_lines(model: &Model) -> Vec<Line<'static>> {
    let rows = model.rows();
    let (Some(now), Some(row)) = (
        &model.now,
        model.selected(&rows).and_then(|at| rows.get(at)),
    ) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    let mut say = |text: String| lines.push(Line::raw(escape(&text)));
    match model.topic {
        Topic::Pools => {
            let is_it = |pool: &&goumem::PoolStat| pool.pool.pool_id.to_string() == row.id;
            if let Some(pool) = now.pools.iter().find(is_it) {
                let free = pool.pool.capacity_bytes.saturating_sub(held_bytes(pool));
                say(format!(
                    "pool {}: {} blocks ({} kept, {} named), {} pins, {} free, largest {}, {} % fragmented",
                    pool.pool.name,
                    pool.blocks,
                    pool.kept_blocks,
                    pool.named_blocks,
                    pool.pins,
                    human_bytes(free),
                    human_bytes(pool.largest_free_bytes),
                    fragmented_percent(free, pool.largest_free_bytes),
                ));
                for holder in now.holders(pool) {
                    say(format!("  held by {holder}"));
                }
            }
        }
        Topic::Arenas => {
            let is_it = |pool: &&goumem::ArenaPoolStat| pool.pool.pool_id.to_string() == row.id;
            if let Some(pool) = now.arena_pools.iter().find(is_it) {
                say(format!(
                    "arena pool {}: {} arenas of {}, {} waiting; goumemctl arena ls {} says who holds them",
                    pool.pool.name,
                    pool.pool.arenas,
                    human_bytes(pool.pool.arena_bytes),
                    pool.waiting,
                    pool.pool.name,
                ));
            }
        }
        Topic::Sessions => {
            let is_it = |session: &&goumem::SessionInfo| session.serial.to_string() == row.id;
            if let Some(session) = now.sessions.iter().find(is_it) {
                let command = session.command.as_deref().unwrap_or("unknown");
                say(format!(
                    "session {} serial {}: {command}, label {:?}, leased {}, by RPC {}, {}",
                    session.session,
                    session.serial,
                    session.label.as_str(),
                    human_bytes(session.leased_bytes),
                    human_bytes(session.rpc_bytes),
                    match session.may_map {
                        true => "may map pools",
                        false => "may not map pools",
                    },
                ));
            }
        }
    }
    lines
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let line = match model.mode {
        Mode::Filter => Line::from(vec![
            Span::styled("filter: ", theme.title()),
            Span::raw(escape(&model.filter)),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
        ]),
        _ => {
            let keys = [
                ("q", "quit"),
                ("?", "help"),
                ("/", "filter"),
                ("s", "sort"),
                ("r", "reverse"),
                ("Tab", "next"),
                ("Enter", "detail"),
                ("p", "pause"),
            ];
            let mut spans = Vec::new();
            if !model.filter.is_empty() {
                let text = format!("/{} ", escape(&model.filter));
                spans.push(Span::styled(text, theme.warning()));
            }
            for (key, what) in keys {
                spans.push(Span::styled(key, theme.title()));
                spans.push(Span::raw(format!(" {what}  ")));
            }
            Line::from(spans)
        }
    };
    frame.render_widget(line, area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let lines: Vec<_> = HELP
        .iter()
        .map(|(keys, what)| {
            Line::from(vec![
                Span::styled(format!(" {keys:<12}"), theme.title()),
                Span::raw(*what),
            ])
        })
        .collect();
    let height = u16::try_from(lines.len() + 2).unwrap_or(area.height);
    let popup = area.centered(
        Constraint::Length(66.min(area.width)),
        Constraint::Length(height.min(area.height)),
    );
    let block = Block::bordered()
        .title(" keys ")
        .border_style(theme.faint());
    frame.render_widget(Clear, popup);
    frame.render_widget(Paragraph::new(lines).block(block), popup);
}
