//! The program in a terminal of its own, which remembers everything it was told to show.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use harness::sys::{open_terminal, terminal_modes};
use harness::{PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::run::program;

/// A running program. It is killed with this value if it has not ended.
pub(crate) struct InTerminal {
    child: Child,
    /// Where keys are pressed.
    keys: File,
    /// The program's side, kept open so that its modes can be looked at.
    screen: OwnedFd,
    modes_before: [u32; 4],
    shown: Arc<Mutex<Vec<u8>>>,
}

impl InTerminal {
    pub(crate) fn start(socket: &Path, line: &str, columns: u16, rows: u16) -> Self {
        let (master, slave) = open_terminal(columns, rows).unwrap();
        let modes_before = terminal_modes(slave.as_fd()).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = program()
            .arg("--socket")
            .arg(socket)
            .args(line.split_whitespace())
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&shown);
        // Ends when both sides of the terminal are closed.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self {
            child,
            keys,
            screen: slave,
            modes_before,
            shown,
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Returns everything that it has shown so far.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Forgets what it has shown so far.
    pub(crate) fn forget(&self) {
        self.shown.lock().unwrap().clear();
    }

    /// Waits until it shows something.
    pub(crate) fn until_it_shows(&self, text: &str) {
        eventually(PATIENCE, &format!("the screen shows {text:?}"), || {
            self.shown().contains(text)
        });
    }

    /// Waits for its end, and looks that the terminal is as it was.
    pub(crate) fn ends_cleanly(&mut self) -> ExitStatus {
        let mut status = None;
        eventually(PATIENCE, "the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        for (what, sequence) in [
            ("the other screen is left", "\u{1b}[?1049l"),
            ("the cursor is back", "\u{1b}[?25h"),
        ] {
            eventually(PATIENCE, what, || self.shown().contains(sequence));
        }
        let modes = terminal_modes(self.screen.as_fd()).unwrap();
        assert_eq!(modes, self.modes_before, "the terminal's modes");
        status.unwrap()
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the terminal was told: {:?}", self.shown());
        }
    }
}
