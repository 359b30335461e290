//! What to type next, for every reason. Each line is a command that exists, with the names of the
//! command that failed; the tests parse all of them.

use goumem::Reason;

use super::{Exit, Failure};
use crate::args::{
    ArenaCommand, ArenaPoolCommand, BlockCommand, Command, PoolCommand, SessionCommand,
};

/// What a command is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Its words: `pool create`.
    words: &'static str,
    pub(super) pool: Option<String>,
    name: Option<String>,
    /// The subcommand for pools like that.
    pub(super) kind: &'static str,
    /// What follows the name when such a pool is created: as the caller asked, or an example.
    sizes: String,
}

impl Subject {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Ping => Self::about("ping"),
            Command::Info => Self::about("info"),
            Command::Map(how) => Self::pool("map", Some(&how.pool)),
            Command::Watch(_) => Self::about("watch"),
            Command::Top(_) => Self::about("top"),
            Command::Doctor => Self::about("doctor"),
            Command::Pool(command) => match command {
                PoolCommand::Create { name, capacity, .. } => Self {
                    sizes: size_argument(*capacity),
                    ..Self::pool("pool create", Some(name))
                },
                PoolCommand::Ls => Self::pool("pool ls", None),
                PoolCommand::Stat { name } => Self::pool("pool stat", Some(name)),
                PoolCommand::Rm { name } => Self::pool("pool rm", Some(name)),
                PoolCommand::SetCapacity { name, .. } => {
                    Self::pool("pool set-capacity", Some(name))
                }
                PoolCommand::Purge { name } => Self::pool("pool purge", Some(name)),
                PoolCommand::Flush { name } => Self::pool("pool flush", Some(name)),
            },
            Command::ArenaPool(command) => match command {
                ArenaPoolCommand::Create {
                    name,
                    arenas,
                    arena_size,
                    ..
                } => Self {
                    sizes: format!("{arenas} {}", size_argument(*arena_size)),
                    ..Self::arena_pool("arena-pool create", Some(name))
                },
                ArenaPoolCommand::Ls => Self::arena_pool("arena-pool ls", None),
                ArenaPoolCommand::Stat { name } => Self::arena_pool("arena-pool stat", Some(name)),
                ArenaPoolCommand::Rm { name } => Self::arena_pool("arena-pool rm", Some(name)),
            },
            Command::Arena(ArenaCommand::Ls { pool }) => Self::arena_pool("arena ls", Some(pool)),
            Command::Session(SessionCommand::Ls) => Self::about("session ls"),
            Command::Session(SessionCommand::Kill { .. }) => Self::about("session kill"),
            Command::Block(BlockCommand::Ls { pool }) => Self::pool("block ls", Some(pool)),
            Command::Block(BlockCommand::Stat { .. }) => Self::about("block stat"),
            Command::Block(BlockCommand::Free { .. }) => Self::about("block free"),
            Command::Put { pool, name, .. } => Self::named("put", pool, name),
            Command::Get { pool, name } => Self::named("get", pool, name),
            Command::Withdraw { pool, name, .. } => Self::named("withdraw", pool, name),
            Command::Completions { .. } => Self::about("completions"),
            Command::Manual { .. } => Self::about("manual"),
            Command::Demo { .. } | Command::Daemon | Command::Worker(_) => Self::about("demo"),
        }
    }

    fn about(words: &'static str) -> Self {
        Self::pool(words, None)
    }

    fn named(words: &'static str, pool: &String, name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..Self::pool(words, Some(pool))
        }
    }

    fn pool(words: &'static str, pool: Option<&String>) -> Self {
        Self {
            words,
            pool: pool.cloned(),
            name: None,
            kind: "pool",
            sizes: "64MiB".to_owned(),
        }
    }

    fn arena_pool(words: &'static str, pool: Option<&String>) -> Self {
        Self {
            kind: "arena-pool",
            sizes: "16 1MiB".to_owned(),
            ..Self::pool(words, pool)
        }
    }

    /// Returns a command about the pool; without one, the list of pools.
    fn of_pool(&self, words: &str) -> String {
        match &self.pool {
            Some(pool) => format!("goumemctl {words} {pool}"),
            None => self.list(),
        }
    }

    /// The same for a command of the pool's kind: `pool stat`, `arena-pool stat`.
    fn of_kind(&self, word: &str) -> String {
        self.of_pool(&format!("{} {word}", self.kind))
    }

    /// Returns the command that shows what is in the pool.
    fn contents(&self) -> String {
        match self.kind {
            "arena-pool" => self.of_pool("arena ls"),
            _ => self.of_pool("block ls"),
        }
    }

    fn list(&self) -> String {
        format!("goumemctl {} ls", self.kind)
    }

    fn create(&self, flags: &str) -> String {
        let pool = self.pool.as_deref().unwrap_or("frames");
        format!(
            "goumemctl {} create {pool} {}{flags}",
            self.kind, self.sizes
        )
    }
}

/// Returns what to type next.
pub(super) fn hints(
    reason: Option<Reason>,
    exit: Exit,
    subject: &Subject,
    failure: &Failure,
) -> Vec<String> {
    let Some(reason) = reason else {
        return match exit {
            Exit::Unreachable => strings(["goumemd", "goumemctl doctor"]),
            Exit::Permission => strings(["id", "goumemctl doctor"]),
            _ => Vec::new(),
        };
    };
    let twice = |key: &str, otherwise: u64| {
        let bytes = failure.number(key).unwrap_or(otherwise);
        size_argument(bytes.saturating_mul(2).min(1 << 40))
    };
    let more = |otherwise: u64| {
        failure
            .number("limit")
            .unwrap_or(otherwise)
            .saturating_mul(2)
    };
    match reason {
        Reason::InvalidField => vec![format!("goumemctl {} --help", subject.words)],
        Reason::PoolNotFound => vec![subject.list(), subject.create("")],
        Reason::NameNotFound => vec![subject.contents()],
        Reason::SessionNotFound | Reason::BlocksOutstanding => strings(["goumemctl session ls"]),
        Reason::PoolExists => vec![subject.of_kind("stat"), subject.create(" --exist-ok")],
        Reason::NameExists => match (&subject.pool, &subject.name) {
            (Some(pool), Some(name)) => vec![
                format!("goumemctl put {pool} {name} --replace"),
                format!("goumemctl withdraw {pool} {name} --free"),
            ],
            _ => vec![subject.contents()],
        },
        Reason::GeometryMismatch => vec![subject.of_kind("stat"), subject.of_kind("rm")],
        Reason::BackingUnsupported => {
            vec![subject.of_kind("stat"), subject.create(" --backing file")]
        }
        Reason::BudgetExhausted => vec![
            "goumemctl top --once".to_owned(),
            format!("goumemd --budget {}", twice("budget_limit_bytes", 1 << 30)),
        ],
        Reason::PoolExhausted => match &subject.pool {
            Some(pool) => vec![
                format!(
                    "goumemctl pool set-capacity {pool} {}",
                    twice("capacity_bytes", 64 << 20)
                ),
                subject.contents(),
            ],
            None => strings(["goumemctl top --once"]),
        },
        Reason::QuotaExceeded => vec!["goumemctl session ls".to_owned(), subject.contents()],
        Reason::TooManyPools => vec![
            subject.list(),
            format!("goumemd --max-pools {}", more(4096).min(65_536)),
        ],
        Reason::TooManySessions => vec![
            "goumemctl session ls".to_owned(),
            format!("goumemd --max-sessions {}", more(4096).min(65_534)),
        ],
        Reason::TooManyRecords => vec![subject.contents(), subject.of_kind("stat")],
        Reason::TooManyWaiters | Reason::NoFreeArena | Reason::DeadlineExceeded => {
            vec![
                subject.of_pool("arena ls"),
                "goumemctl session ls".to_owned(),
            ]
        }
        Reason::CapacityTooSmall => {
            vec![subject.of_pool("pool stat"), subject.of_pool("pool purge")]
        }
        Reason::CapacityTooLarge | Reason::StaleLease | Reason::SpanInUse => {
            vec![subject.of_pool("pool stat")]
        }
        Reason::StaleHandle
        | Reason::DoubleFree
        | Reason::WrongType
        | Reason::NotPublished
        | Reason::OutOfRange => vec![subject.contents()],
        Reason::BlockPinned | Reason::NotOwner => {
            vec![subject.contents(), "goumemctl session ls".to_owned()]
        }
        Reason::WrongPool | Reason::PoolDestroyed => vec![subject.list()],
        Reason::WrongKind => strings(["goumemctl pool ls", "goumemctl arena-pool ls"]),
        Reason::PermissionDenied => vec![subject.list(), "id".to_owned()],
        Reason::SessionRequired | Reason::SessionExpired | Reason::RequestExpired => {
            strings(["goumemctl ping", "goumemctl session ls"])
        }
        Reason::ForeignPidNamespace | Reason::NotLocal => strings(["goumemctl doctor"]),
        Reason::ArenaFull | Reason::ArenaShared => vec![subject.of_pool("arena ls")],
        Reason::RequestInFlight | Reason::ShuttingDown | Reason::Recovering => {
            strings(["goumemctl ping --timeout 60s"])
        }
        // goumemctl comes by the socket, where there are no credentials and no such limits.
        Reason::CredentialsRequired => strings(["goumemd config explain tcp.tokens_file"]),
        Reason::Overloaded | Reason::CallTimedOut => {
            strings(["goumemctl ping --timeout 60s", "goumemctl session ls"])
        }
        Reason::CorruptSegment => vec![subject.of_kind("stat"), "goumemctl doctor".to_owned()],
        Reason::Internal => strings(["goumemctl doctor", "journalctl -u goumemd -n 50"]),
    }
}

/// Returns a size as the command line takes it: `512MiB`.
pub(super) fn size_argument(bytes: u64) -> String {
    for (unit, name) in [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}
