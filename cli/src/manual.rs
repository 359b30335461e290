//! Manual pages and completions of both programs, made from their command lines, for whoever
//! packages them: `goumemctl manual DIR`. The files lie below the directory as below `/usr/share`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::Args;

#[cfg(test)]
mod tests;

/// What goumemd's command line does not say of it.
const MORE_OF_GOUMEMD: [(&str, &[(&str, &str)]); 5] = [
    (
        "SIGNALS",
        &[
            (
                "SIGTERM",
                "Ends the daemon in order: no more calls begin, and those under way have the drain \
                 deadline to end. Pools and sessions are left to the next daemon, if something keeps \
                 them (--keeper).",
            ),
            (
                "SIGINT",
                "The same, and nothing is left to the next daemon.",
            ),
            (
                "SIGHUP",
                "Reads the configuration again and takes over what may change.",
            ),
            ("A second signal", "Ends it at once."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "It has ended as it was told."),
            ("1", "It could not start or go on; the log says why."),
            (
                "64",
                "The command line, the environment or the configuration is wrong.",
            ),
            ("130", "A second signal has ended it."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "RUST_LOG",
                "What to log, in the words of Rust's tracing; has the last word over the level that \
                 is configured.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_FDNAMES, FDSTORE",
                "The service manager's, see sd_notify(3) and sd_listen_fds(3). Sockets are known by \
                 the names grpc and fd, else by their paths.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/goumem/goumemd.toml",
                "The configuration of the system's instance. goumemd config default prints one with \
                 every key.",
            ),
            (
                "/run/goumem/goumemd.sock, goumemd.fd.sock",
                "The sockets of the system's instance: gRPC, and memory by fd.",
            ),
            (
                "/run/goumem/goumemd.lock",
                "Held by the one daemon of the instance. Stays.",
            ),
            (
                "/var/lib/goumem",
                "File-backed pools of the system's instance.",
            ),
        ],
    ),
    ("SEE ALSO", &[("goumemctl(1), systemctl(1)", "")]),
];

/// Writes everything below a directory, which is made if it is not there.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    let (goumemctl, goumemd) = (Args::command(), goumemd::config::command());
    write_pages(goumemctl.clone(), "1", directory, &[])?;
    write_pages(goumemd.clone(), "8", directory, &MORE_OF_GOUMEMD)?;
    for (shell, place) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/vendor-completions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let place = directory.join(place);
        fs::create_dir_all(&place)?;
        for mut program in [goumemctl.clone(), goumemd.clone()] {
            let name = program.get_name().to_owned();
            // bash-completion finds a script by the program's name alone.
            let file = match shell {
                Shell::Bash => name.clone(),
                Shell::Zsh => format!("_{name}"),
                _ => format!("{name}.fish"),
            };
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program, name, &mut script);
            fs::write(place.join(file), script)?;
        }
    }
    Ok(())
}

/// What a command line does not say: sections of terms and what they are.
type More = [(&'static str, &'static [(&'static str, &'static str)])];

/// A page for a command, with more sections, and one for each of its subcommands:
/// `man1/goumemctl-pool-create.1` and so on.
fn write_pages(command: Command, section: &str, directory: &Path, more: &More) -> io::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    for subcommand in command.get_subcommands() {
        if !subcommand.is_hide_set() {
            write_pages(subcommand.clone(), section, directory, &[])?;
        }
    }
    let pages = directory.join(format!("man/man{section}"));
    fs::create_dir_all(&pages)?;
    let man = Man::new(command).section(section).manual("goumem");
    let mut file = BufWriter::new(File::create(pages.join(man.get_filename()))?);
    man.render(&mut file)?;
    if more.is_empty() {
        return file.flush();
    }
    let mut text = Roff::new();
    for &(section, entries) in more {
        text.control("SH", [section]);
        for &(term, what) in entries {
            text.control("TP", []).text([bold(term)]);
            if !what.is_empty() {
                text.text([roman(what)]);
            }
        }
    }
    text.to_writer(&mut file)?;
    file.flush()
}
