//! The promises of SECURITY.md, one by one. Those between users need root, who can become other
//! users; without it they are skipped, aloud.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use goumem_proto::v1;
use harness::{DaemonProcess, PATIENCE, Puppet, Rpc, Setup, TestDaemon, call, is_root, skip};

use crate::PUPPETS;

mod files;
mod sockets;
mod tokens;
mod users;

const MIB: u64 = 1 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// `tests/it/x.rs#test_of_it`, as SECURITY.md names a test.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|word| word.split_once('#'))
        .map(|(file, test)| (file.to_owned(), test.to_owned()))
        .collect()
}

/// The names of the tests in a file.
fn tests_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test]");
    let name = |line: &str| {
        let (_, rest) = line.split_once("fn ")?;
        Some(rest.split_once('(')?.0.to_owned())
    };
    lines
        .windows(2)
        .filter(|pair| is_test(pair[0]))
        .filter_map(|pair| name(pair[1]))
        .collect()
}

#[test]
fn every_promise_names_the_tests_that_hold_it() {
    let document = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let promises: Vec<_> = document
        .lines()
        .filter(|line| line.starts_with("| P"))
        .collect();
    assert!(promises.len() >= 15, "{} promises", promises.len());
    for (i, promise) in promises.iter().enumerate() {
        assert!(promise.starts_with(&format!("| P{} |", i + 1)), "{promise}");
        assert!(!named_tests(promise).is_empty(), "no test holds {promise}");
    }
    let named = named_tests(&document);
    for (file, test) in &named {
        let tests = tests_of(&root().join(file));
        assert!(tests.contains(test), "{file} has no test {test}: {tests:?}");
    }
}

#[test]
fn every_test_of_a_promise_is_named_by_it() {
    let document = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let named: BTreeSet<_> = named_tests(&document).into_iter().collect();
    for directory in ["tests/it/security", "tests/it/hostile"] {
        for file in fs::read_dir(root().join(directory)).unwrap() {
            let path = file.unwrap().path();
            let file = path.strip_prefix(root()).unwrap().display().to_string();
            for test in tests_of(&path) {
                assert!(
                    named.contains(&(file.clone(), test.clone())),
                    "SECURITY.md does not name {file}#{test}"
                );
            }
        }
    }
}
