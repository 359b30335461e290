//! The demo's processes, as the demo sees them: started, told what to do on stdin, heard on
//! stdout, and ended by their pid whatever happens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::daemon::wait;
use super::worker::{Order, Report};

/// How long a process may take to end once its stdin is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Processes that work on one thing. They are killed when it is dropped.
#[derive(Debug)]
pub(super) struct Team<'a> {
    socket: &'a Path,
    members: Vec<Member>,
    /// What member says; `None`: its stdout is closed.
    says: Sender<(usize, Option<String>)>,
    hears: Receiver<(usize, Option<String>)>,
}

#[derive(Debug)]
struct Member {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl<'a> Team<'a> {
    pub(super) fn new(socket: &'a Path) -> Self {
        let (says, hears) = mpsc::channel();
        Self {
            socket,
            members: Vec::new(),
            says,
            hears,
        }
    }

    /// Starts a worker: this program again, with the arguments of `goumemctl worker`.
    pub(super) fn start(&mut self, args: &[&str]) -> anyhow::Result<usize> {
        let index = self.members.len();
        let name = args.first().copied().unwrap_or("worker");
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--socket")
            .arg(self.socket)
            .arg("worker")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start a {name}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let name = format!("{name} {}", child.id());
        self.members.push(Member { name, child, stdin });
        let says = self.says.clone();
        let stdout = stdout.context("child has no stdout")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = says.send((index, Some(line)));
            }
            let _ = says.send((index, None));
        });
        Ok(index)
    }

    /// Tells one of them something.
    pub(super) fn tell(&mut self, index: usize, order: &Order) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let stdin = member.stdin.as_mut().context("stdin is closed")?;
        stdin
            .write_all(&line)
            .with_context(|| format!("could not reach {}", member.name))
    }

    /// Waits for the next one who says something. One who ends unasked is an error.
    pub(super) fn hear(&mut self, deadline: Instant) -> anyhow::Result<(usize, Report)> {
        let patience = deadline.saturating_duration_since(Instant::now());
        let (index, line) = self
            .hears
            .recv_timeout(patience)
            .context("no worker has said anything in time")?;
        let member = &mut self.members[index];
        let Some(line) = line else {
            let status = wait(&mut member.child, Instant::now() + PATIENCE)?;
            bail!("{} has ended by itself: {status}", member.name);
        };
        let report = serde_json::from_str(&line)
            .with_context(|| format!("{} says {line:?}", member.name))?;
        Ok((index, report))
    }

    /// Waits until each has said that it is ready.
    pub(super) fn all_ready(&mut self, deadline: Instant) -> anyhow::Result<()> {
        for _ in 0..self.members.len() {
            match self.hear(deadline)? {
                (_, Report::Ready) => {}
                (index, report) => bail!("{} says {report:?} too early", self.members[index].name),
            }
        }
        Ok(())
    }

    /// Kills one of them: SIGKILL, from which nothing can be cleaned up.
    pub(super) fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        Ok(self.members[index].child.kill()?)
    }

    /// Lets them end by closing their stdin, and waits until they have.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            drop(member.stdin.take());
        }
        let deadline = Instant::now() + PATIENCE;
        for member in &mut self.members {
            let status = wait(&mut member.child, deadline)?;
            if !status.success() {
                bail!("{} has failed: {status}", member.name);
            }
        }
        Ok(())
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        for member in &mut self.members {
            // By its pid, which is its own until it is waited for. It may have ended already.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}
