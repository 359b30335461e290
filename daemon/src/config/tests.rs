//! Flag > environment > named file > system's file > built in, also for a flag with the default's
//! value; what is refused, and in which words.

use std::collections::BTreeMap;

use clap::Command;
use goumem_proto::model::{CreateArenaPool, CreatePool, RequestId};

use tracing::level_filters::LevelFilter;

use super::keys::{ARENA_POOL_KEYS, BuiltIn, KEYS, POOL_KEYS};
use super::*;
use crate::logging::LogFormat;
use crate::tls::{TcpOptions, TlsError};

const NO_ENVIRONMENT: Environment = Environment {
    goumem_socket: None,
    xdg_runtime_dir: None,
    system_directory_serves: false,
    user_directory_serves: true,
    uid: 7,
};

/// What one daemon is told, by all layers.
struct Told {
    flags: Vec<&'static str>,
    variables: Arc<BTreeMap<&'static str, OsString>>,
    directory: tempfile::TempDir,
    environment: Environment,
}

impl Told {
    fn by_flags(flags: &[&'static str]) -> Self {
        Self {
            flags: flags.to_vec(),
            variables: Arc::default(),
            directory: tempfile::tempdir().unwrap(),
            environment: NO_ENVIRONMENT,
        }
    }

    fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        Arc::make_mut(&mut self.variables).insert(name, value.into());
        self
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Writes the file that is named by `GOUMEM_CONFIG`.
    fn file(self, text: &str) -> Self {
        let path = self.path("named.toml");
        std::fs::write(&path, text).unwrap();
        self.variable("GOUMEM_CONFIG", path)
    }

    fn system_file(self, text: &str) -> Self {
        std::fs::write(self.path("system.toml"), text).unwrap();
        self
    }

    fn invoke(&self) -> Result<Invocation, ConfigError> {
        let flags = ["goumemd"].iter().chain(&self.flags).map(OsString::from);
        let variables = Arc::clone(&self.variables);
        let around = Surroundings {
            variable: Arc::new(move |name| variables.get(name).cloned()),
            environment: self.environment.clone(),
            system_file: self.path("system.toml"),
        };
        Invocation::read(flags, around)
    }

    fn read(&self) -> Result<(Config, LogConfig, Reloader), ConfigError> {
        match self.invoke()? {
            Invocation::Serve {
                config,
                log,
                reloader,
            } => Ok((*config, log, *reloader)),
            other => panic!("{other:?}"),
        }
    }

    fn config(&self) -> Config {
        self.read().unwrap().0
    }

    /// Returns what `goumemd config …` says.
    fn says(&self) -> String {
        match self.invoke().unwrap() {
            Invocation::Say(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Returns what is said of the mistakes, with `DIR` for the directory of the files.
    fn faults(&self) -> Vec<String> {
        let Err(ConfigError::Faults(faults)) = self.invoke() else {
            panic!("there are no faults");
        };
        let directory = self.directory.path().to_str().unwrap();
        let faults = faults.iter().map(ToString::to_string);
        faults
            .map(|fault| fault.replace(directory, "DIR"))
            .collect()
    }
}

fn parse(flags: &[&'static str]) -> Result<Config, ConfigError> {
    Told::by_flags(flags).read().map(|told| told.0)
}

#[test]
fn each_layer_beats_those_below() {
    let pools = |told: &Told| told.config().limits.max_pools;
    let system = "[limits]\nmax_pools = 2\npurge_after = \"2s\"\n";
    let named = "[limits]\nmax_pools = 3\n";
    let all = Told::by_flags(&["--max-pools", "5"])
        .variable("GOUMEM_MAX_POOLS", "4")
        .file(named)
        .system_file(system);
    assert_eq!(pools(&all), 5);
    let environment = Told::by_flags(&[])
        .variable("GOUMEM_MAX_POOLS", "4")
        .file(named)
        .system_file(system);
    assert_eq!(pools(&environment), 4);
    let files = Told::by_flags(&[]).file(named).system_file(system);
    assert_eq!(pools(&files), 3);
    assert_eq!(
        files.config().limits.purge_after,
        Duration::from_secs(2),
        "what the named file leaves open, the system's file says"
    );
    assert_eq!(pools(&Told::by_flags(&[]).system_file(system)), 2);
    assert_eq!(pools(&Told::by_flags(&[])), 4096);
}

#[test]
fn flag_typed_with_its_default_value_wins() {
    let told = Told::by_flags(&["--max-pools", "4096", "--purge-after", "1s"])
        .variable("GOUMEM_MAX_POOLS", "9")
        .file("[limits]\nmax_pools = 8\npurge_after = \"9s\"\n");
    let limits = told.config().limits;
    assert_eq!(limits.max_pools, 4096);
    assert_eq!(limits.purge_after, Duration::from_secs(1));
}

#[test]
fn file_that_is_named_by_flag_is_read_instead_of_the_variables() {
    let mut told = Told::by_flags(&[]).file("[limits]\nmax_pools = 3\n");
    let path = told.path("other.toml");
    std::fs::write(&path, "[limits]\nmax_sessions = 2\n").unwrap();
    told.flags = vec!["--config", path.to_str().unwrap().to_owned().leak()];
    let limits = told.config().limits;
    assert_eq!((limits.max_sessions, limits.max_pools), (2, 4096));
}

#[test]
fn every_key_can_be_set_in_a_file() {
    let told = Told::by_flags(&[]).file(
        r#"
        listen = { socket = "/a/b.sock", socket_mode = "0640", max_connections = 1 }
        tcp.listen = "127.0.0.1:7070"
        [listen] # not again
        "#,
    );
    assert!(told.faults()[0].contains("is not TOML"), "defined twice");
    let told = Told::by_flags(&[]).file(
        r#"
        [tcp]
        listen = "0.0.0.0:7070"
        tls_cert = "/a/cert.pem"
        tls_key = "/a/key.pem"
        client_ca = "/a/ca.pem"
        tokens_file = "/a/tokens"
        users = "alice=1000, bob=1001"
        max_calls = 5
        [listen]
        socket = "/a/b.sock"
        socket_mode = "0640"
        max_connections = 1
        drain_deadline = "2s"
        [http]
        listen = "127.0.0.1:4636"
        [storage]
        keeper = "none"
        data_dir = "/a/data"
        backing = "named"
        [limits]
        budget = "1GiB"
        reserve = 4096
        quota_per_user = "64MiB"
        max_sessions = 3
        max_pools = 4
        purge_after = "5ms"
        [log]
        level = "debug"
        format = "compact"
        "#,
    );
    let (config, log, _) = told.read().unwrap();
    let expected = Config {
        socket: "/a/b.sock".into(),
        socket_mode: 0o640,
        private_directory: false,
        http: "127.0.0.1:4636".parse().unwrap(),
        tcp: Some("0.0.0.0:7070".parse().unwrap()),
        tcp_options: TcpOptions {
            tls_cert: Some("/a/cert.pem".into()),
            tls_key: Some("/a/key.pem".into()),
            client_ca: Some("/a/ca.pem".into()),
            tokens_file: Some("/a/tokens".into()),
            users: [("alice".to_owned(), 1000), ("bob".to_owned(), 1001)].into(),
            max_calls: 5,
        },
        max_connections: 1,
        drain_deadline: Duration::from_secs(2),
        keeper: Keeper::None,
        keep_on_exit: false,
        limits: Limits {
            data_dir: "/a/data".into(),
            backing: Backing::Named,
            budget_bytes: Some(1 << 30),
            reserve_bytes: 4096,
            max_sessions: 3,
            max_pools: 4,
            metrics_pools: 64,
            quota_per_user_bytes: Some(64 << 20),
            purge_after: Duration::from_millis(5),
        },
        pools: Vec::new(),
    };
    assert_eq!(config, expected);
    assert_eq!(log.level, LevelFilter::DEBUG);
    assert_eq!(log.format, LogFormat::Compact);
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let told = Told::by_flags(&[])
        .system_file("[limits]\nreserve = 1.5\n\n[limit]\nbudget = \"1GiB\"\n")
        .file(
            "budget = 5\n[limits]\nmax_sesions = 5\nmax_pools = 0\npurge_after = 10\n\
             [log]\nlevel = \"loud\"\nbudget = \"1GiB\"\n[listen]\nsocket_mode = 432\n\
             [zzz]\nqqq = true\n",
        );
    assert_eq!(
        told.faults(),
        [
            "DIR/system.toml:2: limits.reserve is a number with a fraction, expected a size, as \
             \"64MiB\"",
            "DIR/system.toml:5: there is no key limit.budget; did you mean limits.budget?",
            "DIR/named.toml:1: there is no key budget; did you mean limits.budget?",
            "DIR/named.toml:3: there is no key limits.max_sesions; did you mean \
             limits.max_sessions?",
            "DIR/named.toml:4: limits.max_pools is 0, expected a number, at least 1",
            "DIR/named.toml:5: limits.purge_after is 10, expected a time, as \"10s\" or \"250ms\"",
            "DIR/named.toml:7: log.level is \"loud\", expected one of off, error, warn, info, \
             debug, trace",
            "DIR/named.toml:8: there is no key log.budget; did you mean limits.budget?",
            "DIR/named.toml:10: listen.socket_mode is 432, expected permission bits in octal, of \
             0666, as \"0660\"",
            "DIR/named.toml:12: there is no key zzz.qqq",
        ]
    );
}

#[test]
fn wrong_value_below_a_right_one_is_still_said() {
    let told = Told::by_flags(&["--max-pools", "5"]).file("[limits]\nmax_pools = \"many\"\n");
    assert_eq!(
        told.faults(),
        ["DIR/named.toml:2: limits.max_pools is \"many\", expected a number, at least 1"]
    );
}

#[test]
fn wrong_variables_and_flags_are_called_by_their_names() {
    let told = Told::by_flags(&["--purge-after", "1"]).variable("GOUMEM_BUDGET", "much");
    assert_eq!(
        told.faults(),
        [
            "GOUMEM_BUDGET: limits.budget is \"much\", expected a size, as \"64MiB\"",
            "--purge-after: limits.purge_after is \"1\", expected a time, as \"10s\" or \"250ms\"",
        ]
    );
    let empty = Told::by_flags(&[]).variable("GOUMEM_BUDGET", "");
    assert_eq!(empty.config().limits.budget_bytes, None, "empty is not set");
}

#[test]
fn file_that_cannot_be_read_is_an_error_but_for_the_systems_that_is_not_there() {
    let told = Told::by_flags(&[]).variable("GOUMEM_CONFIG", "/nowhere/x.toml");
    assert_eq!(
        told.faults(),
        ["/nowhere/x.toml: could not read it: No such file or directory (os error 2)"]
    );
    let told = Told::by_flags(&[]).file("[limits\n");
    let [fault] = &told.faults()[..] else {
        panic!("{:?}", told.faults());
    };
    assert!(
        fault.starts_with("DIR/named.toml: is not TOML: "),
        "{fault}"
    );
    assert!(fault.contains("line 1"), "{fault}");
}

#[test]
fn table_of_keys_is_in_order() {
    let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    for key in KEYS {
        assert_eq!(
            key.name.split('.').count(),
            2,
            "{}: section and name",
            key.name
        );
        assert!(key.help.ends_with('.'), "{}: {}", key.name, key.help);
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name is there twice");
    // That defaults can be read, and flags are there once: both panic else.
    assert_eq!(Settings::built_in().rows().count(), count);
    Command::debug_assert(command());
}

#[test]
fn socket_and_its_mode_follow_the_place() {
    let default = parse(&[]).unwrap();
    assert_eq!(default.socket, Path::new("/tmp/goumem-7/goumemd.sock"));
    assert_eq!(default.limits.data_dir, Path::new("/tmp/goumem-7/data"));
    assert_eq!(
        (default.socket_mode, default.private_directory),
        (0o600, true)
    );

    let mut system = Told::by_flags(&[]);
    system.environment.system_directory_serves = true;
    let system = system.config();
    assert_eq!(system.socket, Path::new("/run/goumem/goumemd.sock"));
    assert_eq!(
        (system.socket_mode, system.private_directory),
        (0o660, false)
    );

    let by_variable = Told::by_flags(&[]).variable("GOUMEM_SOCKET", "/a/b.sock");
    let by_variable = by_variable.config();
    assert_eq!(by_variable.socket, Path::new("/a/b.sock"));
    assert!(
        !by_variable.private_directory,
        "a place that was given is taken as it is"
    );
    let by_flag = Told::by_flags(&["--listen", "/c/d.sock", "--socket-mode", "0666"])
        .variable("GOUMEM_SOCKET", "/a/b.sock");
    let by_flag = by_flag.config();
    assert_eq!(by_flag.socket, Path::new("/c/d.sock"));
    assert_eq!(by_flag.socket_mode, 0o666);
}

#[test]
fn library_defaults_are_those_of_the_command_line() {
    let by_hand = Config::private(Path::new("/a"));
    let parsed = parse(&["--listen", "/a/goumemd.sock"]).unwrap();
    // But for the keeper: a library cannot know that its program can be one.
    let kept = Config {
        keeper: Keeper::this_program().unwrap(),
        keep_on_exit: true,
        ..by_hand.clone()
    };
    assert_eq!(parsed, kept);
    let flags = ["--listen", "/a/goumemd.sock", "--keeper", "none"];
    assert_eq!(parse(&flags).unwrap(), by_hand);
}

#[test]
fn data_directory_is_below_an_absolute_state_home() {
    let data_dir = |state_home: &str| {
        let told = Told::by_flags(&["--listen", "/s/x.sock"]);
        let told = told.variable("XDG_STATE_HOME", state_home);
        told.config().limits.data_dir
    };
    assert_eq!(
        data_dir("/home/a/.local/state"),
        Path::new("/home/a/.local/state/goumem")
    );
    assert_eq!(data_dir("state"), Path::new("/s/data"));
    let service = Told::by_flags(&["--listen", "/s/x.sock"])
        .variable("XDG_STATE_HOME", "/home/a")
        .variable("STATE_DIRECTORY", "/var/lib/goumem");
    assert_eq!(
        service.config().limits.data_dir,
        Path::new("/var/lib/goumem")
    );
}

#[test]
fn address_that_others_reach_is_refused() {
    let tcp = |address| parse(&["--tcp", address]);
    for loopback in ["127.0.0.1:0", "[::1]:7070"] {
        assert_eq!(tcp(loopback).unwrap().tcp, Some(loopback.parse().unwrap()));
    }
    for other in ["0.0.0.0:7070", "[::]:7070", "192.168.1.1:7070"] {
        assert!(
            matches!(tcp(other), Err(ConfigError::Tcp(TlsError::Unprotected { address, .. }))
                if address == other.parse().unwrap()),
            "{other}"
        );
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for flags in [
        ["--max-sessions", "0"],
        ["--max-sessions", "65535"],
        ["--max-pools", "0"],
        ["--max-connections", "4294967296"],
        ["--budget", "much"],
        ["--purge-after", "1"],
        ["--socket-mode", "0777"],
        ["--socket-mode", "9"],
        ["--tcp", "7070"],
        ["--http", "0.0.0.0:4636"],
        ["--http", "/a/b.sock"],
        ["--data-dir", ""],
    ] {
        let refused = parse(&flags);
        assert!(
            matches!(refused, Err(ConfigError::Faults(_))),
            "{flags:?}: {refused:?}"
        );
    }
    for flags in [
        ["--backing", "paper"],
        ["--log-level", "loud"],
        ["--log-format", "xml"],
        ["--no-such-flag", "1"],
    ] {
        let refused = parse(&flags);
        assert!(
            matches!(refused, Err(ConfigError::Usage(_))),
            "{flags:?}: {refused:?}"
        );
    }
    let long = format!("/{}.sock", "x".repeat(200)).leak();
    let refused = parse(&["--listen", long]);
    assert!(matches!(
        refused,
        Err(ConfigError::Socket(PathError::TooLong { .. }))
    ));
}

#[test]
fn values_are_written_in_one_way_and_read_back() {
    for (written, shown) in [
        ("64MiB", "64MiB"),
        ("65536KiB", "64MiB"),
        ("1073741825", "1073741825B"),
        ("0", "0B"),
    ] {
        let bytes: bytesize::ByteSize = written.parse().unwrap();
        assert_eq!(value::shown_size(bytes.as_u64()), shown);
        let again: bytesize::ByteSize = shown.parse().unwrap();
        assert_eq!(again, bytes);
    }
}

#[test]
fn pools_are_declared_in_files() {
    let told = Told::by_flags(&[])
        .system_file("[pools.frames]\nmode = \"0660\"\ngroup = 7\ncapacity = \"1MiB\"\n")
        .file(
            "[pools.frames]\ncapacity = \"64MiB\"\nmax_capacity = \"1GiB\"\n\
             [arena_pools.a-1]\narenas = 4\narena_size = 4096\nbacking = \"named\"\n\
             owner = \"root\"\n",
        );
    let frames = Declared {
        uid: None,
        create: DeclaredKind::Pool(CreatePool {
            name: "frames".parse().unwrap(),
            capacity_bytes: 64 << 20,
            max_capacity_bytes: Some(1 << 30),
            backing: None,
            gid: Some(7),
            mode: 0o660,
            request_id: RequestId::NONE,
        }),
    };
    let arenas = Declared {
        uid: Some(0),
        create: DeclaredKind::ArenaPool(CreateArenaPool {
            name: "a-1".parse().unwrap(),
            arenas: 4,
            arena_bytes: 4096,
            backing: Some(Backing::Named),
            gid: None,
            mode: 0o600,
            request_id: RequestId::NONE,
        }),
    };
    assert_eq!(told.config().pools, [frames, arenas]);
}

#[test]
fn pools_that_cannot_be_are_said_with_their_place() {
    let told = Told::by_flags(&[]).file(
        "[pools.a]\n\
         capacity = \"64MB\"\n\
         capacitty = 1\n\
         [pools.\"no name\"]\n\
         capacity = 5\n\
         [arena_pools.b]\n\
         arenas = 0\n\
         arena_size = \"4KiB\"\n\
         owner = \"nobody at all\"\n\
         mode = \"0777\"\n\
         [pools]\n\
         c = 7\n",
    );
    assert_eq!(
        told.faults(),
        [
            "DIR/named.toml:3: there is no key pools.a.capacitty; did you mean pools.a.capacity?",
            "DIR/named.toml:4: pools.no name is \"no name\", expected a name, which this is not: it \
             has ' ' at byte 2; it must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "DIR/named.toml:7: arena_pools.b.arenas is 0, expected a number from 1 to 65536",
            "DIR/named.toml:9: arena_pools.b.owner is \"nobody at all\", expected a user, by number \
             or by a name of /etc/passwd",
            "DIR/named.toml:10: arena_pools.b.mode is \"0777\", expected permission bits in octal, \
             of 0666, as \"0660\"",
            "DIR/named.toml:12: pools.c is 7, expected a section",
        ]
    );
    let told = Told::by_flags(&[]).file("[pools.a]\nmode = \"0600\"\n[arena_pools]\nb = {}\n");
    assert_eq!(
        told.faults(),
        [
            "[arena_pools.b]: arena_pools.b.arena_size is missing",
            "[arena_pools.b]: arena_pools.b.arenas is missing",
            "DIR/named.toml:2: pools.a.capacity is missing",
        ]
    );
    let told = Told::by_flags(&[]).file(
        "[pools.a]\ncapacity = \"2MiB\"\nmax_capacity = \"1MiB\"\n\
         [arena_pools.a]\narenas = 1\narena_size = \"1KiB\"\n",
    );
    assert_eq!(
        told.faults(),
        [
            "[pools.a]: no pool can be like this: maximum of 1048576 bytes is below the capacity of \
             2097152",
            "[arena_pools.a]: [pools] has the name too",
        ]
    );
}

#[test]
fn check_says_what_was_read_or_everything_that_is_wrong() {
    let mut told = Told::by_flags(&["config", "check"]).file("[limits]\nmax_pools = 3\n");
    let said = told.says();
    let directory = told.directory.path().to_str().unwrap();
    assert_eq!(
        said.replace(directory, "DIR"),
        "DIR/system.toml is not there\nDIR/named.toml is in order\n"
    );
    // A file alone: neither the environment nor the other files.
    std::fs::write(told.path("named.toml"), "[limits]\nmax_pools = 0\nx = 1\n").unwrap();
    assert_eq!(told.faults().len(), 2);
    let other = told.path("other.toml");
    std::fs::write(&other, "[limits]\nmax_pools = 1\n").unwrap();
    told.flags.push(other.to_str().unwrap().to_owned().leak());
    assert!(told.says().ends_with("other.toml is in order\n"));
}

#[test]
fn default_file_says_what_is_built_in() {
    let file = Told::by_flags(&["config", "default"]).says();
    assert!(file.lines().all(|line| line.len() <= 96), "{file}");
    let built_in = Told::by_flags(&[]).config();
    assert_eq!(Told::by_flags(&[]).file(&file).config(), built_in);
    // The same with every default that is a value written out: what begins with a key.
    let is_default = |line: &str| {
        let name = line.strip_prefix('#')?.split(" = ").next()?;
        let key = KEYS
            .iter()
            .find(|key| key.name.ends_with(&format!(".{name}")))?;
        matches!(key.default, BuiltIn::Is(_)).then_some(())
    };
    let (keys, _pools) = file.split_once("#[").unwrap();
    let written = keys.lines().map(|line| match is_default(line) {
        Some(()) => line.trim_start_matches('#'),
        None => line,
    });
    let written = written.collect::<Vec<_>>().join("\n");
    let told = Told::by_flags(&[]).file(&written);
    assert_eq!(told.config(), built_in, "{written}");
    for key in KEYS {
        let (section, name) = key.name.split_once('.').unwrap();
        assert!(file.contains(&format!("\n[{section}]\n")), "{section}");
        assert!(file.contains(&format!("\n#{name} = ")), "{name}");
    }
}

#[test]
fn every_example_of_the_default_file_is_a_value() {
    let file = Told::by_flags(&["config", "default"]).says();
    let uncommented = file.lines().map(|line| match line.strip_prefix('#') {
        Some(line) if line.starts_with('[') || line.contains(" = ") => line,
        _ => line,
    });
    let uncommented: Vec<&str> = uncommented.collect();
    let text = uncommented
        .join("\n")
        .replace("[arena_pools.NAME]", "[arena_pools.OTHER]");
    let config = Told::by_flags(&[]).file(&text).config();
    assert_eq!(config.pools.len(), 2, "{text}");
}

#[test]
fn explanation_says_the_value_and_who_says_so() {
    let explain = |key| {
        Told::by_flags(&["--max-pools", "7", "config", "explain", key])
            .variable("GOUMEM_BUDGET", "1024MiB")
            .file("[limits]\nreserve = \"1GiB\"\n")
    };
    assert_eq!(
        explain("limits.budget").says(),
        "limits.budget: The most memory to commit, over all pools, as 8GiB.\n  \
           value:                a size, as \"64MiB\"\n  \
           default:              half of the machine's memory\n  \
           now:                  1GiB, GOUMEM_BUDGET\n  \
           variable:             GOUMEM_BUDGET\n  \
           flag:                 --budget SIZE\n  \
           a new value is taken: at SIGHUP\n"
    );
    for (key, said) in [
        ("limits.reserve", "named.toml:2"),
        ("limits.max_pools", "now:                  7, --max-pools"),
        ("limits.purge_after", "now:                  1s, built in"),
        ("tcp.listen", "now:                  the default, built in"),
        (
            "pools.frames.capacity",
            "default:              none, it must be given",
        ),
        ("arena_pools.NAME.arenas", "a number from 1 to 65536"),
    ] {
        let explanation = explain(key).says();
        assert!(explanation.contains(said), "{explanation}");
    }
    for (key, meant) in [
        ("limits.buget", "limits.budget"),
        ("max_pools", "limits.max_pools"),
        ("pools.frames.capacitty", "pools.NAME.capacity"),
    ] {
        let error = explain(key).invoke().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("there is no key {key}; did you mean {meant}?")
        );
    }
}

#[test]
fn reference_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let made = Told::by_flags(&["config", "reference"]).says();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap();
    assert!(
        written == made,
        "docs/configuration.md is not what `goumemd config reference` prints; to renew it: \
         UPDATE_DOCS=1 cargo test -p goumemd --lib reference_is_up_to_date"
    );
    for key in POOL_KEYS.iter().chain(ARENA_POOL_KEYS) {
        assert!(key.variable.is_none() && key.flag.is_none(), "{}", key.name);
    }
}

#[test]
fn reload_says_what_is_different_from_what_runs() {
    let told = Told::by_flags(&["--max-sessions", "9"]).file(
        "[limits]\nmax_pools = 3\nmax_sessions = 3\nbudget = \"1GiB\"\n[pools.a]\ncapacity = 1\n\
         [pools.b]\ncapacity = 1\n",
    );
    let (_, _, mut reloader) = told.read().unwrap();
    let unchanged = reloader.reload().unwrap();
    assert_eq!(
        (unchanged.changes.len(), unchanged.pools_left.len()),
        (0, 0)
    );

    let rewrite = |text: &str| std::fs::write(told.path("named.toml"), text).unwrap();
    rewrite(
        "[limits]\nmax_pools = 4\nmax_sessions = 4\nbudget = \"1024MiB\"\n\
         [listen]\nmax_connections = 5\n[log]\nlevel = \"debug\"\n\
         [pools.a]\ncapacity = 2\n[pools.c]\ncapacity = 1\n",
    );
    let reloaded = reloader.reload().unwrap();
    let said = |reloaded: &Reloaded| -> Vec<String> {
        let changes = reloaded.changes.iter();
        changes
            .map(|c| format!("{} {} {} {}", c.key, c.from, c.to, c.reload))
            .collect()
    };
    assert_eq!(
        said(&reloaded),
        [
            "listen.max_connections 4096 5 at the next start",
            "limits.max_pools 3 4 at SIGHUP",
            "log.level info debug at SIGHUP",
        ],
        "the flag still wins, and 1024MiB is 1GiB"
    );
    assert_eq!(reloaded.log.level, LevelFilter::DEBUG);
    assert_eq!(reloaded.config.limits.max_pools, 4);
    assert_eq!(reloaded.pools_left, ["a", "b"]);

    // What needs a restart is said each time; what was taken is not.
    assert_eq!(
        said(&reloader.reload().unwrap()),
        ["listen.max_connections 4096 5 at the next start"]
    );
    rewrite("[limits]\nmax_pools = 0\n");
    assert!(matches!(reloader.reload(), Err(ConfigError::Faults(_))));
    rewrite("");
    assert_eq!(
        said(&reloader.reload().unwrap()),
        [
            "limits.budget 1GiB default (half of the machine's memory) at SIGHUP",
            "limits.max_pools 4 4096 at SIGHUP",
            "log.level debug info at SIGHUP",
        ],
        "the wrong file has changed nothing"
    );
}
