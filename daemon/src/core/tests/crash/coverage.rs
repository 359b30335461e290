//! Every `// CRASH:` comment of the product is the word of a death that a walk dies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use goumem_shm::crash::Site;

use super::kept::Call;
use super::*;

/// A tag stands above the write that it is about, by no more lines than this: some stand in the
/// documentation of a function of a few lines.
const REACH: u32 = 16;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// Returns every tag of a crate's sources, by file and line.
fn tags(root: &Path, of: &str) -> Vec<Site> {
    let mut files = Vec::new();
    sources(&root.join(of).join("src"), &mut files);
    let mut tags = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, number) in text.lines().zip(1..) {
            if line
                .split_once("//")
                .is_some_and(|(_, comment)| comment.contains("CRASH:"))
            {
                let file = path.strip_prefix(root).unwrap().to_owned();
                tags.push(Site { file, line: number });
            }
        }
    }
    tags
}

fn sites<W: World>(dies: Dies, operations: &[Operation<W>], into: &mut BTreeSet<Site>) {
    for operation in operations {
        into.extend(operation.writes(dies).sites);
    }
}

#[test]
fn every_crash_comment_is_about_a_write_that_is_walked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut written = BTreeSet::new();
    sites(Dies::Client, client_operations::OPERATIONS, &mut written);
    sites(Dies::Client, arena_operations::OF_CLIENTS, &mut written);
    sites(Dies::Daemon, daemon_operations::OPERATIONS, &mut written);
    sites(Dies::Daemon, arena_operations::OF_THE_DAEMON, &mut written);
    sites(Dies::Daemon, roots::OPERATIONS, &mut written);
    let mut kept = calls::CALLS.iter().flat_map(Call::sites).collect();
    // A new ROOT, which there is before any session.
    sites(Dies::Daemon, &roots::OPERATIONS[..1], &mut kept);
    assert_walked(&tags_of_root(root), &kept);
    written.extend(kept);
    let crates = ["shm", "daemon"].iter();
    let mut tags: Vec<Site> = crates.flat_map(|of| tags(root, of)).collect();
    tags.sort();
    assert!(
        tags.len() > 30,
        "{} tags: are the sources where they were?",
        tags.len()
    );
    assert_walked(&tags, &written);
    println!("crash: {} CRASH comments, all of them walked", tags.len());
}

/// Returns the tags that are about what the next daemon knows of sessions and their requests, in
/// their order.
fn tags_of_root(root: &Path) -> Vec<Site> {
    let mut tags = tags(root, "shm");
    tags.retain(|tag| {
        tag.file.starts_with("shm/src/root") || tag.file == Path::new("shm/src/member.rs")
    });
    tags.sort();
    assert!(tags.len() > 8, "{tags:?}");
    tags
}

/// Asserts that each of the tags, in their order, is about a write.
fn assert_walked(tags: &[Site], written: &BTreeSet<Site>) {
    // Up to the next tag, which has writes of its own.
    let is_walked = |tag: &Site, next: Option<&Site>| {
        let mut end = Site {
            line: tag.line + REACH,
            ..tag.clone()
        };
        if let Some(next) = next {
            end = end.min(next.clone());
        }
        written.range(tag.clone()..end).next().is_some()
    };
    let missed: Vec<String> = tags
        .iter()
        .enumerate()
        .filter(|&(i, tag)| !is_walked(tag, tags.get(i + 1)))
        .map(|(_, tag)| format!("{}:{}", tag.file.display(), tag.line))
        .collect();
    assert!(missed.is_empty(), "no walk comes past {missed:#?}");
}
