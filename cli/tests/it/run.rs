//! Runs the program to its end.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Returns what it printed, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// Returns the program with nothing of this process's environment that it heeds.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_goumemctl"));
    for name in ["GOUMEM_SOCKET", "XDG_RUNTIME_DIR", "NO_COLOR", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

/// Runs it with that command line, and that on its standard input.
pub(crate) fn goumemctl_with(socket: &Path, line: &str, input: &[u8]) -> Outcome {
    let mut child = program()
        .arg("--socket")
        .arg(socket)
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The same without input.
pub(crate) fn goumemctl(socket: &Path, line: &str) -> Outcome {
    goumemctl_with(socket, line, &[])
}
