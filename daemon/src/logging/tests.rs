//! Which place gets which lines.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::subscriber::with_default;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Keeps what is written.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn written(format: LogFormat, place: Place) -> String {
    let lines = Lines::default();
    let layer = lines_to(lines.clone(), format, place);
    with_default(tracing_subscriber::registry().with(layer), || {
        tracing::warn!(pool = "frames", bytes = 7, "it happens");
    });
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

const FILE: Place = Place {
    terminal: false,
    journal: false,
};
const JOURNAL: Place = Place {
    terminal: false,
    journal: true,
};
const TERMINAL: Place = Place {
    terminal: true,
    journal: false,
};

#[test]
fn journal_gets_a_priority_and_no_time() {
    for format in [LogFormat::Auto, LogFormat::Compact] {
        assert_eq!(
            written(format, JOURNAL),
            "<4> WARN goumemd::logging::tests: it happens pool=\"frames\" bytes=7\n"
        );
    }
    for format in [LogFormat::Json, LogFormat::Pretty] {
        let text = written(format, JOURNAL);
        assert!(
            !text.contains("timestamp") && !text.contains("20"),
            "{text}"
        );
    }
}

#[test]
fn auto_is_for_programs_unless_a_person_looks() {
    let line = written(LogFormat::Auto, FILE);
    assert!(line.starts_with(r#"{"timestamp":"20"#), "{line}");
    assert!(line.contains(r#""fields":{"message":"it happens","pool":"frames","bytes":7}"#));
    assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
    let pretty = written(LogFormat::Auto, TERMINAL);
    assert!(
        pretty.lines().count() > 1 && pretty.contains('\u{1b}'),
        "{pretty}"
    );
    let compact = written(LogFormat::Compact, FILE);
    assert!(
        compact.starts_with("20") && compact.lines().count() == 1,
        "{compact}"
    );
    assert!(!compact.contains('\u{1b}'), "{compact}");
}

#[test]
fn stderr_is_the_journal_if_the_variable_names_it() {
    let found = rustix::fs::fstat(io::stderr()).unwrap();
    let named = format!("{}:{}", found.st_dev, found.st_ino);
    assert!(is_journal(Some(OsStr::new(&named))));
    let other = format!("{}:{}", found.st_dev, found.st_ino.wrapping_add(1));
    for other in [Some(other.as_str()), Some("8"), Some(""), Some("a:b"), None] {
        assert!(!is_journal(other.map(OsStr::new)), "{other:?}");
    }
}
