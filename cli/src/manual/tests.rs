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
    let pages = fs::read_dir(directory.path().join("man/man1")).unwrap();
    let pages: BTreeSet<String> = pages
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let mut expected = BTreeSet::from(["goumemctl.1".to_owned()]);
    let mut left: Vec<&Command> = command.get_subcommands().collect();
    while let Some(command) = left.pop() {
        if !command.is_hide_set() {
            expected.insert(format!("{}.1", command.get_display_name().unwrap()));
            left.extend(command.get_subcommands());
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
