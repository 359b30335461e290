//! The demo's own daemon: this program again, as `goumemctl daemon`. It lives in a directory that
//! it makes and removes, and ends when its stdin closes: so it never outlives the demo, however
//! that ends.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use goumemd::logging::{LogConfig, LogFormat};
use goumemd::{Config, Listeners};
use tokio_util::sync::CancellationToken;

use crate::error::Failure;
use crate::output::Output;

/// How long it may take to start and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody but the demo calls, and the demo has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// Is the daemon, until stdin closes. Says on stdout where its socket is.
pub(crate) fn serve() -> Result<Output, Failure> {
    serve_here().map_err(Failure::from)?;
    Ok(Output::Nothing)
}

fn serve_here() -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("goumem-demo-").tempdir()?;
    let level = "warn".parse().expect("a level");
    goumemd::logging::init(LogConfig {
        level,
        format: LogFormat::Compact,
    })?;
    let mut config = Config::private(directory.path());
    config.drain_deadline = DRAIN_DEADLINE;
    // What the machine can spare, not half of what it has.
    config.limits.budget_bytes = Some(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let _guard = runtime.enter();
    let listeners = Listeners::bind(&config)?;
    let socket = listeners
        .socket()
        .to_str()
        .context("directory's name is not UTF-8")?;
    writeln!(io::stdout(), "{socket}")?;
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    thread::spawn(move || {
        // The demo says nothing: it closes the pipe, or dies.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        ended.cancel();
    });
    runtime.block_on(goumemd::run(config, listeners, shutdown))?;
    Ok(())
}

/// A daemon that runs for as long as this value.
#[derive(Debug)]
pub(crate) struct PrivateDaemon {
    child: Child,
    /// Closing it ends the daemon.
    stdin: Option<ChildStdin>,
    socket: PathBuf,
}

impl PrivateDaemon {
    /// Starts it, and waits until it listens.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("daemon")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is for the demo, whose end this sees.
            .process_group(0)
            .spawn()
            .context("could not start the demo's daemon")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("child has no stdout")?;
        // A value from here on, so that an error below ends the child.
        let mut daemon = Self {
            child,
            stdin,
            socket: PathBuf::new(),
        };
        let (said, hears) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = said.send(read.map(|_| line));
        });
        let line = hears
            .recv_timeout(PATIENCE)
            .context("demo's daemon has not started")??;
        if line.is_empty() {
            let status = daemon.child.wait()?;
            bail!("demo's daemon has ended at its start: {status}");
        }
        daemon.socket = PathBuf::from(line.trim_end());
        Ok(daemon)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        wait(&mut self.child, Instant::now() + PATIENCE).and_then(|status| match status.success() {
            true => Ok(()),
            false => Err(anyhow!("demo's daemon has failed: {status}")),
        })
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("goumemctl: {error:#}");
            let _ = self.child.kill();
            let _ = self.child.wait();
            // It could not do so itself.
            if let Some(directory) = self.socket.parent().filter(|path| path.is_absolute()) {
                let _ = std::fs::remove_dir_all(directory);
            }
        }
    }
}

/// Waits for the end of a process until `deadline`.
pub(super) fn wait(
    child: &mut Child,
    deadline: Instant,
) -> anyhow::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("process {} has not ended", child.id());
        }
        thread::sleep(Duration::from_millis(2));
    }
}
