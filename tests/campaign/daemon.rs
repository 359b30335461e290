//! The daemon's process, and what happens to it: the nemesis kills it and starts the next one on
//! the same files, kills its keeper, stops it for a while, and fills `/dev/shm`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::Random;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::keeper;
use crate::report::Report;
use crate::team::command;
use crate::wire::Wrong;

/// The hidden role of the daemon's process.
pub(crate) const ROLE: &str = "role-daemon";
/// How long a start may take, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an end may take at the end of the campaign.
const MAX_END: Duration = Duration::from_secs(5);

/// Becomes goumemd, from its command line on; ends when standard input closes, so that neither it
/// nor its keeper is left if the campaign is killed.
pub(crate) fn run(args: Vec<String>) -> ExitCode {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        // An interrupt leaves nothing to a next daemon.
        let _ = kill_process(rustix::process::getpid(), Signal::INT);
        thread::sleep(MAX_END);
        #[expect(clippy::exit, reason = "the campaign that wanted this process is over")]
        std::process::exit(0);
    });
    let args = ["goumemd".to_owned()].into_iter().chain(args);
    goumemd::cli_main(args.map(Into::into))
}

/// Where the daemon is, and which process is it now.
#[derive(Debug)]
pub(crate) struct Daemon {
    directory: TempDir,
    process: Mutex<Process>,
}

/// The daemon's process. Who has the lock on it decides whether it lives.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Daemon {
    /// Starts one in a directory of its own.
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("gm").tempdir()?;
        let process = Mutex::new(Process::start(directory.path())?);
        Ok(Self { directory, process })
    }

    /// Returns the path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    /// Keeps the nemesis from doing anything to it.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the lines of its log that say that something is wrong: errors, panics, words that
    /// nobody vouches for.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = fs::read_to_string(log_in(self.directory.path())).unwrap_or_default();
        let is_one = |line: &&str| {
            ["ERROR", "panicked", "forged", "quarantine"]
                .iter()
                .any(|word| line.contains(word))
        };
        log.lines().filter(is_one).map(str::to_owned).collect()
    }

    /// Notes if it has ended by itself.
    pub(crate) fn check(&self, report: &Report) -> Result<()> {
        // Whoever holds it knows how it is.
        if let Ok(mut process) = self.process.try_lock()
            && let Ok(Some(status)) = process.child.try_wait()
        {
            report.wrong(Wrong::Error, format!("goumemd has ended: {status}"));
            bail!("goumemd has ended by itself");
        }
        Ok(())
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("goumemd.sock")
}

fn log_in(directory: &Path) -> PathBuf {
    directory.join("goumemd.log")
}

impl Process {
    fn start(directory: &Path) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_in(directory))?;
        let socket = socket_in(directory);
        let child = command(ROLE)?
            .arg("--listen")
            .arg(&socket)
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--log-level", "warn", "--log-format", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start goumemd")?;
        let mut process = Self { child };
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("goumemd has ended at its start: {status}");
            }
            if start.elapsed() > PATIENCE {
                bail!("goumemd does not listen");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(process)
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the pid is its own.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut process = self.hold();
        process.signal(Signal::INT);
        let start = Instant::now();
        while start.elapsed() < MAX_END && matches!(process.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        process.kill();
        keeper::end(self.directory.path());
    }
}

/// What may be done to the daemon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nemesis {
    pub(crate) seed: u64,
    /// Whether it may be killed.
    pub(crate) kills: bool,
    /// Whether `/dev/shm` is the campaign's own, to be filled.
    pub(crate) fills_dev_shm: bool,
}

impl Nemesis {
    /// Does one thing after the other to the daemon until told to stop.
    pub(crate) fn run(self, daemon: &Daemon, report: &Report, over: &dyn Fn() -> bool) {
        let mut random = Random::new(self.seed);
        while !over() {
            pause(random.below(1_000) + 50, over);
            if over() {
                return;
            }
            let mut process = daemon.hold();
            if let Err(error) = self.act(&mut process, daemon, report, &mut random) {
                report.wrong(Wrong::Error, format!("{error:#}"));
                return;
            }
        }
    }

    fn act(
        self,
        process: &mut Process,
        daemon: &Daemon,
        report: &Report,
        random: &mut Random,
    ) -> Result<()> {
        match random.below(8) {
            0 | 1 => {
                process.signal(Signal::STOP);
                report.stops.add(1);
                thread::sleep(Duration::from_millis(random.below(400)));
                process.signal(Signal::CONT);
            }
            2 if self.fills_dev_shm => fill_dev_shm(Duration::from_millis(random.below(400))),
            3 if self.kills => {
                match keeper::kill(daemon.directory.path(), Pid::from_child(&process.child)) {
                    Ok(true) => report.kills_keeper.add(1),
                    Ok(false) => {}
                    Err(what) => report.wrong(Wrong::Error, what),
                }
            }
            _ if self.kills => {
                process.kill();
                report.kills_daemon.add(1);
                thread::sleep(Duration::from_millis(random.below(300)));
                *process = Process::start(daemon.directory.path())?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn pause(ms: u64, over: &dyn Fn() -> bool) {
    let end = Instant::now() + Duration::from_millis(ms);
    while Instant::now() < end && !over() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Leaves no room in `/dev/shm` for a while.
fn fill_dev_shm(time: Duration) {
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else {
        return;
    };
    let mut end = 0;
    let mut piece: u64 = 1 << 20;
    // Smaller and smaller pieces, until not even a page fits.
    while piece >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, piece) {
            Ok(()) => end += piece,
            Err(_) => piece /= 2,
        }
    }
    thread::sleep(time);
}
