//! `goumemctl watch`: what happens in the daemon, a line for each event as it comes, until it is
//! interrupted. When the daemon was restarted it says so, and goes on with the new one: the library
//! connects again by itself, and only where that daemon does not know the session is there a new
//! one.

use std::io::{self, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use goumem::blocking::Client;
use goumem::{Error, EventKind, Happening, Reason, WatchEvent, WatchedPool, WatchedSession};

use crate::args::WatchArgs;
use crate::commands;
use crate::error::{Failure, chain};
use crate::output::{Cell, Format, Output, Record, escape, human_bytes, yaml};

#[cfg(test)]
mod tests;

/// How often a daemon that is gone is asked for.
const RETRY: Duration = Duration::from_millis(500);

/// Prints events until nobody reads them.
pub(crate) fn run(
    socket: Option<&Path>,
    args: &WatchArgs,
    format: Format,
) -> Result<Output, Failure> {
    // A wrong socket is an error; later a daemon that does not answer is an event.
    let mut client = Some(commands::connect(socket)?);
    let mut left = args.count;
    let mut is_away = false;
    loop {
        let outcome = match client.take() {
            Some(client) => follow(&client, &args.kind, &mut is_away, &mut left, format),
            None => match commands::connect(socket) {
                Ok(new) => {
                    client = Some(new);
                    continue;
                }
                Err(error) => Err(Stop::Error(error)),
            },
        };
        match outcome {
            Ok(()) | Err(Stop::Enough) => return Ok(Output::Nothing),
            Err(Stop::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(Output::Nothing);
            }
            Err(Stop::Write(error)) => return Err(error.into()),
            Err(Stop::Error(error)) if may_come_back(&error) => {
                if !is_away {
                    is_away = true;
                    say(&away(&error), format)?;
                }
                thread::sleep(RETRY);
            }
            Err(Stop::Error(error)) => return Err(error.into()),
        }
    }
}

/// Why a client is followed no longer.
enum Stop {
    /// As many events as were asked for.
    Enough,
    Write(io::Error),
    Error(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Prints the events of one session.
fn follow(
    client: &Client,
    kinds: &[EventKind],
    is_away: &mut bool,
    left: &mut Option<u64>,
    format: Format,
) -> Result<(), Stop> {
    if *left == Some(0) {
        return Err(Stop::Enough);
    }
    let mut watched_before = *is_away;
    for event in client.watch(kinds).map_err(Stop::Error)? {
        let event = event.map_err(Stop::Error)?;
        let is_first = event.happening == Happening::Watching;
        // The first line of all says nothing that the user did not ask for.
        let is_news = !is_first || watched_before;
        if is_news {
            say(&record(&event), format)?;
        }
        watched_before = true;
        *is_away = false;
        if is_first {
            continue;
        }
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                return Err(Stop::Enough);
            }
        }
    }
    Ok(())
}

/// Returns whether another daemon may answer later.
fn may_come_back(error: &Error) -> bool {
    match error {
        Error::NoDaemon { .. }
        | Error::NoAnswer { .. }
        | Error::Transport { .. }
        | Error::Closed
        | Error::SessionExpired => true,
        error => matches!(
            error.reason(),
            Some(Reason::ShuttingDown | Reason::Recovering | Reason::SessionExpired)
        ),
    }
}

/// A line, ready to be printed in any format.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    facts: Record,
}

fn say(line: &Line, format: Format) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match format {
        Format::Table => writeln!(stdout, "{}", line.text)?,
        Format::Json => writeln!(stdout, "{}", line.facts.json())?,
        Format::Yaml => write!(stdout, "---\n{}", yaml(&line.facts.json()))?,
        Format::Plain => writeln!(stdout, "{}", line.facts.values())?,
    }
    stdout.flush()
}

/// Returns what is said of a daemon that has gone.
fn away(error: &Error) -> Line {
    let why = chain(error);
    Line {
        text: format!("{:<12} {:<18} {}", "-", "disconnected", escape(&why)),
        facts: facts("disconnected", None, Some(why)),
    }
}

/// Returns what is said of an event.
fn record(event: &WatchEvent) -> Line {
    let kind = event.happening.kind().map_or("unknown", EventKind::as_str);
    let at = format!("{:.3} s", event.uptime.as_secs_f64());
    let what = what(&event.happening);
    Line {
        text: format!("{at:<12} {kind:<18} {}", escape(&what)),
        facts: facts(kind, Some(event), Some(what)),
    }
}

/// Returns the same fields for every event, so that each line has the same columns.
fn facts(kind: &'static str, event: Option<&WatchEvent>, what: Option<String>) -> Record {
    let happening = event.map(|event| &event.happening);
    let pool = happening.and_then(pool);
    let session = happening.and_then(session);
    let bytes = match happening {
        Some(Happening::SessionEnded {
            reclaimed_bytes, ..
        }) => Some(*reclaimed_bytes),
        Some(Happening::Refused(refusal)) => refusal.requested_bytes,
        _ => None,
    };
    let uid = match happening {
        Some(Happening::Refused(refusal)) => Some(refusal.uid),
        _ => session
            .map(|session| session.uid)
            .or_else(|| happening.and_then(owner)),
    };
    Record::new()
        .with("kind", kind)
        .with("uptime_ms", event.map(|event| event.uptime))
        .with("sequence", event.map(|event| event.sequence))
        .with("pool", pool)
        .with("session", session.map(|s| u32::from(s.session.get())))
        .with("pid", session.map(|session| session.pid))
        .with("uid", uid)
        .with("bytes", bytes.map(Cell::Bytes))
        .with("what", what)
}

/// Returns what has happened, for people.
fn what(happening: &Happening) -> String {
    match happening {
        Happening::Watching => "connected again; what happened meanwhile is not known".to_owned(),
        Happening::Lagged { missed } => format!("{missed} events were lost: read faster"),
        Happening::PoolCreated(pool) | Happening::PoolDestroyed(pool) => of_pool(pool),
        Happening::Pressure(pool) => format!("{} is short of memory", of_pool(pool)),
        Happening::SessionOpened(session) => of_session(session),
        Happening::SessionEnded {
            session,
            cause,
            reclaimed_bytes,
        } => format!(
            "{} {}, {} came back",
            of_session(session),
            cause.as_str(),
            human_bytes(*reclaimed_bytes)
        ),
        Happening::ArenaShared(arena) => format!(
            "arena {} of {} by session {}",
            arena.name, arena.pool, arena.session
        ),
        Happening::ArenaDetached(arena) => format!("arena {} of {}", arena.name, arena.pool),
        Happening::Refused(refusal) => {
            let asked = refusal.requested_bytes.map(human_bytes);
            format!(
                "{} to uid {} in pool {}: {}",
                asked.as_deref().unwrap_or("something"),
                refusal.uid,
                refusal.pool,
                refusal.reason
            )
        }
        Happening::ConnectionRefused { socket } => format!("too many on the {socket}"),
        Happening::KeeperReplaced => "the process that keeps fds had died".to_owned(),
        Happening::Reloaded { changes } => changes.clone(),
        _ => "something that this goumemctl does not know".to_owned(),
    }
}

fn of_pool(pool: &WatchedPool) -> String {
    let kind = if pool.arenas { "arena pool" } else { "pool" };
    format!("{kind} {} (uid {})", pool.name, pool.uid)
}

fn of_session(session: &WatchedSession) -> String {
    let label = match session.label.as_str() {
        "" => String::new(),
        label => format!(" {label}"),
    };
    let number = session.session;
    format!(
        "session {number}{label}, pid {} (uid {})",
        session.pid, session.uid
    )
}

fn pool(happening: &Happening) -> Option<&str> {
    match happening {
        Happening::PoolCreated(pool)
        | Happening::PoolDestroyed(pool)
        | Happening::Pressure(pool) => Some(pool.name.as_str()),
        Happening::ArenaShared(arena) | Happening::ArenaDetached(arena) => {
            Some(arena.pool.as_str())
        }
        Happening::Refused(refusal) => Some(refusal.pool.as_str()),
        _ => None,
    }
}

fn owner(happening: &Happening) -> Option<u32> {
    match happening {
        Happening::PoolCreated(pool)
        | Happening::PoolDestroyed(pool)
        | Happening::Pressure(pool) => Some(pool.uid),
        _ => None,
    }
}

fn session(happening: &Happening) -> Option<&WatchedSession> {
    match happening {
        Happening::SessionOpened(session) | Happening::SessionEnded { session, .. } => {
            Some(session)
        }
        _ => None,
    }
}
