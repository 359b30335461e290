//! The worker processes, and the pipes to and from them. Nothing here waits for a worker: one that
//! is stopped, or slow, is in nobody's way.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process};

use crate::wire::{Belongings, News, Order};

/// A worker with more orders than this unread gets no more tokens.
const MAX_UNREAD_BYTES: usize = 16 << 10;

/// A worker process, as the director sees it. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: u16,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    /// Its sessions, once it has said so.
    pub(crate) sessions: Vec<(u16, u64)>,
    /// What its threads have said since the last `Pause` or `Drain`.
    pub(crate) paused: Vec<Belongings>,
    pub(crate) stopped_until: Option<Instant>,
}

/// Returns the command that runs this program in another role.
pub(crate) fn command(role: &str) -> Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command
        .arg(role)
        .env_remove("GOUMEM_SOCKET")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_STATE_HOME");
    Ok(command)
}

impl Worker {
    /// Starts one: `ROLE SOCKET ID SEED`.
    pub(crate) fn start(role: &str, socket: &Path, id: u16, seed: u64) -> Result<Self> {
        let mut child = command(role)?
            .arg(socket)
            .arg(id.to_string())
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a worker")?;
        let stdin = child.stdin.take().context("a worker's standard input")?;
        let stdout = child.stdout.take().context("a worker's standard output")?;
        ioctl_fionbio(&stdin, true)?;
        ioctl_fionbio(&stdout, true)?;
        Ok(Self {
            id,
            child,
            stdin,
            stdout,
            unsent: Vec::new(),
            unread: Vec::new(),
            sessions: Vec::new(),
            paused: Vec::new(),
            stopped_until: None,
        })
    }

    /// Returns whether it has said hello and can take a token.
    pub(crate) fn is_ready(&self) -> bool {
        !self.sessions.is_empty() && self.unsent.len() < MAX_UNREAD_BYTES
    }

    /// Returns whether all of its threads stand still.
    pub(crate) fn stands_still(&self) -> bool {
        self.paused
            .first()
            .is_some_and(|first| self.paused.len() as u64 == first.threads)
    }

    /// Tells it something, as soon as it listens.
    pub(crate) fn tell(&mut self, order: &Order) {
        self.unsent
            .extend_from_slice(format!("{order}\n").as_bytes());
        self.send();
    }

    fn send(&mut self) {
        while !self.unsent.is_empty() {
            match self.stdin.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It is slow, or has died, which is seen elsewhere.
                Err(_) => return,
            }
        }
    }

    /// Reads what it has told.
    fn read(&mut self) -> Vec<Result<News, String>> {
        let mut piece = [0; 16 << 10];
        loop {
            match self.stdout.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => self.unread.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let Some(end) = self.unread.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.unread.drain(..=end).collect();
        String::from_utf8_lossy(&whole)
            .lines()
            .map(|line| line.parse().map_err(|error| format!("{line:?}: {error}")))
            .collect()
    }

    /// Returns how it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stops it for a while.
    pub(crate) fn stop(&mut self, time: Duration) {
        self.signal(Signal::STOP);
        self.stopped_until = Some(Instant::now() + time);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self) {
        if self.stopped_until.take().is_some() {
            self.signal(Signal::CONT);
        }
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the pid is its own. If it has died it does not mind.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it and returns what it had told last.
    pub(crate) fn kill(mut self) -> Vec<Result<News, String>> {
        // It fails if it is dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a worker has something to tell, or time is up; returns what was told, by whom.
pub(crate) fn listen(
    workers: &mut [Worker],
    time: Duration,
) -> Result<Vec<(u16, Result<News, String>)>> {
    let mut fds = Vec::new();
    for worker in workers.iter() {
        fds.push(PollFd::new(&worker.stdout, PollFlags::IN));
        if !worker.unsent.is_empty() {
            fds.push(PollFd::new(&worker.stdin, PollFlags::OUT));
        }
    }
    let timeout = Timespec::try_from(time).context("a time to wait")?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error).context("wait for workers"),
    }
    drop(fds);
    let mut told = Vec::new();
    for worker in workers {
        worker.send();
        let id = worker.id;
        told.extend(worker.read().into_iter().map(|news| (id, news)));
    }
    Ok(told)
}
