//! goumemctl: looks at and drives a goumem daemon from the command line. It is a client like any
//! other; only its demo brings a daemon of its own.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod demo;
mod doctor;
mod error;
mod manual;
mod map;
mod observation;
mod output;
mod top;
mod watch;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Args, Command};
use crate::error::{Exit, Failure};
use crate::output::{Format, Output, human_time};

fn main() -> ExitCode {
    let args = Args::parse();
    let format = args.output;
    let printed = run(args).and_then(|output| {
        print(&output, format)?;
        Ok(output.exit_code())
    });
    printed.unwrap_or_else(|failure| {
        failure.print(format);
        failure.exit().into()
    })
}

fn print(output: &Output, format: Format) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match output
        .write(format, &mut stdout)
        .and_then(|()| stdout.flush())
    {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn run(args: Args) -> Result<Output, Failure> {
    match &args.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "goumemctl", &mut script);
            Ok(Output::Raw(script))
        }
        Command::Doctor => in_time(args.timeout, move || doctor::run(args.socket.as_deref())),
        Command::Watch(how) => watch::run(args.socket.as_deref(), how, args.output),
        Command::Top(how) => top::run(args.socket.as_deref(), how),
        Command::Manual { directory } => {
            manual::write(directory)?;
            Ok(Output::Nothing)
        }
        Command::Demo { quick } => demo::run(args.socket.as_deref(), *quick),
        Command::Daemon => demo::daemon::serve(),
        Command::Worker(work) => demo::worker::run(args.socket.as_deref(), work),
        _ => ask(args),
    }
}

/// Runs a command that the daemon answers, within the time that it has for that.
fn ask(args: Args) -> Result<Output, Failure> {
    let mut input = Vec::new();
    if let Command::Put { .. } = args.command {
        io::stdin().lock().read_to_end(&mut input)?;
    }
    in_time(args.timeout, move || {
        let Args {
            socket, command, ..
        } = &args;
        let outcome = commands::run(command, socket.as_deref(), &input);
        outcome.map_err(|failure| failure.advise(command))
    })
}

/// Does something that may wait for the daemon, within the time that it has for that.
fn in_time(
    timeout: Duration,
    work: impl FnOnce() -> Result<Output, Failure> + Send + 'static,
) -> Result<Output, Failure> {
    let (done, outcome) = mpsc::sync_channel(1);
    // Left behind if the time is up: the process ends, and with it the session.
    thread::spawn(move || {
        // Nobody waits any more if the time was up.
        let _ = done.send(work());
    });
    match outcome.recv_timeout(timeout) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let message = format!("goumemd has not answered within {}", human_time(timeout));
            let failure = Failure::new(Exit::Unreachable, message);
            Err(failure
                .hint("goumemctl ping --timeout 60s")
                .hint("goumemctl doctor"))
        }
        // The thread has panicked, and said so.
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(Failure::new(
            Exit::Error,
            "command ended without an outcome",
        )),
    }
}
