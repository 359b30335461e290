//! What is written, and that it says what the command lines do.

use std::collections::BTreeSet;

use super::*;

fn read(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_command_has_a_page_and_every_flag_of_the_daemon_is_on_its_page() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path()).unwrap();
    let mut pages = BTreeSet::new();
    for man in ["man/man1", "man/man8"] {
        for page in fs::read_dir(directory.path().join(man)).unwrap() {
            pages.insert(page.unwrap().file_name().into_string().unwrap());
        }
    }
    let mut expected = BTreeSet::new();
    for (command, section) in [(Args::command(), 1), (goumemd::config::command(), 8)] {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let mut left = vec![&command];
        while let Some(command) = left.pop() {
            if !command.is_hide_set() {
                let name = command.get_display_name();
                let name = name.unwrap_or_else(|| command.get_name());
                expected.insert(format!("{name}.{section}"));
                left.extend(command.get_subcommands());
            }
        }
    }
    assert_eq!(pages, expected);
    assert!(pages.contains("goumemctl-pool-create.1"));
    assert!(!pages.contains("goumemctl-manual.1"), "it is for packagers");

    let page = read(directory.path(), "man/man8/goumemd.8").replace("\\-", "-");
    for flag in goumemd::config::command().get_arguments() {
        let flag = format!("--{}", flag.get_long().unwrap());
        assert!(page.contains(&flag), "{flag}");
    }
    for (section, _) in MORE_OF_GOUMEMD {
        assert!(page.contains(section), "{section}");
    }
}

#[test]
fn both_programs_are_completed_in_three_shells() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path()).unwrap();
    for (file, says) in [
        ("bash-completion/completions/goumemctl", "pool"),
        ("bash-completion/completions/goumemd", "--listen"),
        ("zsh/vendor-completions/_goumemctl", "#compdef goumemctl"),
        ("zsh/vendor-completions/_goumemd", "#compdef goumemd"),
        (
            "fish/vendor_completions.d/goumemctl.fish",
            "complete -c goumemctl",
        ),
        (
            "fish/vendor_completions.d/goumemd.fish",
            "complete -c goumemd",
        ),
    ] {
        assert!(read(directory.path(), file).contains(says), "{file}");
    }
}
