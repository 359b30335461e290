//! `watch`: events come as they happen, also those of the next daemon.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use goumem::PoolOptions;
use harness::{PATIENCE, TestDaemon, eventually};
use serde_json::Value;

use crate::run::program;

/// A running `watch -o json`. It is killed with this value.
struct Watching {
    child: Child,
    lines: Receiver<Value>,
}

impl Watching {
    fn start(socket: &Path, args: &[&str]) -> Self {
        let mut child = program()
            .arg("--socket")
            .arg(socket)
            .args(["watch", "-o", "json"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let event = serde_json::from_str(&line.unwrap()).unwrap();
                if said.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Returns the first event from now on that is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(event) if is_so(&event) => return event,
                Ok(_) => {}
                Err(_) => {
                    // It has ended, or is killed here so that what it said is whole.
                    let _ = self.child.kill();
                    let mut stderr = String::new();
                    let stream = self.child.stderr.take().unwrap();
                    let _ = BufReader::new(stream).read_to_string(&mut stderr);
                    panic!("no event: {what}; it said: {stderr}");
                }
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is(kind: &str) -> impl Fn(&Value) -> bool {
    move |event| event["kind"] == kind
}

#[test]
fn events_come_as_they_happen_also_those_of_the_next_daemon() {
    let daemon = TestDaemon::start();
    let socket = daemon.socket().to_owned();
    let mut watch = Watching::start(&socket, &[]);
    let client = daemon.client();
    // Until the watch is in place, pools are created whose creation nobody sees.
    let mut n = 0;
    eventually(PATIENCE, "a creation is seen", || {
        n += 1;
        let name = format!("p{n}");
        client
            .create_pool(&name, PoolOptions::new(1 << 20))
            .unwrap();
        watch
            .lines
            .try_iter()
            .any(|event| is("pool_created")(&event))
    });
    client.destroy_pool("p1").unwrap();
    let destroyed = watch.until("p1 is destroyed", is("pool_destroyed"));
    assert_eq!(destroyed["pool"], "p1");
    client.close().unwrap();
    let ended = watch.until("the client has ended", is("session_ended"));
    assert_eq!(ended["pid"], std::process::id());
    let daemon = daemon.restart();
    watch.until("the next daemon is there", is("watching"));
    let client = daemon.client();
    client
        .create_pool("afterwards", PoolOptions::new(1 << 20))
        .unwrap();
    let created = watch.until("a creation in the next daemon", is("pool_created"));
    assert_eq!(created["pool"], "afterwards");
}

#[test]
fn only_the_kinds_that_were_asked_for_and_as_many() {
    let daemon = TestDaemon::start();
    let args = ["--kind", "pool_destroyed", "--count", "1"];
    let mut watch = Watching::start(daemon.socket(), &args);
    let client = daemon.client();
    // Again and again, until the watch is in place and sees one.
    let mut event = None;
    eventually(PATIENCE, "a destruction is seen", || {
        client.create_pool("p", PoolOptions::new(1 << 20)).unwrap();
        client.destroy_pool("p").unwrap();
        event = watch.lines.try_recv().ok();
        event.is_some()
    });
    assert_eq!(event.unwrap()["kind"], "pool_destroyed");
    eventually(PATIENCE, "it ends by itself", || {
        let status = watch.child.try_wait().unwrap();
        status.is_some_and(|status| status.success())
    });
}
