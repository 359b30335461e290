//! JSON values as YAML: blocks for objects and arrays, and JSON's own form, which YAML shares, for
//! everything else. So no text is mistaken for a number, a date or a boolean.

use serde_json::Value;

/// Returns a document without directives or markers.
pub(crate) fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut text),
        flow => text.push_str(&format!("{flow}\n")),
    }
    text
}

/// Writes each member on a line of its own, from the current place of the line on.
fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    let mut is_first = true;
    let mut start = |text: &mut String| {
        if !std::mem::take(&mut is_first) {
            text.push_str(&pad);
        }
    };
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                start(text);
                text.push_str(&name(key));
                text.push(':');
                match member {
                    Value::Object(_) | Value::Array(_) if !is_empty(member) => {
                        let indent = indent + 2;
                        text.push_str(&format!("\n{}", " ".repeat(indent)));
                        block(member, indent, text);
                    }
                    flow => text.push_str(&format!(" {flow}\n")),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                start(text);
                text.push_str("- ");
                match item {
                    Value::Object(_) | Value::Array(_) if !is_empty(item) => {
                        block(item, indent + 2, text);
                    }
                    flow => text.push_str(&format!("{flow}\n")),
                }
            }
        }
        flow => text.push_str(&format!("{flow}\n")),
    }
}

/// Returns a key as it is, where YAML takes it for a text.
fn name(key: &str) -> String {
    let plain = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    // YAML 1.1 reads these as booleans or nothing.
    let taken = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if plain && !taken.contains(&key) {
        key.to_owned()
    } else {
        Value::from(key).to_string()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
