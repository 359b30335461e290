//! What people read of the configuration, made from the table of keys: a file of all defaults, the
//! explanation of a key, and docs/configuration.md.

use std::fmt::Write as _;

use super::flags::{CONFIG_VARIABLE, SYSTEM_FILE};
use super::keys::{ARENA_POOL_KEYS, BuiltIn, KEYS, Key, POOL_KEYS, Reload};
use super::reading::{ARENA_POOLS, POOLS, Settings};

/// Where lines of a file end.
const COLUMNS: usize = 96;

/// Returns a configuration file that says nothing but what is built in.
pub(super) fn default_file() -> String {
    let mut text = String::new();
    let about = format!(
        "Configuration of goumemd: every key, with its default. It is read from {SYSTEM_FILE}, \
         and from the file of --config or ${CONFIG_VARIABLE}. Variables and flags have the last \
         word. `goumemd config check` says what is wrong, `goumemd config explain KEY` which \
         value a key has and why.",
    );
    comment(&mut text, &about);
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            section = of;
            let _ = write!(text, "\n[{section}]\n");
        } else {
            text.push_str("#\n");
        }
        row(&mut text, key, name);
    }
    let pools = "Pools that exist from the start. One that exists already must be like this.";
    for (section, keys) in [(POOLS, POOL_KEYS), (ARENA_POOLS, ARENA_POOL_KEYS)] {
        text.push('\n');
        comment(&mut text, pools);
        let _ = writeln!(text, "#[{section}.NAME]");
        for key in keys {
            row(&mut text, key, key.name);
        }
    }
    text
}

fn row<T>(text: &mut String, key: &Key<T>, name: &str) {
    let mut about = key.help.to_owned();
    if let BuiltIn::Means(words) = key.default {
        let _ = write!(about, " Default: {words}.");
    }
    let other = [
        key.variable.map(|name| format!("${name}")),
        key.flag.map(|flag| format!("--{flag}")),
    ];
    let other: Vec<String> = other.into_iter().flatten().collect();
    if !other.is_empty() {
        let _ = write!(about, " ({})", other.join(", "));
    }
    if key.reload == Reload::AtOnce {
        about.push_str(" Taken at SIGHUP.");
    }
    comment(text, &about);
    let value = match key.default {
        BuiltIn::Is(value) => key.kind.in_toml(value),
        BuiltIn::Means(_) | BuiltIn::Required => key.kind.example(),
    };
    let _ = writeln!(text, "#{name} = {value}");
}

/// Writes prose as comments.
fn comment(text: &mut String, prose: &str) {
    let mut line = String::from("#");
    for word in prose.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(text, "{line}");
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// Returns what there is to say of a key; `None` if there is none of that name.
pub(super) fn explain(name: &str, settings: &Settings) -> Option<String> {
    if let Some((key, setting)) = settings.rows().find(|(key, _)| key.name == name) {
        let now = match &setting.value {
            Some(value) => format!("{value}, {}", setting.origin),
            None => format!("the default, {}", setting.origin),
        };
        return Some(explanation(name, key, Some(now)));
    }
    let (section, key) = name.rsplit_once('.')?;
    let keys = match section.split_once('.')? {
        (POOLS, _) => POOL_KEYS,
        (ARENA_POOLS, _) => ARENA_POOL_KEYS,
        _ => return None,
    };
    let key = keys.iter().find(|known| known.name == key)?;
    Some(explanation(name, key, None))
}

fn explanation<T>(name: &str, key: &Key<T>, now: Option<String>) -> String {
    let rows = [
        ("value", Some(key.kind.expected())),
        ("default", Some(key.default.to_string())),
        ("now", now),
        ("variable", key.variable.map(str::to_owned)),
        (
            "flag",
            key.flag
                .map(|flag| format!("--{flag} {}", key.kind.placeholder())),
        ),
        ("a new value is taken", Some(key.reload.to_string())),
    ];
    let mut text = format!("{name}: {}\n", key.help);
    for (what, value) in rows {
        if let Some(value) = value {
            let _ = writeln!(text, "  {:<21} {value}", format!("{what}:"));
        }
    }
    text
}

/// Returns all names that [`explain`] knows, for who has mistyped one.
pub(super) fn names() -> impl Iterator<Item = String> {
    let of = |section: &'static str| move |name: &str| format!("{section}.NAME.{name}");
    let keys = KEYS.iter().map(|key| key.name.to_owned());
    let pools = POOL_KEYS.iter().map(|key| key.name).map(of(POOLS));
    let arenas = ARENA_POOL_KEYS
        .iter()
        .map(|key| key.name)
        .map(of(ARENA_POOLS));
    keys.chain(pools).chain(arenas)
}

/// Returns docs/configuration.md.
pub(super) fn reference() -> String {
    let mut text = String::from(INTRODUCTION);
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            section = of;
            let _ = write!(text, "\n## [{section}]\n\n{HEAD}");
        }
        let other = [
            key.flag.map(|flag| format!("`--{flag}`")),
            key.variable.map(|name| format!("`{name}`")),
        ];
        let other: Vec<String> = other.into_iter().flatten().collect();
        let _ = writeln!(
            text,
            "| `{name}` | {} {} | {} | {} | {} |",
            key.help,
            expectation(key),
            default(key),
            other.join(", "),
            key.reload
        );
    }
    text.push_str(POOLS_INTRODUCTION);
    for (section, keys) in [(POOLS, POOL_KEYS), (ARENA_POOLS, ARENA_POOL_KEYS)] {
        let _ = write!(text, "\n### [{section}.NAME]\n\n{POOLS_HEAD}");
        for key in keys {
            let (name, help) = (key.name, key.help);
            let _ = writeln!(
                text,
                "| `{name}` | {help} {} | {} |",
                expectation(key),
                default(key)
            );
        }
    }
    text.push_str(RELOAD);
    text
}

fn expectation<T>(key: &Key<T>) -> String {
    let expected = key.kind.expected().replace('"', "`");
    let mut letters = expected.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

fn default<T>(key: &Key<T>) -> String {
    match key.default {
        BuiltIn::Is(value) => format!("`{value}`"),
        BuiltIn::Means(_) | BuiltIn::Required => key.default.to_string(),
    }
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `goumemd config reference` from daemon/src/config/keys.rs; a test compares them. -->

goumemd runs without any configuration. What it is told, it is told by these layers; the upper ones have the last word:

1. a flag, also when it repeats the default;
2. a variable of the environment (`GOUMEM_*`; an empty one counts as not set);
3. the file of `--config FILE`, or of `GOUMEM_CONFIG`;
4. `/etc/goumem/goumemd.toml`, if it is there;
5. what is built in.

```
goumemd config default > goumemd.toml      # every key, with its default, to start from
goumemd config check goumemd.toml          # says everything that is wrong; exit code 0 or 64
goumemd config check                       # the same for what the daemon would read
goumemd config explain limits.budget       # what it is, what it is now, and which layer says so
```

Files are [TOML](https://toml.io). Sizes are texts with a unit (`\"64MiB\"`; a number is bytes), times too (`\"10s\"`, `\"250ms\"`), modes are texts in octal (`\"0660\"`). A key that does not exist and a value that a key cannot have are errors, in every layer, and the daemon does not start: the message names the file and the line, the variable or the flag, and the key that was probably meant.

A key, its flag and its variable are the same thing. Three things have no key: `--config` itself, `--drop`, which is a command, and `RUST_LOG`, which has the last word over `log.level`.
";

const HEAD: &str = "\
| key | what it is | default | flag, variable | a new value is taken |
|---|---|---|---|---|
";

const POOLS_HEAD: &str = "\
| key | what it is | default |
|---|---|---|
";

const POOLS_INTRODUCTION: &str = "
## Pools that exist from the start

```toml
[pools.frames]
capacity = \"1GiB\"
group = \"video\"
mode = \"0660\"

[arena_pools.batches]
arenas = 64
arena_size = \"16MiB\"
```

The daemon creates them at its start, and new ones at SIGHUP. They are pools like all others: they survive a restart, and who may can destroy them; the next start or SIGHUP makes them again.

One that is there already stays as it is. It must have the kind, the backing and the sizes that are declared, else the daemon does not start. Two things may differ, and are only logged: owner, group and mode; and the capacity, which can be changed in use, as long as the declared one is within the pool's maximum. A pool that is not declared any more stays too: the daemon destroys nothing by itself.
";

const RELOAD: &str = "
## SIGHUP

SIGHUP makes the daemon read its files again; flags and variables stay as they were. What can be taken at once is taken, and the log says each key with both values. What cannot is logged as such (`needs a restart`), and so is a declared pool that has gone or is otherwise now. A file with mistakes changes nothing: the log says all of them. Memory, sessions and pools above a limit that was lowered stay; only new ones are refused. So a daemon in the foreground outlives its terminal.

## Logs

goumemd writes its log to stderr: json, or for people on a terminal; for the journal (`JOURNAL_STREAM`) one line of text with a priority and no time. `RUST_LOG` is a filter as [tracing-subscriber](https://docs.rs/tracing-subscriber) has it, for those who want to hear the libraries too.

There is one line for what an operator may act on, with numbers as fields: `serving`, `draining`, `ended`; `session opened`, `session ended` (`cause`, `reclaimed_bytes`); `pool created`, `pool destroyed`; `took over from an earlier daemon`, and what of it is withheld; `keeper died`, `keeper replaced`; `out of budget` (once in 10 s, with the number of refusals); `configuration changed`, `reloaded`. A call that is refused is told to its caller; the log has it at the level of debug, inside a span with the call's path, uid, session and request. Tokens are never written.

## Traces

A goumemd that was built with `--features otel` sends a span for each call to an OpenTelemetry collector, over gRPC, if `OTEL_EXPORTER_OTLP_ENDPOINT` names one; the other variables of [the specification](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/) hold too. The client library with the feature of the same name sends its caller's trace along (`traceparent`), so that both are one trace, also for the calls of a Control stream.
";
