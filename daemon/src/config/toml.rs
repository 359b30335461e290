//! A configuration file, read as TOML, with the place of each value as its origin (`FILE:LINE`),
//! which is what `config`'s own reader of TOML leaves out.

use std::error::Error;
use std::ops::Range;

use ::config::{Format, Map, Value, ValueKind};
use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

/// The format of configuration files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Toml;

impl Format for Toml {
    fn parse(
        &self,
        uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        let table = DeTable::parse(text)?;
        let place = Place {
            file: uri.map_or("", String::as_str),
            text,
        };
        Ok(place.table(table.into_inner()))
    }
}

/// Tells where something is.
struct Place<'a> {
    file: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn table(&self, table: DeTable<'_>) -> Map<String, Value> {
        let rows = table.into_iter().map(|(key, value)| {
            let at = key.span();
            (key.into_inner().into_owned(), self.value(at, value))
        });
        rows.collect()
    }

    /// A value's place is that of its key: a table has no other.
    fn value(&self, at: Range<usize>, value: Spanned<DeValue<'_>>) -> Value {
        let kind = match value.into_inner() {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => ValueKind::I64(number),
                    // No key takes one so large.
                    Err(_) => ValueKind::Nil,
                }
            }
            // No key takes fractions either; what they are is for the message only.
            DeValue::Float(_) => ValueKind::Float(f64::NAN),
            DeValue::Boolean(value) => ValueKind::Boolean(value),
            DeValue::Datetime(_) => ValueKind::Nil,
            DeValue::Array(_) => ValueKind::Array(Vec::new()),
            DeValue::Table(table) => ValueKind::Table(self.table(table)),
        };
        Value::new(Some(&self.origin(at.start)), kind)
    }

    fn origin(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        format!("{}:{line}", self.file)
    }
}
