//! The command line, made from the table of keys.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, ArgAction, Command, value_parser};

use super::draft::Draft;
use super::keys::{KEYS, Key};
use super::value::Kind;

/// The flag and the argument's id of the file to read.
pub(super) const CONFIG: &str = "config";
/// The same for ending a keeper.
pub(super) const DROP: &str = "drop";
/// The subcommand about the configuration itself, and what it does.
pub(super) const ABOUT_CONFIG: &str = "config";
pub(super) const CHECK: &str = "check";
pub(super) const DEFAULT: &str = "default";
pub(super) const EXPLAIN: &str = "explain";
pub(super) const REFERENCE: &str = "reference";
pub(super) const FILE: &str = "file";
pub(super) const KEY: &str = "key";
/// The environment's name for the file to read.
pub(super) const CONFIG_VARIABLE: &str = "GOUMEM_CONFIG";
/// The file that is read if it is there.
pub(super) const SYSTEM_FILE: &str = "/etc/goumem/goumemd.toml";

/// Returns goumemd's command line, for those who want its help, its manual page or its completions.
pub fn command() -> Command {
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(format!(
            "Read this file too; it has the last word over {SYSTEM_FILE}, and variables and flags \
             over it [env: {CONFIG_VARIABLE}]"
        ));
    let drop = Arg::new(DROP).long(DROP).action(ArgAction::SetTrue).help(
        "End the keeper of an earlier daemon, and with it all pools that are not files, and \
             exit",
    );
    Command::new("goumemd")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "goumemd owns named pools and arena pools of shared memory and serves them over gRPC.",
        )
        .max_term_width(100)
        .arg(config)
        .args(KEYS.iter().filter_map(flag))
        .arg(drop)
        .subcommand(about_config())
}

/// `goumemd config`.
fn about_config() -> Command {
    let check = Command::new(CHECK)
        .about("Say everything that is wrong, or nothing and exit with 0")
        .arg(
            Arg::new(FILE)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Check this file alone, not what the daemon would read"),
        );
    let explain = Command::new(EXPLAIN)
        .about("Say what a key is, what it is now, and who says so")
        .arg(
            Arg::new(KEY)
                .value_name("KEY")
                .required(true)
                .help("Section and name, as limits.budget"),
        );
    Command::new(ABOUT_CONFIG)
        .about("Check and explain the configuration")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(check)
        .subcommand(Command::new(DEFAULT).about("Print a file with every key and its default"))
        .subcommand(explain)
        .subcommand(Command::new(REFERENCE).about("Print docs/configuration.md"))
}

fn flag(key: &'static Key<Draft>) -> Option<Arg> {
    let mut help = key.help.trim_end_matches('.').to_owned();
    if let Some(variable) = key.variable {
        let _ = write!(help, " [env: {variable}]");
    }
    let _ = write!(help, " [default: {}]", key.default);
    let parser: ValueParser = match &key.kind {
        Kind::Choice(choices) => {
            PossibleValuesParser::new(choices.iter().map(|(word, _)| *word)).into()
        }
        // The rest is checked with the other layers, and in the same words.
        _ => value_parser!(OsString),
    };
    let arg = Arg::new(key.name)
        .long(key.flag?)
        .value_name(key.kind.placeholder())
        .value_parser(parser)
        .help(help);
    Some(arg)
}
