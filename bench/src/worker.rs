//! Processes and threads that do what is measured, two at a time. A worker process is this program
//! once more; it does a round for each line on its standard input, and answers with a line. It
//! ends when its standard input does, and so also when whoever started it is killed.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::timing::Run;
use crate::{arena_2p, handoff, mixed, recovery};

/// Makes this program a worker, if it is the first argument. Not for people.
pub(crate) const SUBCOMMAND: &str = "become-worker";

/// How long one may take to end once it is told to.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Does the round that a line asks for; returns what was measured.
pub(crate) type Serve = Box<dyn FnMut(&str) -> anyhow::Result<f64>>;

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one, and waits until it is ready. What `role` and `args` mean, [`serve`] says.
    ///
    /// # Errors
    /// What the OS says; what the worker says.
    pub(crate) fn start(role: &str, args: &[OsString]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("could not find this program")?;
        let mut command = Command::new(program);
        command.args([SUBCOMMAND, role]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("could not start a worker")?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().context("a worker without a pipe")?;
        let stdout = BufReader::new(stdout);
        let mut worker = Self {
            process,
            stdin,
            stdout,
        };
        worker.answer().context("a worker does not start")?;
        Ok(worker)
    }

    /// Lets it begin a round.
    ///
    /// # Errors
    /// That it is gone.
    pub(crate) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("a worker that was ended")?;
        writeln!(stdin, "{line}").context("could not write to a worker")
    }

    /// Waits for the end of its round; returns what was measured.
    ///
    /// # Errors
    /// What the worker says; that it is gone.
    pub(crate) fn answer(&mut self) -> anyhow::Result<f64> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line);
        if length.context("could not read from a worker")? == 0 {
            bail!("a worker has ended");
        }
        let line = line.trim_end();
        line.parse()
            .map_err(|_| anyhow!("a worker's answer: {line}"))
    }
}

impl Worker {
    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// What the OS says.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It leaves nothing behind if it ends by itself.
        let deadline = Instant::now() + END_DEADLINE;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two worker processes.
#[derive(Debug)]
pub(crate) struct TwoWorkers(pub(crate) [Worker; 2]);

impl TwoWorkers {
    /// Has both do a round at the same time; returns what each measured.
    ///
    /// # Errors
    /// The first of the two.
    pub(crate) fn round(&mut self, line: &str) -> anyhow::Result<[f64; 2]> {
        let [a, b] = &mut self.0;
        a.tell(line)?;
        b.tell(line)?;
        Ok([a.answer()?, b.answer()?])
    }
}

/// Two threads that do rounds, to be measured beside two processes.
#[derive(Debug)]
pub(crate) struct TwoThreads([RunThread; 2]);

#[derive(Debug)]
struct RunThread {
    go: Option<Sender<()>>,
    done: Receiver<anyhow::Result<f64>>,
    thread: Option<JoinHandle<()>>,
}

impl TwoThreads {
    /// Starts them. Each prepares its run itself.
    ///
    /// # Errors
    /// What the OS says; the first error of preparing.
    pub(crate) fn start(
        prepare: impl Fn() -> anyhow::Result<Run<'static>> + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let first = RunThread::start(prepare.clone())?;
        Ok(Self([first, RunThread::start(prepare)?]))
    }

    /// Has both do a round at the same time; returns what each measured.
    ///
    /// # Errors
    /// The first of the two.
    pub(crate) fn round(&mut self) -> anyhow::Result<[f64; 2]> {
        for thread in &self.0 {
            let go = thread.go.as_ref().context("a thread that was ended")?;
            go.send(()).context("a thread has ended")?;
        }
        let [a, b] = &self.0;
        Ok([a.done.recv()??, b.done.recv()??])
    }
}

impl RunThread {
    fn start(
        prepare: impl FnOnce() -> anyhow::Result<Run<'static>> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (go, told) = channel();
        let (tell, done) = channel();
        let body = move || {
            let mut run = match prepare() {
                Ok(run) => run,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(0.0));
            while told.recv().is_ok() && tell.send(run()).is_ok() {}
        };
        let thread = std::thread::Builder::new().spawn(body)?;
        done.recv()??;
        Ok(Self {
            go: Some(go),
            done,
            thread: Some(thread),
        })
    }
}

impl Drop for RunThread {
    fn drop(&mut self) {
        drop(self.go.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Is a worker, until stdin ends.
///
/// # Errors
/// What goes wrong before it is ready, or with its pipes.
pub(crate) fn become_worker(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let args: Vec<OsString> = args.collect();
    let mut serve = serve(&args)?;
    say("0")?;
    for line in std::io::stdin().lines() {
        match serve(&line?) {
            Ok(measured) => say(&measured.to_string())?,
            Err(error) => say(&format!("{error:#}"))?,
        }
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Prepares what a role does.
fn serve(args: &[OsString]) -> anyhow::Result<Serve> {
    let (role, args) = args.split_first().context("a worker without a role")?;
    match role.to_str() {
        Some(mixed::ROLE) => mixed::serve(args),
        Some(mixed::overhead::ROLE) => mixed::overhead::serve(args),
        Some(arena_2p::ROLE) => arena_2p::serve(args),
        Some(handoff::SENDER) => handoff::serve_sender(args),
        Some(handoff::RECEIVER) => handoff::serve_receiver(args),
        Some(recovery::sweep::ROLE) => recovery::sweep::hold(args),
        _ => bail!("no such role: {}", role.display()),
    }
}
