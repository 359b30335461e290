use ratatui::layout::Rect;
use ratatui::style::Style;

use super::*;

#[test]
fn a_frame_becomes_texts_in_their_places() {
    let mut buffer = Buffer::empty(Rect::new(0, 0, 10, 2));
    buffer.set_string(0, 1, " a<b c ", Style::new().fg(Color::Green));
    let svg = svg(&buffer);
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    assert!(svg.contains("viewBox=\"0 0 84.0 36.0\""), "{svg}");
    let text = "<text x=\"8.4\" y=\"31.5\" textLength=\"42.0\" \
                lengthAdjust=\"spacingAndGlyphs\" fill=\"#b8bb26\">a&lt;b\u{a0}c</text>";
    assert!(svg.contains(text), "{svg}");
    assert_eq!(
        svg.matches("<text").count(),
        1,
        "blanks at the ends are not drawn"
    );
}

#[test]
fn reversed_text_has_a_ground() {
    let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 1));
    let style = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
    buffer.set_string(0, 0, "x", style);
    let svg = svg(&buffer);
    assert!(svg.contains(&format!("fill=\"{FOREGROUND}\"/>")), "{svg}");
    assert!(
        svg.contains(&format!("fill=\"{BACKGROUND}\" font-weight=\"bold\">x")),
        "{svg}"
    );
}
