//! A frame as SVG: what the terminal showed, cell by cell, for the documentation. Nothing is
//! re-drawn for it: it is the buffer that went to the terminal.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use ratatui::text::Span;

#[cfg(test)]
mod tests;

/// Of a cell, in units of the picture: a monospaced font of 14 is about 8.4 wide.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;
const BASELINE: f32 = 13.5;
const BACKGROUND: &str = "#1d2021";
const FOREGROUND: &str = "#ebdbb2";

/// Returns the picture.
pub(super) fn svg(buffer: &Buffer) -> String {
    let area = buffer.area;
    let (width, height) = (
        f32::from(area.width) * WIDTH,
        f32::from(area.height) * HEIGHT,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" \
         font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" \
         font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in area.top()..area.bottom() {
        let mut x = area.left();
        while x < area.right() {
            let Some(first) = buffer.cell((x, y)) else {
                break;
            };
            // Cells that look alike are one text.
            let mut text = String::new();
            let start = x;
            while let Some(cell) = buffer.cell((x, y)).filter(|cell| look(cell) == look(first)) {
                text.push_str(cell.symbol());
                x += 1;
            }
            run(
                &mut svg,
                first,
                &text,
                start - area.left(),
                x - start,
                y - area.top(),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// What must be equal for cells to be drawn together.
fn look(cell: &Cell) -> (Color, Color, Modifier) {
    (cell.fg, cell.bg, cell.modifier)
}

fn run(svg: &mut String, like: &Cell, text: &str, x: u16, n: u16, y: u16) {
    let (mut front, mut back) = (colour(like.fg, FOREGROUND), colour(like.bg, BACKGROUND));
    if like.modifier.contains(Modifier::REVERSED) {
        std::mem::swap(&mut front, &mut back);
    }
    let (left, top) = (f32::from(x) * WIDTH, f32::from(y) * HEIGHT);
    let width = f32::from(n) * WIDTH;
    if back != BACKGROUND {
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{back}\"/>"
        );
    }
    // Blanks at the ends are not drawn. Those within must not be folded, as browsers do.
    let before = text.chars().take_while(|c| *c == ' ').count();
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return;
    }
    let left = left + WIDTH * f32::from(u16::try_from(before).unwrap_or(u16::MAX));
    let cells = u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX);
    let width = f32::from(cells) * WIDTH;
    let weight = if like.modifier.contains(Modifier::BOLD) {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace(' ', "\u{a0}");
    let baseline = top + BASELINE;
    // Fonts differ: the length makes columns meet all the same.
    let _ = writeln!(
        svg,
        "<text x=\"{left:.1}\" y=\"{baseline:.1}\" textLength=\"{width:.1}\" \
         lengthAdjust=\"spacingAndGlyphs\" fill=\"{front}\"{weight}>{escaped}</text>"
    );
}

fn colour(colour: Color, otherwise: &'static str) -> &'static str {
    match colour {
        Color::Green => "#b8bb26",
        Color::Yellow => "#fabd2f",
        Color::Red => "#fb4934",
        Color::Blue => "#83a598",
        Color::Cyan => "#8ec07c",
        Color::DarkGray => "#928374",
        _ => otherwise,
    }
}
