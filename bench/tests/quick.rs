//! Every benchmark runs: with few rounds and small sizes its line comes, with numbers in it.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on ends its test"
)]

use std::process::{Command, Stdio};

use serde_json::Value;

const BENCHES: [&str; 32] = [
    "rpc_alloc_free",
    "rpc_batch_1000",
    "lease_one",
    "lease_pipelined",
    "pair_64",
    "pair_4096",
    "pair_80000",
    "mixed",
    "mixed_2p",
    "handoff_64",
    "handoff_80000",
    "handoff_80000_touch",
    "resolve",
    "arena_bump",
    "arena_fill",
    "arena_bump_2p",
    "arena_cycle",
    "replace",
    "flat",
    "overhead",
    "copy_out",
    "copy_out_private",
    "first_touch_fresh",
    "first_touch_again",
    "recovery_pools",
    "recovery_sweep",
    "recovery_pause_lease",
    "recovery_pause_alloc",
    "recovery_sessions",
    "idle_memory",
    "idle_start",
    "idle_wakeups",
];

fn run(args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_goumem-bench"));
    let output = command
        .args(["--json", "--quick"])
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value > 0.0)
}

#[test]
fn each_bench_prints_its_line_with_what_is_beside_it() {
    let lines = run(&[]);
    let names: Vec<_> = lines.iter().map(|line| line["bench"].as_str()).collect();
    assert_eq!(names, BENCHES.map(Some));
    for line in &lines {
        let name = line["bench"].as_str().unwrap();
        // Whoever never wakes has woken no time.
        let may_be_zero = name == "idle_wakeups" && line["goumem"].as_f64() == Some(0.0);
        assert!(is_positive(&line["goumem"]) || may_be_zero, "{line}");
        let peers = line["peers"].as_object().unwrap();
        assert!(peers.values().all(is_positive), "{line}");
        // Only iceoryx2 and bumpalo have no stand-in that is always here, and a restart and an
        // idle daemon no peer.
        let has_one = !["handoff", "arena_bump", "arena_fill", "recovery", "idle"]
            .iter()
            .any(|start| name.starts_with(start));
        assert!(!peers.is_empty() || !has_one, "{line}");
        assert_eq!(peers.is_empty(), line["ratio"].is_null(), "{line}");
    }
}

#[test]
fn a_name_selects_by_its_beginning_and_an_unknown_one_is_refused() {
    let lines = run(&["copy_out", "pair_4"]);
    let names: Vec<_> = lines.iter().map(|line| line["bench"].as_str()).collect();
    let expected = ["pair_4096", "copy_out", "copy_out_private"];
    assert_eq!(names, expected.map(Some));

    let mut command = Command::new(env!("CARGO_BIN_EXE_goumem-bench"));
    let output = command.arg("pear").output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("there are rpc_alloc_free, "), "{stderr}");
}
