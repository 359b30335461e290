//! docs/testing.md lists the known mistakes and the tests that catch them: list and tests agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const MUST_LIST: usize = 18;

/// Which tool a module's tests run under.
fn tool_of(path: &str) -> &'static str {
    if path.contains("loom_models") {
        "loom"
    } else if path.contains("/tests/crash/") {
        "crash"
    } else {
        "property"
    }
}

/// Adds the tests of mutants in the sources under `dir`: those that are to panic, or have a checker
/// caught. By name, with their tools.
fn tests_in(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<&'static str>>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            tests_in(root, &path, found);
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let path = path.strip_prefix(root).unwrap().to_str().unwrap();
        let mutants = match text.split_once("mod mutants {") {
            Some((_, mutants)) => mutants,
            None if path.ends_with("mutants.rs") => text.as_str(),
            None => continue,
        };
        for test in mutants.split("#[test]").skip(1) {
            let catches = ["#[should_panic(expected", "caught(\"", "caught(Mutant::"];
            if catches.iter().any(|sign| test.contains(sign)) {
                let (_, name) = test.split_once("fn ").unwrap();
                let (name, _) = name.split_once('(').unwrap();
                let tools = found.entry(name.to_owned()).or_default();
                tools.push(tool_of(path));
                tools.sort_unstable();
            }
        }
    }
}

#[test]
fn every_mistake_in_the_list_has_its_test_and_every_test_is_in_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests = BTreeMap::new();
    for of in ["shm", "daemon"] {
        tests_in(root, &root.join(of).join("src"), &mut tests);
    }
    let testing = fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let (_, table) = testing.split_once("| mistake |").expect("the table");
    let mut listed = BTreeMap::new();
    for row in table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
    {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, _, test, tools, _] = cells[..] else {
            panic!("a row of three cells: {row}");
        };
        let tools: Vec<&str> = tools.split(", ").collect();
        let before = listed.insert(test.trim_matches('`').to_owned(), tools);
        assert_eq!(before, None, "{test} is listed twice");
    }
    assert!(listed.len() >= MUST_LIST, "{} are listed", listed.len());
    assert_eq!(listed, tests);
}
