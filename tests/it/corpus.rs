//! The fuzzer's bodies over the corpus of `fuzz/`: seeds made of valid structures, and whatever a
//! fuzzer found once.

use std::panic::catch_unwind;
use std::path::Path;

use harness::fuzz::{TARGETS, seeds, taken_over};

const MAX_FILE_BYTES: usize = 4096;

/// Returns every file of a target's corpus: its name and what is in it.
fn files_of(target: &str) -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(corpus.join(target))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Runs a body over its corpus, names every file that it fails, and then over cut and changed
/// copies of each.
fn run(target: &str) {
    let (_, body) = TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    let files = files_of(target);
    assert!(files.len() >= 3, "{target} has {} files", files.len());
    let mut failed = Vec::new();
    for (name, bytes) in &files {
        assert!(
            bytes.len() <= MAX_FILE_BYTES,
            "{target}/{name} has {} bytes",
            bytes.len()
        );
        if catch_unwind(|| body(bytes)).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{target} fails over {failed:?}");
    for (name, bytes) in files {
        for changed in seeds::changed(&bytes, 8) {
            // For `xxd -r -p`, to make a file of it.
            let hex: String = changed.iter().map(|byte| format!("{byte:02x}")).collect();
            let held = catch_unwind(|| body(&changed)).is_ok();
            assert!(held, "{target} fails over {name}, changed to {hex}");
        }
    }
}

#[test]
fn arena_words_with_anything_in_them_keep_allocations_in_their_arenas() {
    run("arenas");
}

#[test]
fn segments_with_anything_in_them_are_refused_or_lead_into_the_payload() {
    run("attach");
}

#[test]
fn frames_that_are_read_say_what_they_would_be_written_as() {
    run("frames");
}

#[test]
fn handles_are_the_same_in_every_form() {
    run("handle");
}

#[test]
fn messages_that_make_sense_come_back_from_the_wire() {
    run("requests");
}

#[test]
fn whatever_a_daemon_left_the_next_one_serves_whole_or_not_at_all() {
    run("restart");
}

/// Else the corpus would be of refusals only.
#[test]
fn what_a_daemon_left_is_believed_as_long_as_nobody_changes_it() {
    let mut believed = 0;
    for (name, bytes) in files_of("restart") {
        let is_destroyed = u32::from(name.starts_with("destroying"));
        if ["-live", "-dead", "-files"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            assert_eq!(taken_over(&bytes), (2 - is_destroyed, 0), "{name}");
            believed += 1;
        }
    }
    assert!(believed >= 18, "{believed} seeds of daemons");
}

#[test]
fn slot_words_with_anything_in_them_hand_no_block_out_twice() {
    run("slots");
}

#[test]
fn words_of_the_daemon_read_back_as_written() {
    run("words");
}

/// Writes the seeds anew, after a change of the layout or of a body's script:
/// `cargo test -p goumem-tests --test it seeds_are_written_anew -- --ignored`.
#[test]
#[ignore = "changes the sources"]
fn seeds_are_written_anew() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, name, bytes) in seeds::all() {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
