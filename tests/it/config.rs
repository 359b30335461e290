//! The configuration as an operator meets it: `goumemd config`, a file, SIGHUP, declared pools and
//! the log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use goumem::Reason;
use goumem_proto::v1;
use harness::{DaemonProcess, PATIENCE, Setup, call, eventually};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

/// A configuration file that changes.
struct ConfigFile {
    path: PathBuf,
    _directory: TempDir,
}

impl ConfigFile {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = Self {
            path: directory.path().join("goumemd.toml"),
            _directory: directory,
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    fn flags(&self) -> [&str; 4] {
        [
            "--config",
            self.path.to_str().unwrap(),
            "--log-format",
            "json",
        ]
    }
}

/// Starts a daemon whose level of the log is the file's to say.
fn start(file: &ConfigFile) -> Result<DaemonProcess, String> {
    let flags = [&file.flags()[..], &["--log-level", "info"]].concat();
    DaemonProcess::start_with(PUPPETS, &Setup::default(), &flags)
}

/// Sends SIGHUP, and waits until that was dealt with.
fn reload(daemon: &mut DaemonProcess) {
    let ends =
        |log: &str| log.matches("\"reloaded\"").count() + log.matches("reload refused").count();
    let before = ends(&daemon.log());
    daemon.puppet().signal(Signal::HUP);
    eventually(PATIENCE, "it has reloaded", || ends(&daemon.log()) > before);
}

/// Runs goumemd to its end.
fn goumemd(args: &[&str]) -> Output {
    let mut command = Command::new(PUPPETS.binary);
    command.args(["daemon", "--"]).args(args);
    for variable in ["GOUMEM_SOCKET", "GOUMEM_CONFIG", "XDG_RUNTIME_DIR"] {
        command.env_remove(variable);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A puppet ends with its standard input.
    let stdin = child.stdin.take();
    let mut output = child.wait_with_output().unwrap();
    drop(stdin);
    if let Some(said) = output.stdout.strip_prefix(b"ready\n") {
        output.stdout = said.to_vec();
    }
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn check_ends_with_0_or_says_all_and_ends_with_64() {
    let file = ConfigFile::new("");
    let path = file.path.to_str().unwrap();
    let default = goumemd(&["config", "default"]);
    assert_eq!(default.status.code(), Some(0));
    file.write(text(&default.stdout));
    let checked = goumemd(&["config", "check", path]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert_eq!(text(&checked.stdout), format!("{path} is in order\n"));

    file.write("[limits]\nmax_sesions = 5\nbudget = \"much\"\n");
    for args in [&["config", "check", path][..], &["--config", path]] {
        let refused = goumemd(args);
        assert_eq!(refused.status.code(), Some(64), "{refused:?}");
        assert_eq!(
            text(&refused.stderr),
            format!(
                "goumemd: {path}:2: there is no key limits.max_sesions; did you mean \
                 limits.max_sessions?\n\
                 goumemd: {path}:3: limits.budget is \"much\", expected a size, as \"64MiB\"\n"
            )
        );
        assert_eq!(text(&refused.stdout), "");
    }
    let unknown = goumemd(&["config", "explain", "limits.bugdet"]);
    assert_eq!(unknown.status.code(), Some(64));
    assert_eq!(
        text(&unknown.stderr),
        "goumemd: could not configure goumemd: there is no key limits.bugdet; did you mean \
         limits.budget?\n"
    );
}

#[test]
fn limits_and_level_of_a_running_daemon_change_at_sighup() {
    let file = ConfigFile::new("[limits]\nmax_pools = 1\nquota_per_user = \"1MiB\"\n");
    let mut daemon = DaemonProcess::start_with(PUPPETS, &Setup::default(), &file.flags()).unwrap();
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("a", 4 * MIB);
    let create = |name: &str| {
        call!(
            rpc,
            pools.create(v1::CreatePoolRequest {
                name: name.to_owned(),
                capacity_bytes: MIB,
                ..Default::default()
            })
        )
    };
    assert_eq!(create("b").unwrap_err().reason, Reason::TooManyPools);
    let refused = rpc.alloc(pool, 2 * MIB).unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);

    // The harness's --log-level error has the last word over the file.
    file.write(
        "[limits]\nmax_pools = 2\nquota_per_user = \"1GiB\"\nbudget = \"0\"\n\
         [listen]\nmax_connections = 7\n[log]\nlevel = \"trace\"\n",
    );
    daemon.puppet().signal(Signal::HUP);
    eventually(PATIENCE, "the limit is two", || {
        rpc.info().budget_limit_bytes == 0
    });
    assert_eq!(create("b").unwrap_err().reason, Reason::BudgetExhausted);
    file.write("[limits]\nmax_pools = 2\n");
    daemon.puppet().signal(Signal::HUP);
    eventually(PATIENCE, "the budget is back", || {
        rpc.info().budget_limit_bytes > 0
    });
    create("b").unwrap();
    assert_eq!(create("c").unwrap_err().reason, Reason::TooManyPools);
    daemon.is_well();
}

#[test]
fn reload_logs_both_values_and_what_needs_a_restart() {
    let file = ConfigFile::new("[limits]\nmax_pools = 1\n");
    let mut daemon = start(&file).unwrap();
    file.write("[limits]\nmax_pools = 2\n[listen]\nmax_connections = 7\n");
    reload(&mut daemon);
    let log = daemon.log();
    let line = |part: &str| {
        let found = log.lines().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("{part} is missing: {log}"))
    };
    let taken = line("\"key\":\"limits.max_pools\"");
    assert!(
        taken.contains(r#""message":"configuration changed""#),
        "{taken}"
    );
    assert!(taken.contains(r#""from":"1","to":"2""#), "{taken}");
    let left = line("\"key\":\"listen.max_connections\"");
    assert!(left.contains("needs a restart"), "{left}");
    assert!(left.contains(r#""from":"4096","to":"7""#), "{left}");

    file.write("[limits]\nmax_pools = 0\nmax_session = 1\n");
    reload(&mut daemon);
    let log = daemon.log();
    for said in [
        "goumemd.toml:2: limits.max_pools is 0, expected a number, at least 1",
        "goumemd.toml:3: there is no key limits.max_session; did you mean limits.max_sessions?",
        "reload refused: nothing has changed",
    ] {
        assert!(log.contains(said), "{said} is missing: {log}");
    }
    daemon.is_well();
}

#[test]
fn level_of_the_log_changes_at_sighup() {
    let file = ConfigFile::new("[log]\nlevel = \"info\"\n");
    let place = Place::new();
    let daemon = OwnDaemon::start(&file, &place.socket).unwrap();
    let rpc = harness::Rpc::open(&place.socket);
    let refused = || {
        let name = "nowhere".to_owned();
        call!(rpc, pools.stat(v1::StatPoolRequest { name })).unwrap_err()
    };
    refused();
    assert!(
        !daemon.said("call refused"),
        "that is for the level of debug"
    );
    file.write("[log]\nlevel = \"debug\"\n");
    daemon.signal(Signal::HUP);
    eventually(PATIENCE, "it has reloaded", || daemon.said("\"reloaded\""));
    refused();
    eventually(PATIENCE, "the refusal is logged", || {
        daemon.said("call refused")
    });
}

#[test]
fn declared_pools_are_there_from_the_start_and_after_a_restart() {
    let file = ConfigFile::new(
        "[pools.frames]\ncapacity = \"64MiB\"\nmode = \"0640\"\n\
         [arena_pools.batches]\narenas = 4\narena_size = \"64KiB\"\n",
    );
    let place = Place::new();
    let mut daemon = OwnDaemon::start(&file, &place.socket).unwrap();
    let rpc = harness::Rpc::open(&place.socket);
    let stat = |name: &str| {
        let name = name.to_owned();
        call!(rpc, pools.stat(v1::StatPoolRequest { name }))
    };
    let frames = stat("frames").unwrap().pool.unwrap();
    assert_eq!(frames.capacity_bytes, 64 * MIB);
    let permissions = frames.permissions.unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!((permissions.uid, permissions.mode), (own, 0o640));
    assert_eq!(rpc.arena_stat("batches").free, 4);

    // New ones come at SIGHUP; what has gone or is otherwise stays.
    file.write(
        "[pools.frames]\ncapacity = \"32MiB\"\nmode = \"0640\"\n[pools.more]\ncapacity = \"1MiB\"\n",
    );
    daemon.signal(Signal::HUP);
    eventually(PATIENCE, "the new pool is there", || stat("more").is_ok());
    eventually(PATIENCE, "it has reloaded", || daemon.said("\"reloaded\""));
    assert_eq!(
        stat("frames").unwrap().pool.unwrap().capacity_bytes,
        64 * MIB
    );
    assert_eq!(rpc.arena_stat("batches").free, 4);
    for said in [
        r#""pool":"frames","declared_bytes":33554432,"capacity_bytes":67108864"#,
        r#""message":"pool is not declared any more, or otherwise: it stays as it is","pool":"batches""#,
    ] {
        assert!(daemon.said(said), "{said} is missing: {}", daemon.log());
    }

    // The next daemon finds them, ids and all, and creates none.
    daemon.kill();
    let _daemon = OwnDaemon::start(&file, &place.socket).unwrap();
    let rpc = harness::Rpc::open(&place.socket);
    let name = "frames".to_owned();
    let again = call!(rpc, pools.stat(v1::StatPoolRequest { name })).unwrap();
    assert_eq!(again.pool.unwrap().pool_id, frames.pool_id);
    assert_eq!((rpc.info().pools, rpc.info().arena_pools), (2, 1));
}

#[test]
fn declared_pool_that_exists_otherwise_is_an_error_at_the_start() {
    let file = ConfigFile::new("[arena_pools.batches]\narenas = 4\narena_size = \"64KiB\"\n");
    let place = Place::new();
    let mut daemon = OwnDaemon::start(&file, &place.socket).unwrap();
    daemon.kill();
    for (text, why) in [
        (
            "[arena_pools.batches]\narenas = 5\narena_size = \"64KiB\"\n",
            "could not provide pool batches of the configuration: pool batches has arenas 4, not 5",
        ),
        (
            "[pools.batches]\ncapacity = \"1MiB\"\n",
            "could not provide pool batches of the configuration: pool batches has kind arenas, \
             not blocks",
        ),
    ] {
        file.write(text);
        let log = OwnDaemon::start(&file, &place.socket).unwrap_err();
        assert!(log.contains(why), "{log}");
    }
    // Nothing is lost by that.
    file.write("");
    let _daemon = OwnDaemon::start(&file, &place.socket).unwrap();
    assert_eq!(
        harness::Rpc::open(&place.socket).arena_stat("batches").free,
        4
    );
}

/// Where the daemons of a test are, one after the other. The keeper that they leave ends with it.
struct Place {
    socket: PathBuf,
    _directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            socket: directory.path().join("goumemd.sock"),
            _directory: directory,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let socket = self.socket.to_str().unwrap();
        goumemd(&["--listen", socket, "--drop", "--log-level", "error"]);
    }
}

/// A daemon with a keeper, which the test's own file configures.
#[derive(Debug)]
struct OwnDaemon {
    child: std::process::Child,
    log: PathBuf,
}

impl OwnDaemon {
    /// Returns the log of one that does not start.
    fn start(file: &ConfigFile, socket: &Path) -> Result<Self, String> {
        let log = socket.with_extension("log");
        let child = Command::new(PUPPETS.binary)
            .args(["daemon", "--", "--keeper", "process", "--listen"])
            .arg(socket)
            .args(file.flags())
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Self { child, log };
        let mut ended = false;
        eventually(PATIENCE, "it serves, or has ended", || {
            ended = daemon.child.try_wait().unwrap().is_some();
            ended || daemon.said("\"serving\"")
        });
        if ended { Err(daemon.log()) } else { Ok(daemon) }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn said(&self, what: &str) -> bool {
        self.log().contains(what)
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for OwnDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
