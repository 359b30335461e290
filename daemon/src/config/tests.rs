//! Flag > environment > named file > system's file > built in, also for a flag with the default's
//! value; what is refused, and in which words.

use std::collections::BTreeMap;

use clap::Command;

use super::keys::KEYS;
use super::*;

const NO_ENVIRONMENT: Environment = Environment {
    goumem_socket: None,
    xdg_runtime_dir: None,
    system_directory_serves: false,
    uid: 7,
};

/// What one daemon is told, by all layers.
struct Told {
    flags: Vec<&'static str>,
    variables: BTreeMap<&'static str, OsString>,
    directory: tempfile::TempDir,
    environment: Environment,
}

impl Told {
    fn by_flags(flags: &[&'static str]) -> Self {
        Self {
            flags: flags.to_vec(),
            variables: BTreeMap::new(),
            directory: tempfile::tempdir().unwrap(),
            environment: NO_ENVIRONMENT,
        }
    }

    fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name, value.into());
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

    fn read(&self) -> Result<Invocation, ConfigError> {
        let flags = ["goumemd"].iter().chain(&self.flags).map(OsString::from);
        Invocation::read(
            flags,
            &Surroundings {
                variable: &|name| self.variables.get(name).cloned(),
                environment: self.environment.clone(),
                system_file: self.path("system.toml"),
            },
        )
    }

    fn config(&self) -> Config {
        self.read().unwrap().config
    }

    /// Returns what is said of the mistakes, with `DIR` for the directory of the files.
    fn faults(&self) -> Vec<String> {
        let Err(ConfigError::Faults(faults)) = self.read() else {
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
    Told::by_flags(flags).read().map(|told| told.config)
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
    let told = Told::by_flags(&[]).file("[limits]\nmax_pools = 3\n");
    let path = told.path("other.toml");
    std::fs::write(&path, "[limits]\nmax_sessions = 2\n").unwrap();
    let flags = ["goumemd", "--config", path.to_str().unwrap()].map(OsString::from);
    let around = Surroundings {
        variable: &|name| told.variables.get(name).cloned(),
        environment: NO_ENVIRONMENT,
        system_file: told.path("system.toml"),
    };
    let limits = Invocation::read(flags, &around).unwrap().config.limits;
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
        tcp.listen = "127.0.0.1:7070"
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
    let read = told.read().unwrap();
    let expected = Config {
        socket: "/a/b.sock".into(),
        socket_mode: 0o640,
        private_directory: false,
        tcp: Some("127.0.0.1:7070".parse().unwrap()),
        http: "127.0.0.1:4636".parse().unwrap(),
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
            quota_per_user_bytes: Some(64 << 20),
            purge_after: Duration::from_millis(5),
        },
    };
    assert_eq!(read.config, expected);
    assert_eq!(read.log.level, tracing::level_filters::LevelFilter::DEBUG);
    assert_eq!(read.log.format, crate::logging::LogFormat::Compact);
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
}

#[test]
fn address_that_others_reach_is_refused() {
    let tcp = |address| parse(&["--tcp", address]);
    for loopback in ["127.0.0.1:0", "[::1]:7070"] {
        assert_eq!(tcp(loopback).unwrap().tcp, Some(loopback.parse().unwrap()));
    }
    for other in ["0.0.0.0:7070", "[::]:7070", "192.168.1.1:7070"] {
        assert!(
            matches!(tcp(other), Err(ConfigError::NotLoopback { address })
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
