//! What commands print: the same rows as a table for people, as JSON or YAML, or as
//! tab-separated values.
//! A cell knows its unit, so that 67108864 is `64 MiB` in a table and a number elsewhere.

use std::cmp::Ordering;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

#[cfg(test)]
mod tests;
mod yaml;

pub(crate) use yaml::document as yaml;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: one object or array.
    Json,
    /// The same as YAML.
    Yaml,
    /// For scripts: values with tabs between, no header, sizes in bytes, `-` for none.
    Plain,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Text(String),
    Number(u64),
    Bytes(u64),
    /// Milliseconds elsewhere than in a table.
    Time(Duration),
    /// Bytes a second, with a sign.
    PerSecond(i64),
    Percent(u64),
    Flag(bool),
    None,
    /// Rows within a record.
    List(List),
    /// Values of a row that are not the same in every row.
    Record(Record),
    /// Several texts: commands, say.
    Texts(Vec<String>),
}

/// Values under names: `capacity_bytes` is the column `CAPACITY` of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record(Vec<(&'static str, Cell)>);

/// Rows of the same columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

/// What a command prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    List(List),
    Record(Record),
    /// Something was done: a sentence for people, the facts for programs.
    Done(String, Record),
    /// What was found, not all of which is as it should be.
    Failed(Record),
    /// A text for people, the facts for programs, and whether all is as it should be.
    Report {
        text: String,
        facts: Record,
        failed: bool,
    },
    /// Bytes as they are: the contents of a block, a script.
    Raw(Vec<u8>),
    Nothing,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, key: &'static str, cell: impl Into<Cell>) -> Self {
        self.0.push((key, cell.into()));
        self
    }
}

impl List {
    /// Returns a list without rows. An empty list prints its header all the same.
    pub(crate) fn new(columns: &'static [&'static str]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row, in the order of the columns.
    pub(crate) fn push<const N: usize>(&mut self, row: [Cell; N]) {
        self.push_row(row.into());
    }

    /// The same for a row that was made elsewhere.
    pub(crate) fn push_row(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a cell for each column");
        self.rows.push(row);
    }
}

impl Output {
    /// Returns how the program ends after printing it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if matches!(self, Self::Failed(_) | Self::Report { failed: true, .. }) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    /// Writes it.
    pub(crate) fn write(&self, format: Format, to: &mut impl Write) -> io::Result<()> {
        if let Self::Raw(bytes) = self {
            return to.write_all(bytes);
        }
        match format {
            Format::Table => to.write_all(self.table().as_bytes()),
            Format::Plain => to.write_all(self.plain().as_bytes()),
            Format::Json => match self.json() {
                Value::Null => Ok(()),
                value => writeln!(to, "{value:#}"),
            },
            Format::Yaml => match self.json() {
                Value::Null => Ok(()),
                value => to.write_all(yaml(&value).as_bytes()),
            },
        }
    }

    fn table(&self) -> String {
        match self {
            Self::List(list) => list.table(),
            Self::Record(record) | Self::Failed(record) => record.table(),
            Self::Done(sentence, _) => format!("{sentence}\n"),
            Self::Report { text, .. } => text.clone(),
            Self::Raw(_) | Self::Nothing => String::new(),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::List(list) => list.plain(),
            Self::Record(record)
            | Self::Done(_, record)
            | Self::Failed(record)
            | Self::Report { facts: record, .. } => record.plain(),
            Self::Raw(_) | Self::Nothing => String::new(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::List(list) => list.json(),
            Self::Record(record)
            | Self::Done(_, record)
            | Self::Failed(record)
            | Self::Report { facts: record, .. } => record.json(),
            Self::Raw(_) | Self::Nothing => Value::Null,
        }
    }
}

impl Record {
    /// One line for each value, then the lists.
    fn table(&self) -> String {
        let mut table = new_table();
        let mut lists = String::new();
        for (key, cell) in &self.0 {
            match cell {
                Cell::List(list) if list.rows.is_empty() => {}
                Cell::List(list) => {
                    lists.push_str(&format!("\n{}:\n{}", spoken(key), list.table()));
                }
                cell => {
                    table.add_row([spoken(key), cell.human()]);
                }
            }
        }
        if table.is_empty() {
            return lists.trim_start().to_owned();
        }
        format!("{}{lists}", render(table))
    }

    fn plain(&self) -> String {
        let mut text = String::new();
        for (key, cell) in &self.0 {
            match cell {
                Cell::List(list) => {
                    for line in list.plain().lines() {
                        text.push_str(&format!("{key}\t{line}\n"));
                    }
                }
                cell => text.push_str(&format!("{key}\t{}\n", cell.raw())),
            }
        }
        text
    }

    /// Returns the values on a line, as a list has them in its plain form.
    pub(crate) fn values(&self) -> String {
        let cells: Vec<_> = self.0.iter().map(|(_, cell)| cell.raw()).collect();
        cells.join("\t")
    }

    pub(crate) fn json(&self) -> Value {
        let values = self
            .0
            .iter()
            .map(|(key, cell)| ((*key).to_owned(), cell.json()));
        Value::Object(values.collect())
    }
}

impl List {
    /// Numbers to the right, with their header.
    fn table(&self) -> String {
        let mut table = new_table();
        table.set_header(self.columns.iter().enumerate().map(|(column, key)| {
            let is_number = self.rows.iter().any(|row| row[column].is_number());
            aligned(spoken(key).to_uppercase(), is_number)
        }));
        for row in &self.rows {
            table.add_row(
                row.iter()
                    .map(|cell| aligned(cell.human(), cell.is_number())),
            );
        }
        render(table)
    }

    fn plain(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(Cell::raw).collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let keys = self.columns.iter().map(|&key| key.to_owned());
            Value::Object(keys.zip(row.iter().map(Cell::json)).collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }
}

impl Cell {
    /// For people.
    pub(crate) fn human(&self) -> String {
        match self {
            Self::Text(text) => escape(text),
            Self::Number(number) => number.to_string(),
            Self::Bytes(bytes) => human_bytes(*bytes),
            Self::Time(time) => human_time(*time),
            Self::PerSecond(rate) => human_rate(*rate),
            Self::Percent(percent) => format!("{percent} %"),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::None => "-".to_owned(),
            Self::List(list) => list.table(),
            Self::Record(_) | Self::Texts(_) => escape(&self.raw()),
        }
    }

    /// For scripts.
    fn raw(&self) -> String {
        match self {
            Self::Text(text) if text.is_empty() => "-".to_owned(),
            Self::Text(text) => escape(text),
            Self::Number(number) | Self::Bytes(number) | Self::Percent(number) => {
                number.to_string()
            }
            Self::Time(time) => millis(*time).to_string(),
            Self::PerSecond(rate) => rate.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::None => "-".to_owned(),
            Self::List(list) => list.plain(),
            Self::Record(record) => {
                let values = record.0.iter();
                let values = values.map(|(key, cell)| format!("{key}={}", cell.raw()));
                values.collect::<Vec<_>>().join(" ")
            }
            Self::Texts(texts) => escape(&texts.join(" | ")),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) | Self::Bytes(number) | Self::Percent(number) => json!(number),
            Self::Time(time) => json!(millis(*time)),
            Self::PerSecond(rate) => json!(rate),
            Self::Flag(flag) => json!(flag),
            Self::None => Value::Null,
            Self::List(list) => list.json(),
            Self::Record(record) => record.json(),
            Self::Texts(texts) => json!(texts),
        }
    }

    pub(crate) fn is_number(&self) -> bool {
        !matches!(
            self,
            Self::Text(_)
                | Self::Flag(_)
                | Self::None
                | Self::List(_)
                | Self::Record(_)
                | Self::Texts(_)
        )
    }

    /// Compares two cells of one column; what is none is less than anything.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let number = |cell: &Self| match cell {
            Self::Number(number) | Self::Bytes(number) | Self::Percent(number) => {
                Some(i128::from(*number))
            }
            Self::Time(time) => i128::try_from(time.as_nanos()).ok(),
            Self::PerSecond(rate) => Some(i128::from(*rate)),
            Self::Flag(flag) => Some(i128::from(*flag)),
            Self::Text(_) | Self::None | Self::List(_) | Self::Record(_) | Self::Texts(_) => None,
        };
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => number(self).cmp(&number(other)),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<Duration> for Cell {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<List> for Cell {
    fn from(list: List) -> Self {
        Self::List(list)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// Returns a size for people: `64 MiB`, `1.5 GiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    if bytes == u64::MAX {
        return "no limit".to_owned();
    }
    ByteSize(bytes)
        .display()
        .iec()
        .to_string()
        .replacen(".0 ", " ", 1)
}

/// Returns a change of a size for people: `+1.5 MiB/s`.
fn human_rate(rate: i64) -> String {
    let sign = match rate {
        0 => return "0".to_owned(),
        1.. => '+',
        _ => '-',
    };
    format!("{sign}{}/s", human_bytes(rate.unsigned_abs()))
}

/// Returns a time for people, with three digits or so.
pub(crate) fn human_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        0 if time.as_micros() < 1000 => format!("{:.0} µs", seconds * 1e6),
        0 if time.as_millis() < 10 => format!("{:.2} ms", seconds * 1e3),
        0 => format!("{:.0} ms", seconds * 1e3),
        1..100 => format!("{seconds:.2} s"),
        100..7200 => format!("{} min", time.as_secs() / 60),
        7200..172_800 => format!("{} h", time.as_secs() / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// To the microsecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns a key without its unit, as words.
pub(crate) fn spoken(key: &str) -> String {
    let bare = ["_bytes_per_second", "_bytes", "_ms", "_percent"]
        .iter()
        .find_map(|unit| key.strip_suffix(unit))
        .unwrap_or(key);
    bare.replace('_', " ")
}

/// Keeps control characters, and what else a process may call itself, from the terminal.
pub(crate) fn escape(text: &str) -> String {
    let harmless = |c: char| matches!(c, '\'' | '"' | '\\') || c.escape_debug().eq([c]);
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if harmless(c) {
            escaped.push(c)
        } else {
            escaped.extend(c.escape_debug())
        }
    }
    escaped
}

/// No lines, and columns as wide as they need to be.
fn new_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn aligned(text: String, right: bool) -> comfy_table::Cell {
    let alignment = if right {
        CellAlignment::Right
    } else {
        CellAlignment::Left
    };
    comfy_table::Cell::new(text).set_alignment(alignment)
}

/// Columns two spaces apart.
fn render(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}
