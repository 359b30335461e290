//! A frame as SVG: what the terminal showed, cell by cell, for the documentation. Nothing is
//! re-drawn for it: it is the buffer that went to the terminal.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

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
         font-size=\"14\" xml:space=\"preserve\">\n\
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
    if text.trim().is_empty() {
        return;
    }
    let weight = if like.modifier.contains(Modifier::BOLD) {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
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
