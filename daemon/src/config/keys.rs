//! The table of keys. Everything that is said of a key is said here, once: the flags, the check of
//! files and variables, `goumemd config`, the reload and docs/configuration.md are made from it. A
//! new key is a row here and a field in [`Config`](super::Config).

use std::fmt;

use goumem_alloc::MAX_ARENAS;
use goumem_proto::model::Backing;
use tracing::level_filters::LevelFilter;

use super::accounts::{group_named, user_named};
use super::draft::{Draft, KeeperName, PoolDraft};
use super::value::Kind;
use crate::logging::LogFormat;
use crate::tls;

/// One key, of a table that `T` is filled in from.
pub(crate) struct Key<T: 'static> {
    /// Section and name, as `limits.budget`.
    pub(crate) name: &'static str,
    /// Its type, and where its value goes.
    pub(crate) kind: Kind<T>,
    /// What holds if no layer says anything.
    pub(crate) default: BuiltIn,
    /// Whether a running daemon takes a new value.
    pub(crate) reload: Reload,
    /// The environment's name for it.
    pub(crate) variable: Option<&'static str>,
    /// The command line's name for it, without the dashes.
    pub(crate) flag: Option<&'static str>,
    /// What it is, in a sentence or two.
    pub(crate) help: &'static str,
}

/// What holds if no layer says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    /// This value.
    Is(&'static str),
    /// What these words say; [`Draft::finish`] works it out.
    Means(&'static str),
    /// Nothing: it must be said.
    Required,
}

impl fmt::Display for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Is(text) | Means(text) => text,
            Required => "none, it must be given",
        })
    }
}

/// When a new value of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// At SIGHUP.
    AtOnce,
    /// When the daemon is started again.
    Restart,
    /// Never: it is about making a pool, and the pool is there.
    Never,
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AtOnce => "at SIGHUP",
            Restart => "at the next start",
            Never => "not for a pool that is there",
        })
    }
}

use BuiltIn::{Is, Means, Required};
use Kind::{Address, Choice, Count, Duration, Mode, Path, Size, Text};
use Reload::{AtOnce, Never, Restart};

/// The most sessions there can be: slot words have 16 bits for the owner, two of the numbers mean
/// nobody and the daemon.
const MAX_MAX_SESSIONS: u32 = 65_534;
/// A socket has read and write bits only.
const SOCKET_MODE_BITS: u32 = 0o666;

/// All keys, in the order in which people want to read of them.
pub(crate) static KEYS: &[Key<Draft>] = &[
    Key {
        name: "listen.socket",
        kind: Path(|draft, path| draft.socket = Some(path)),
        default: Means(
            "goumem/goumemd.sock in $XDG_RUNTIME_DIR, else in /run/goumem if that is writable, \
             else in /tmp/goumem-UID",
        ),
        reload: Restart,
        variable: Some("GOUMEM_SOCKET"),
        flag: Some("listen"),
        help: "Path of the gRPC socket; the fd socket and the lock lie beside it.",
    },
    Key {
        name: "listen.socket_mode",
        kind: Mode(SOCKET_MODE_BITS, |draft, mode| {
            draft.socket_mode = Some(mode);
        }),
        default: Means("0600, in /run/goumem 0660"),
        reload: Restart,
        variable: Some("GOUMEM_SOCKET_MODE"),
        flag: Some("socket-mode"),
        help: "Permission bits of the sockets, in octal.",
    },
    Key {
        name: "listen.max_connections",
        // A connection costs two fds; a process needs one.
        kind: Count(1..=u32::MAX, |draft, n| draft.config.max_connections = n),
        default: Is("4096"),
        reload: Restart,
        variable: Some("GOUMEM_MAX_CONNECTIONS"),
        flag: Some("max-connections"),
        help: "gRPC connections at a time.",
    },
    Key {
        name: "listen.drain_deadline",
        // What systemd and container runtimes wait for before they send SIGKILL, or a little less.
        kind: Duration(|draft, time| draft.config.drain_deadline = time),
        default: Is("10s"),
        reload: Restart,
        variable: Some("GOUMEM_DRAIN_DEADLINE"),
        flag: Some("drain-deadline"),
        help: "How long calls under way get when the daemon ends.",
    },
    Key {
        name: "tcp.listen",
        kind: Address(|draft, address| draft.config.tcp = Some(address)),
        default: Means("not served"),
        reload: Restart,
        variable: Some("GOUMEM_TCP"),
        flag: Some("tcp"),
        help: "Serve gRPC on this address too, for clients that cannot map memory. One that is not \
               loopback needs tls_cert and tls_key, and client_ca or tokens_file.",
    },
    Key {
        name: "tcp.tls_cert",
        kind: Path(|draft, path| draft.config.tcp_options.tls_cert = Some(path)),
        default: Means("no TLS"),
        reload: Restart,
        variable: Some("GOUMEM_TLS_CERT"),
        flag: Some("tls-cert"),
        help: "Certificate of the daemon for TCP, with those between it and its CA, in PEM. This \
               file and the three that follow are read again within a second of their change.",
    },
    Key {
        name: "tcp.tls_key",
        kind: Path(|draft, path| draft.config.tcp_options.tls_key = Some(path)),
        default: Means("no TLS"),
        reload: Restart,
        variable: Some("GOUMEM_TLS_KEY"),
        flag: Some("tls-key"),
        help: "Private key of that certificate, in PEM. Others may not read it.",
    },
    Key {
        name: "tcp.client_ca",
        kind: Path(|draft, path| draft.config.tcp_options.client_ca = Some(path)),
        default: Means("no client certificates"),
        reload: Restart,
        variable: Some("GOUMEM_CLIENT_CA"),
        flag: Some("client-ca"),
        help: "CAs of the certificates that TCP clients come with, in PEM. A client's name is its \
               certificate's common name, else its first alternative name.",
    },
    Key {
        name: "tcp.tokens_file",
        kind: Path(|draft, path| draft.config.tcp_options.tokens_file = Some(path)),
        default: Means("no tokens"),
        reload: Restart,
        variable: Some("GOUMEM_TOKENS_FILE"),
        flag: Some("tokens-file"),
        help: "Bearer tokens of TCP clients: in each line NAME: TOKEN, or NAME: sha256:HEX. Only \
               the daemon's user may read it. With client_ca as well, either proof is enough.",
    },
    Key {
        name: "tcp.users",
        kind: Text(
            r#"names and the users they stand for, as "alice=1000, ci=1001""#,
            |draft, text| tls::parse_users(&mut draft.config.tcp_options.users, text),
        ),
        default: Means("each name is a user of its own"),
        reload: Restart,
        variable: Some("GOUMEM_TCP_USERS"),
        flag: None,
        help: "Which user of this machine a TCP client's name stands for. Any other name is a user \
               of its own, and to everybody's pools one of the others.",
    },
    Key {
        name: "tcp.max_calls",
        // Each takes some kilobytes, and at most a place in the queue of the threads for long work.
        kind: Count(1..=65_536, |draft, n| {
            draft.config.tcp_options.max_calls = n
        }),
        default: Is("1024"),
        reload: Restart,
        variable: Some("GOUMEM_TCP_MAX_CALLS"),
        flag: None,
        help: "Calls of TCP clients at a time. One client may have a quarter of them.",
    },
    Key {
        name: "http.listen",
        kind: Text(
            r#"unix, none, or a loopback address, as "127.0.0.1:4636""#,
            |draft, text| text.parse().map(|at| draft.config.http = at).is_ok(),
        ),
        default: Is("unix"),
        reload: Restart,
        variable: Some("GOUMEM_HTTP"),
        flag: Some("http"),
        help: "Where health, metrics and the live page are served: on goumemd.http.sock beside the \
               gRPC socket (unix), on a loopback address, for browsers, where whoever reaches it \
               sees all names and sizes, or nowhere (none).",
    },
    Key {
        name: "http.metrics_pools",
        // Some twenty series each: what a monitor stores without being asked whether it wants to.
        kind: Count(0..=u32::MAX, |draft, n| {
            draft.config.limits.metrics_pools = n
        }),
        default: Is("64"),
        reload: Restart,
        variable: Some("GOUMEM_METRICS_POOLS"),
        flag: Some("metrics-pools"),
        help: "Pools, and as many arena pools, that have metrics of their own, the largest first; \
               the others are added up.",
    },
    Key {
        name: "storage.keeper",
        kind: Choice(&[
            ("auto", |draft| draft.keeper = KeeperName::Auto),
            ("process", |draft| draft.keeper = KeeperName::Process),
            ("none", |draft| draft.keeper = KeeperName::None),
        ]),
        default: Is("auto"),
        reload: Restart,
        variable: Some("GOUMEM_KEEPER"),
        flag: Some("keeper"),
        help: "What holds pools and sessions while no daemon runs, after a crash or for an \
               upgrade: the service manager's fd store if it has one for this service, else a \
               process (auto); a process; nothing, and all ends with the daemon (none).",
    },
    Key {
        name: "storage.data_dir",
        kind: Path(|draft, path| draft.data_dir = Some(path)),
        default: Means(
            "$STATE_DIRECTORY, which systemd sets, else goumem in $XDG_STATE_HOME, else data beside \
             the socket",
        ),
        reload: Restart,
        variable: Some("GOUMEM_DATA_DIR"),
        flag: Some("data-dir"),
        help: "Directory of file-backed pools. Made when the first is created.",
    },
    Key {
        name: "storage.backing",
        kind: Choice(&[
            ("memfd", |draft| {
                draft.config.limits.backing = Backing::Memfd;
            }),
            ("named", |draft| {
                draft.config.limits.backing = Backing::Named;
            }),
            ("file", |draft| draft.config.limits.backing = Backing::File),
        ]),
        default: Is("memfd"),
        reload: Restart,
        variable: Some("GOUMEM_BACKING"),
        flag: Some("backing"),
        help: "What backs a pool whose creator leaves it open.",
    },
    Key {
        name: "limits.budget",
        kind: Size(|draft, bytes| draft.config.limits.budget_bytes = Some(bytes)),
        default: Means("half of the machine's memory"),
        reload: AtOnce,
        variable: Some("GOUMEM_BUDGET"),
        flag: Some("budget"),
        help: "The most memory to commit, over all pools, as 8GiB.",
    },
    Key {
        name: "limits.reserve",
        // Enough for a shell and the page cache of a small machine.
        kind: Size(|draft, bytes| draft.config.limits.reserve_bytes = bytes),
        default: Is("256MiB"),
        reload: AtOnce,
        variable: Some("GOUMEM_RESERVE"),
        flag: Some("reserve"),
        help: "Memory to leave to the rest of the machine and of the cgroup.",
    },
    Key {
        name: "limits.quota_per_user",
        kind: Size(|draft, bytes| draft.config.limits.quota_per_user_bytes = Some(bytes)),
        default: Means("no limit"),
        reload: AtOnce,
        variable: Some("GOUMEM_QUOTA_PER_USER"),
        flag: Some("quota-per-user"),
        help: "The most memory of one user, over all pools.",
    },
    Key {
        name: "limits.max_sessions",
        // A session costs the daemon a pidfd and about a kilobyte.
        kind: Count(1..=MAX_MAX_SESSIONS, |draft, n| {
            draft.config.limits.max_sessions = n;
        }),
        default: Is("4096"),
        reload: AtOnce,
        variable: Some("GOUMEM_MAX_SESSIONS"),
        flag: Some("max-sessions"),
        help: "Sessions at a time.",
    },
    Key {
        name: "limits.max_pools",
        // A pool costs the daemon two fds and two mappings.
        kind: Count(1..=u32::MAX, |draft, n| draft.config.limits.max_pools = n),
        default: Is("4096"),
        reload: AtOnce,
        variable: Some("GOUMEM_MAX_POOLS"),
        flag: Some("max-pools"),
        help: "Pools and arena pools at a time.",
    },
    Key {
        name: "limits.purge_after",
        // A span that is allocated and freed once a second is not worth a system call each time.
        kind: Duration(|draft, time| draft.config.limits.purge_after = time),
        default: Is("1s"),
        reload: AtOnce,
        variable: Some("GOUMEM_PURGE_AFTER"),
        flag: Some("purge-after"),
        help: "How long free memory is kept for the next use before the system gets it back.",
    },
    Key {
        name: "log.level",
        kind: Choice(&[
            ("off", |draft| draft.log.level = LevelFilter::OFF),
            ("error", |draft| draft.log.level = LevelFilter::ERROR),
            ("warn", |draft| draft.log.level = LevelFilter::WARN),
            ("info", |draft| draft.log.level = LevelFilter::INFO),
            ("debug", |draft| draft.log.level = LevelFilter::DEBUG),
            ("trace", |draft| draft.log.level = LevelFilter::TRACE),
        ]),
        default: Is("info"),
        reload: AtOnce,
        variable: Some("GOUMEM_LOG_LEVEL"),
        flag: Some("log-level"),
        help: "How much to log of the daemon's own events. RUST_LOG has the last word.",
    },
    Key {
        name: "log.format",
        kind: Choice(&[
            ("auto", |draft| draft.log.format = LogFormat::Auto),
            ("pretty", |draft| draft.log.format = LogFormat::Pretty),
            ("compact", |draft| draft.log.format = LogFormat::Compact),
            ("json", |draft| draft.log.format = LogFormat::Json),
        ]),
        default: Is("auto"),
        reload: Restart,
        variable: Some("GOUMEM_LOG_FORMAT"),
        flag: Some("log-format"),
        help: "How to write the log; auto is pretty on a terminal, for the journal one line of text \
               without a time, and json elsewhere.",
    },
];

/// The keys of a pool that exists from the start, in `[pools.NAME]`.
pub(crate) static POOL_KEYS: &[Key<PoolDraft>] = &[
    of_pool(
        "capacity",
        Size(|pool, bytes| pool.capacity_bytes = bytes),
        Required,
        "The most that its blocks may have together.",
    ),
    of_pool(
        "max_capacity",
        Size(|pool, bytes| pool.max_capacity_bytes = Some(bytes)),
        Means("twice the capacity"),
        "The most that its capacity may be made later.",
    ),
    BACKING,
    OWNER,
    GROUP,
    MODE,
];

/// The keys of an arena pool that exists from the start, in `[arena_pools.NAME]`.
pub(crate) static ARENA_POOL_KEYS: &[Key<PoolDraft>] = &[
    of_pool(
        "arenas",
        Count(1..=MAX_ARENAS, |pool, n| pool.arenas = n),
        Required,
        "How many arenas it has.",
    ),
    of_pool(
        "arena_size",
        Size(|pool, bytes| pool.arena_bytes = bytes),
        Required,
        "Usable bytes in each.",
    ),
    BACKING,
    OWNER,
    GROUP,
    MODE,
];

const BACKING: Key<PoolDraft> = of_pool(
    "backing",
    Choice(&[
        ("memfd", |pool| pool.backing = Some(Backing::Memfd)),
        ("named", |pool| pool.backing = Some(Backing::Named)),
        ("file", |pool| pool.backing = Some(Backing::File)),
    ]),
    Means("storage.backing"),
    "What backs it.",
);
const OWNER: Key<PoolDraft> = of_pool(
    "owner",
    Text(
        "a user, by number or by a name of /etc/passwd",
        |pool, text| {
            pool.uid = user_named(text);
            pool.uid.is_some()
        },
    ),
    Means("the daemon's user"),
    "Its owner; only root can give it another.",
);
const GROUP: Key<PoolDraft> = of_pool(
    "group",
    Text(
        "a group, by number or by a name of /etc/group",
        |pool, text| {
            pool.gid = group_named(text);
            pool.gid.is_some()
        },
    ),
    Means("the daemon's group"),
    "Its group, of which the middle digit of the mode is.",
);
const MODE: Key<PoolDraft> = of_pool(
    "mode",
    Mode(POOL_MODE_BITS, |pool, mode| pool.mode = mode),
    Is("0600"),
    "Who may read and write it, as for a file.",
);
/// A pool is read and written, and not executed.
const POOL_MODE_BITS: u32 = 0o666;

const fn of_pool(
    name: &'static str,
    kind: Kind<PoolDraft>,
    default: BuiltIn,
    help: &'static str,
) -> Key<PoolDraft> {
    Key {
        name,
        kind,
        default,
        reload: Never,
        variable: None,
        flag: None,
        help,
    }
}
