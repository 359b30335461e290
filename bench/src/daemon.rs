//! The daemon that is measured: this program once more, as goumemd. It has a process of its own,
//! as it has in use: in this one it would share the allocator, and the scheduler would have other
//! threads to choose from, so a call would cost neither what it costs nor what it could.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use goumem::blocking::Client;
use tempfile::TempDir;

use crate::process;

/// Makes this program goumemd, if it is the first argument. Not for people.
pub(crate) const SUBCOMMAND: &str = "become-goumemd";

/// How long it may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// A running daemon. It ends when this is dropped, and also if this process is killed.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Child,
    directory: TempDir,
    /// What holds its pools when it is killed.
    keeper: &'static str,
    /// That and what else it was told.
    args: Vec<String>,
}

impl Daemon {
    /// Starts one with default settings in a directory of its own, and waits until it listens.
    ///
    /// # Errors
    /// What the OS says; that it ended or did not listen in time.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::start_with("none", &[])
    }

    /// Starts one whose pools outlive it, for [`restart`](Self::restart).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn start_kept() -> anyhow::Result<Self> {
        Self::start_kept_with(&[])
    }

    /// As [`start_kept`](Self::start_kept), with more arguments.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn start_kept_with(args: &[String]) -> anyhow::Result<Self> {
        Self::start_with("process", args)
    }

    fn start_with(keeper: &'static str, args: &[String]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("could not make a directory")?;
        let keeper_args = ["--keeper", keeper].map(str::to_owned);
        let args: Vec<String> = keeper_args.iter().chain(args).cloned().collect();
        let process = spawn(&directory, &args)?;
        let mut daemon = Self {
            process,
            directory,
            keeper,
            args,
        };
        daemon.wait_until_it_listens()?;
        Ok(daemon)
    }

    /// Kills it, and starts the next one in its place. Returns when that one was started; it
    /// listens by now.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn restart(&mut self) -> anyhow::Result<Instant> {
        self.process.kill()?;
        self.process.wait()?;
        let start = Instant::now();
        self.process = spawn(&self.directory, &self.args)?;
        self.wait_until_it_listens()?;
        Ok(start)
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("the daemon ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("the daemon does not listen after {START_DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Returns its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    /// Returns its directory, which goes with it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a client of it.
    ///
    /// # Errors
    /// As [`connect`].
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        connect(&self.socket())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its memory and its processes go with it, its files with the directory.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Else the keeper would wait for the next daemon.
        if self.keeper != "none"
            && let Ok(mut dropping) = spawn(&self.directory, &["--drop".to_owned()])
        {
            // To wait for it closes its stdin, whose end would end it before it is done.
            let stdin = dropping.stdin.take();
            let _ = dropping.wait();
            drop(stdin);
        }
    }
}

/// Returns the keeper that a daemon has started.
///
/// # Errors
/// That there is none.
pub(crate) fn keeper_of(daemon: &Daemon) -> anyhow::Result<u32> {
    let children = process::children(daemon.pid())?;
    children
        .first()
        .copied()
        .context("a daemon without a keeper")
}

/// Starts this program as goumemd, with the files of a directory.
fn spawn(directory: &TempDir, args: &[String]) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("could not find this program")?;
    Command::new(program)
        .arg(SUBCOMMAND)
        .arg("--listen")
        .arg(socket_in(directory))
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .args(["--log-level", "warn"])
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .context("could not start the daemon")
}

/// Returns a client of the daemon that listens there.
///
/// # Errors
/// Those of connecting.
pub(crate) fn connect(socket: &Path) -> anyhow::Result<Client> {
    Ok(Client::builder()
        .socket(socket)
        .label("goumem-bench")
        .connect()?)
}

fn socket_in(directory: &TempDir) -> PathBuf {
    directory.path().join("goumemd.sock")
}

/// Is goumemd, until stdin ends: whoever started it has gone then.
pub(crate) fn become_daemon(args: impl Iterator<Item = OsString>) -> ExitCode {
    std::thread::spawn(|| {
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
        #[expect(clippy::exit, reason = "nobody is left to be told")]
        std::process::exit(1);
    });
    goumemd::cli_main(args)
}
