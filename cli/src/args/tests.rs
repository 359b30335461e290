use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use super::*;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split(' '))
}

fn command(line: &str) -> Command {
    parse(line).unwrap().command
}

#[test]
fn command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn global_flags_may_stand_anywhere() {
    for line in [
        "goumemctl -o json --socket /s --timeout 500ms pool ls",
        "goumemctl pool ls -o json --socket /s --timeout 500ms",
    ] {
        let args = parse(line).unwrap();
        assert_eq!(args.output, Format::Json);
        assert_eq!(args.socket.as_deref(), Some(std::path::Path::new("/s")));
        assert_eq!(args.timeout, Duration::from_millis(500));
    }
    assert_eq!(parse("goumemctl ping").unwrap().output, Format::Table);
}

#[test]
fn sizes_are_bytes_or_have_a_unit() {
    for (text, bytes) in [
        ("4096", 4096),
        ("64KiB", 64 << 10),
        ("64kB", 64_000),
        ("1.5GiB", 3 << 29),
        ("1TiB", 1 << 40),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "0", "0KiB", "MiB", "-1", "1 potato"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn durations_have_a_unit_and_are_above_zero() {
    assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
    for text in ["", "0s", "10", "soon"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn modes_are_octal_and_have_read_and_write_bits_only() {
    assert_eq!(mode("0660"), Ok(0o660));
    assert_eq!(mode("600"), Ok(0o600));
    for text in ["0777", "0o660", "rw", "9"] {
        assert!(mode(text).is_err(), "{text}");
    }
}

#[test]
fn pool_create_takes_sizes_and_options() {
    let Command::Pool(PoolCommand::Create {
        name,
        capacity,
        max_capacity,
        common,
    }) =
        command("goumemctl pool create frames 64MiB --max-capacity 1GiB --backing file --mode 660")
    else {
        panic!("not a pool create");
    };
    assert_eq!(
        (name.as_str(), capacity, max_capacity),
        ("frames", 64 << 20, Some(1 << 30))
    );
    assert_eq!(
        (common.backing, common.mode),
        (Some(BackingName::File), 0o660)
    );
    assert!(!common.exist_ok);
}

#[test]
fn arena_pool_create_takes_a_count_and_a_size() {
    let Command::ArenaPool(ArenaPoolCommand::Create {
        arenas, arena_size, ..
    }) = command("goumemctl arena-pool create batches 16 1MiB")
    else {
        panic!("not an arena-pool create");
    };
    assert_eq!((arenas, arena_size), (16, 1 << 20));
}

#[test]
fn handles_are_parsed_at_the_edge() {
    let text = "gm1-00000001000000000010000000000101";
    let Command::Block(BlockCommand::Stat { handle }) =
        command(&format!("goumemctl block stat {text}"))
    else {
        panic!("not a block stat");
    };
    assert_eq!(handle.to_string(), text);
    assert!(parse("goumemctl block free gm1-123").is_err());
}

#[test]
fn aliases_mean_the_same() {
    assert!(matches!(command("goumemctl cat p n"), Command::Get { .. }));
    assert!(matches!(
        command("goumemctl rm-name p n --free"),
        Command::Withdraw { free: true, .. }
    ));
    assert!(matches!(
        command("goumemctl arena holders p"),
        Command::Arena(_)
    ));
    assert!(matches!(
        command("goumemctl pool list"),
        Command::Pool(PoolCommand::Ls)
    ));
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    for line in [
        "goumemctl",
        "goumemctl fly",
        "goumemctl pool create frames",
        "goumemctl pool create frames much",
        "goumemctl -o xml ping",
        "goumemctl session kill 0",
        "goumemctl session kill 65535",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let help = parse("goumemctl --help").unwrap_err();
    assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
}

#[test]
fn the_demos_own_subcommands_are_hidden_but_there() {
    let help = Args::command().render_help().to_string();
    assert!(
        !help.contains("worker") && !help.contains("Is the demo's daemon"),
        "{help}"
    );
    assert!(matches!(command("goumemctl daemon"), Command::Daemon));
    let Command::Worker(WorkerCommand::Matrix(work)) =
        command("goumemctl worker matrix --pool p --first 5 --count 10 --at-a-time 1")
    else {
        panic!("not a matrix worker");
    };
    let pool = Some("p".to_owned());
    assert_eq!(
        work,
        MatrixWork {
            pool,
            first: 5,
            count: 10,
            at_a_time: 1
        }
    );
}
