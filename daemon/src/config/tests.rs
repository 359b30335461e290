//! Flag > environment > default, also for a flag with the default's value; and what is refused.

use std::process::Command;

use super::*;

const NO_ENVIRONMENT: Environment = Environment {
    goumem_socket: None,
    xdg_runtime_dir: None,
    system_directory_serves: false,
    uid: 7,
};

fn parse(flags: &[&str], environment: &Environment) -> Result<Config, ConfigError> {
    let args = Args::try_parse_from([&["goumemd"], flags].concat())?;
    args.into_config(environment, None)
}

/// Run by the test below, in a process of its own, whose environment it reports.
#[test]
#[ignore = "not a test: the child of `flag_beats_environment_beats_default`"]
fn child_prints_what_it_is_told() {
    let flags = std::env::var("TEST_FLAGS").unwrap();
    let args = Args::try_parse_from(["goumemd"].into_iter().chain(flags.split_whitespace()));
    let args = args.unwrap();
    println!(
        "config: {:?} {} {}",
        args.budget.map(|size| size.as_u64()),
        args.max_pools,
        args.purge_after
    );
}

/// Parses with a real environment, which only another process can have safely.
fn parsed_with(flags: &str, variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "config::tests::child_prints_what_it_is_told"])
        .args(["--ignored", "--nocapture"])
        .env("TEST_FLAGS", flags)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let start = text.find("config: ").unwrap_or_else(|| panic!("{text}")) + "config: ".len();
    text[start..].lines().next().unwrap().to_owned()
}

#[test]
fn flag_beats_environment_beats_default() {
    let variables = [
        ("GOUMEM_BUDGET", "1GiB"),
        ("GOUMEM_MAX_POOLS", "9"),
        ("GOUMEM_PURGE_AFTER", "250ms"),
    ];
    assert_eq!(parsed_with("", &[]), "None 4096 1s");
    assert_eq!(parsed_with("", &variables), "Some(1073741824) 9 250ms");
    assert_eq!(
        parsed_with(
            "--budget 64MiB --max-pools 4096 --purge-after 1s",
            &variables
        ),
        "Some(67108864) 4096 1s",
        "a flag typed with its default value still wins"
    );
}

#[test]
fn socket_and_its_mode_follow_the_place() {
    let default = parse(&[], &NO_ENVIRONMENT).unwrap();
    assert_eq!(default.socket, Path::new("/tmp/goumem-7/goumemd.sock"));
    assert_eq!(default.limits.data_dir, Path::new("/tmp/goumem-7/data"));
    assert_eq!(
        (default.socket_mode, default.private_directory),
        (0o600, true)
    );

    let system = Environment {
        system_directory_serves: true,
        ..NO_ENVIRONMENT
    };
    let system = parse(&[], &system).unwrap();
    assert_eq!(system.socket, Path::new("/run/goumem/goumemd.sock"));
    assert_eq!(
        (system.socket_mode, system.private_directory),
        (0o660, false)
    );

    let variable = Environment {
        goumem_socket: Some("/a/b.sock".into()),
        ..NO_ENVIRONMENT
    };
    let by_variable = parse(&[], &variable).unwrap();
    assert_eq!(by_variable.socket, Path::new("/a/b.sock"));
    assert!(
        !by_variable.private_directory,
        "a place that was given is taken as it is"
    );
    let by_flag = parse(
        &["--listen", "/c/d.sock", "--socket-mode", "0666"],
        &variable,
    )
    .unwrap();
    assert_eq!(by_flag.socket, Path::new("/c/d.sock"));
    assert_eq!(by_flag.socket_mode, 0o666);
}

#[test]
fn library_defaults_are_those_of_the_command_line() {
    let by_hand = Config::private(Path::new("/a"));
    let parsed = parse(&["--listen", "/a/goumemd.sock"], &NO_ENVIRONMENT).unwrap();
    // But for the keeper: a library cannot know that its program can be one.
    let kept = Config {
        keeper: Keeper::this_program().unwrap(),
        keep_on_exit: true,
        ..by_hand.clone()
    };
    assert_eq!(parsed, kept);
    let flags = ["--listen", "/a/goumemd.sock", "--keeper", "none"];
    assert_eq!(parse(&flags, &NO_ENVIRONMENT).unwrap(), by_hand);
}

#[test]
fn data_directory_is_below_an_absolute_state_home() {
    let data_dir = |state_home: &str| {
        let args = Args::try_parse_from(["goumemd", "--listen", "/s/x.sock"]).unwrap();
        let config = args.into_config(&NO_ENVIRONMENT, Some(state_home.into()));
        config.unwrap().limits.data_dir
    };
    assert_eq!(
        data_dir("/home/a/.local/state"),
        Path::new("/home/a/.local/state/goumem")
    );
    assert_eq!(data_dir("state"), Path::new("/s/data"));
}

#[test]
fn address_that_others_reach_is_refused() {
    let tcp = |address| parse(&["--tcp", address], &NO_ENVIRONMENT);
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
        ["--max-connections", "-1"],
        ["--budget", "much"],
        ["--purge-after", "1"],
        ["--socket-mode", "0777"],
        ["--socket-mode", "9"],
        ["--backing", "paper"],
        ["--log-level", "loud"],
        ["--log-format", "xml"],
    ] {
        let refused = parse(&flags, &NO_ENVIRONMENT);
        assert!(
            matches!(refused, Err(ConfigError::Usage(_))),
            "{flags:?}: {refused:?}"
        );
    }
    let long = format!("/{}.sock", "x".repeat(200));
    let refused = parse(&["--listen", &long], &NO_ENVIRONMENT);
    assert!(matches!(
        refused,
        Err(ConfigError::Socket(PathError::TooLong { .. }))
    ));
}
