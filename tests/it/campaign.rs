//! The campaign (docs/reliability.md), for a few seconds; and that it finds what it looks for,
//! when that is planted.

use std::process::Command;

use harness::alone;
use serde_json::Value;

/// Runs the campaign; returns whether it found nothing wrong, its sum, and what it said.
fn campaign(args: &[&str]) -> (bool, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_campaign"))
        .args(["--json", "--seed", "7"])
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let sum = String::from_utf8(output.stdout).unwrap();
    let sum = sum.lines().last().unwrap_or_else(|| panic!("{said}"));
    let sum = serde_json::from_str(sum).unwrap_or_else(|error| panic!("{error}: {sum}\n{said}"));
    (output.status.success(), sum, said)
}

#[test]
fn nothing_is_lost_doubled_or_leaked_while_everything_is_killed_stopped_and_forked() {
    let _alone = alone();
    let (is_clean, sum, said) = campaign(&["--seconds", "10"]);
    assert!(is_clean, "{sum}\n{said}");
    for what in ["lost_blocks", "overlaps", "leaked_bytes", "false_deaths"] {
        assert_eq!(sum[what], 0, "{sum}");
    }
    // It has done something.
    for what in [
        "ops",
        "handed_over",
        "kills_client",
        "kills_daemon",
        "checks",
        "baselines",
    ] {
        assert!(sum[what].as_u64() > Some(0), "{what}: {sum}");
    }
}

/// Plants a wrong, and returns the sum.
fn planted(wrong: &str) -> Value {
    let _alone = alone();
    let (is_clean, sum, said) =
        campaign(&["--no-daemon-kills", "--seconds", "3", "--sabotage", wrong]);
    assert!(!is_clean, "{wrong} was not found: {sum}\n{said}");
    assert!(said.contains("campaign: WRONG"), "{said}");
    sum
}

#[test]
fn write_into_somebody_elses_block_is_found() {
    let sum = planted("overlap");
    assert!(sum["overlaps"].as_u64() > Some(0), "{sum}");
}

#[test]
fn free_of_somebody_elses_block_is_found() {
    let sum = planted("lost");
    assert!(sum["lost_blocks"].as_u64() > Some(0), "{sum}");
}

#[test]
fn kept_block_that_nobody_knows_of_is_found() {
    let sum = planted("leak");
    assert!(sum["leaked_bytes"].as_u64() > Some(0), "{sum}");
}

#[test]
fn end_of_a_living_clients_session_is_found() {
    let sum = planted("false-death");
    assert!(sum["false_deaths"].as_u64() > Some(0), "{sum}");
}

#[test]
fn call_that_happened_twice_is_found() {
    let sum = planted("once");
    assert!(sum["wrong"]["once"].as_u64() > Some(0), "{sum}");
}

#[test]
fn pause_of_a_thread_inside_its_lease_is_found() {
    let sum = planted("pause");
    assert!(sum["wrong"]["pause"].as_u64() > Some(0), "{sum}");
    assert!(sum["max_pause_ms"].as_f64() > Some(300.0), "{sum}");
}
