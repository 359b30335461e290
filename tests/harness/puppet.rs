//! Puppets: processes of the tests' own binary that do what a line on their standard input says
//! and answer with a line, and can be stopped and killed at any moment.

use std::fs::{OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use goumem_shm::os::fd_pass;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait::PATIENCE;

/// Where the puppets' binary is.
#[derive(Debug, Clone, Copy)]
pub struct Puppets {
    /// `env!("CARGO_BIN_EXE_puppet")`.
    pub binary: &'static str,
}

/// What a puppet does before it does anything else.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Becomes this user, with this group and more groups.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Mounts a `/dev/shm` of so many bytes, in a mount namespace of its own.
    pub dev_shm_bytes: Option<u64>,
    /// Limits what it may lock in memory.
    pub memlock_bytes: Option<u64>,
    /// Moves into this cgroup.
    pub cgroup: Option<PathBuf>,
    /// Limits how many files it may have open, hard and soft.
    pub open_files: Option<u64>,
    /// Mounts a disk of so many bytes there, in a mount namespace of its own.
    pub disk: Option<(PathBuf, u64)>,
    /// Where its standard error goes, instead of to the test's.
    pub log: Option<PathBuf>,
    /// Runs in pid, mount, IPC, host-name and network namespaces of its own, as a container does.
    pub container: bool,
}

impl Setup {
    /// A user with one group.
    pub fn user(uid: u32, gid: u32) -> Self {
        Self {
            user: Some((uid, gid, Vec::new())),
            ..Self::default()
        }
    }

    fn args(&self) -> Vec<String> {
        let mut args = Vec::new();
        if let Some(cgroup) = &self.cgroup {
            args.push(format!("--cgroup={}", cgroup.display()));
        }
        if let Some(bytes) = self.dev_shm_bytes {
            args.push(format!("--dev-shm={bytes}"));
        }
        if let Some((path, bytes)) = &self.disk {
            args.push(format!("--disk={bytes}:{}", path.display()));
        }
        if let Some(files) = self.open_files {
            args.push(format!("--open-files={files}"));
        }
        if let Some(bytes) = self.memlock_bytes {
            args.push(format!("--memlock={bytes}"));
        }
        if let Some((uid, gid, groups)) = &self.user {
            let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
            args.push(format!("--user={uid}:{gid}:{}", groups.join(",")));
        }
        args
    }
}

impl Puppets {
    /// Starts a client that has not connected yet.
    pub fn client(self) -> Puppet {
        self.client_with(&Setup::default()).unwrap()
    }

    /// Starts a client as `setup` says.
    ///
    /// # Errors
    /// What the machine does not let it do.
    pub fn client_with(self, setup: &Setup) -> Result<Puppet, String> {
        self.start("client", setup, &[])
    }

    /// Starts a client with a daemon of its own in its process.
    ///
    /// # Errors
    /// What the machine does not let it do.
    pub fn embedded_with(self, setup: &Setup) -> Result<Puppet, String> {
        // The daemon's files lie there, also when the puppet is killed.
        let directory = tempfile::Builder::new().prefix("gm").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let mut command = self.command("client", setup, &[]);
        command.env("TMPDIR", directory.path());
        let mut puppet = Puppet::start(&mut command)?;
        puppet.directory = Some(directory);
        puppet.must("embed");
        Ok(puppet)
    }

    /// Starts goumemd with that command line.
    ///
    /// # Errors
    /// What the machine does not let it do.
    pub fn daemon(self, setup: &Setup, args: &[&str]) -> Result<Puppet, String> {
        self.start("daemon", setup, args)
    }

    /// Starts goumemd with that command line and environment.
    ///
    /// # Errors
    /// What the machine does not let it do.
    pub fn daemon_in(
        self,
        setup: &Setup,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Puppet, String> {
        let mut command = self.command("daemon", setup, args);
        Puppet::start(command.envs(environment.iter().copied()))
    }

    /// The same, with fds that it finds at the numbers from 3 on, as a service manager leaves
    /// them.
    ///
    /// # Errors
    /// What the machine does not let it do.
    ///
    /// # Panics
    /// When the fds cannot be handed over.
    pub fn service(
        self,
        setup: &Setup,
        args: &[&str],
        environment: &[(&str, &str)],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Puppet, String> {
        let directory = tempfile::Builder::new().prefix("gm").tempdir().unwrap();
        let path = directory.path().join("fds");
        let listener = UnixListener::bind(&path).unwrap();
        let args = [&[path.to_str().unwrap()], args].concat();
        let mut command = self.command("service", setup, &args);
        command.envs(environment.iter().copied());
        // Not inherited: other tests start processes at the same time, which would get them too.
        thread::scope(|scope| {
            scope.spawn(|| {
                let (socket, _) = listener.accept().unwrap();
                fd_pass::send(&socket, b"fds", fds).unwrap();
            });
            Puppet::start(&mut command)
        })
    }

    /// Starts a client that allocates, hands over and frees at random.
    pub fn churn(self, args: &[&str]) -> Puppet {
        self.start("churn", &Setup::default(), args).unwrap()
    }

    fn start(self, role: &str, setup: &Setup, args: &[&str]) -> Result<Puppet, String> {
        Puppet::start(&mut self.command(role, setup, args))
    }

    fn command(self, role: &str, setup: &Setup, args: &[&str]) -> Command {
        let mut command = if setup.container {
            let mut command = Command::new("unshare");
            // It dies with the process that stands for it here.
            let own = "--pid --mount --ipc --uts --net --fork --kill-child --mount-proc";
            command.args(own.split(' ')).arg(self.binary);
            command
        } else {
            Command::new(self.binary)
        };
        command
            .arg(role)
            .args(setup.args())
            .arg("--")
            .args(args)
            .env_remove("GOUMEM_SOCKET")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_STATE_HOME")
            .env_remove("NOTIFY_SOCKET");
        if let Some(log) = &setup.log {
            command.stderr(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(log)
                    .unwrap(),
            );
        }
        command
    }
}

/// A child process; killed when it is dropped.
#[derive(Debug)]
pub struct Puppet {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Removed when the process is gone.
    directory: Option<TempDir>,
}

impl Puppet {
    /// Starts the process, and waits until its set-up is done.
    fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Ends with the process, or with whoever holds its standard output.
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut puppet = Self {
            child,
            stdin,
            lines,
            directory: None,
        };
        match puppet.next_line() {
            line if line == "ready" => Ok(puppet),
            line => Err(line),
        }
    }

    /// Tells it what to do, and returns what it answers.
    ///
    /// # Errors
    /// `REASON: message` of what went wrong there.
    pub fn ask(&mut self, command: &str) -> Result<String, String> {
        self.tell(command);
        self.reply()
    }

    /// Tells it what to do, and returns what it answers.
    ///
    /// # Panics
    /// When it could not do it.
    pub fn must(&mut self, command: &str) -> String {
        self.ask(command)
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Tells it what to do, without waiting.
    ///
    /// # Panics
    /// When it is dead.
    pub fn tell(&mut self, command: &str) {
        self.try_tell(command).unwrap();
    }

    /// Tells it what to do, if it lives.
    ///
    /// # Errors
    /// `BrokenPipe` when it is dead.
    pub fn try_tell(&mut self, command: &str) -> std::io::Result<()> {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{command}\n").as_bytes())
    }

    /// Waits for the answer to an earlier command.
    ///
    /// # Errors
    /// `REASON: message` of what went wrong there.
    pub fn reply(&mut self) -> Result<String, String> {
        read_reply(&self.next_line())
    }

    /// Returns the answer to an earlier command, if it comes in time.
    ///
    /// # Panics
    /// When the puppet is dead.
    pub fn reply_within(&mut self, time: Duration) -> Option<Result<String, String>> {
        match self.lines.recv_timeout(time) {
            Ok(line) => Some(read_reply(&line)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("puppet has died"),
        }
    }

    /// Returns a line that it wrote, if one is there.
    pub fn poll_line(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Waits for the next line that it writes.
    ///
    /// # Panics
    /// When there is none.
    pub fn next_line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("puppet says nothing: {error}, {:?}", self.child.try_wait()),
        }
    }

    /// Returns its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether it runs.
    ///
    /// # Panics
    /// When the OS cannot tell.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Returns how it ended, once it has.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        crate::eventually(PATIENCE, "the puppet ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is dead.
    pub fn signal(&self, signal: Signal) {
        // Not reaped yet, so the pid is its own.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends `SIGKILL` and does not wait: it stays a zombie.
    pub fn kill_unreaped(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
    }

    /// Sends `SIGKILL` and waits until it is gone.
    pub fn kill(&mut self) {
        self.kill_unreaped();
        let _ = self.child.wait();
    }

    /// Lets it end by itself, and waits until it has.
    ///
    /// # Panics
    /// When it does not, or with an error.
    pub fn quit(mut self) {
        drop(self.stdin.take());
        let status = self.ended();
        assert!(status.success(), "puppet: {status}");
    }
}

fn read_reply(line: &str) -> Result<String, String> {
    if let Some(error) = line.strip_prefix("error ") {
        return Err(error.to_owned());
    }
    let reply = line
        .strip_prefix("ok")
        .unwrap_or_else(|| panic!("puppet: {line}"));
    Ok(reply.trim_start().to_owned())
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.kill();
    }
}
