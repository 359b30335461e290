//! A whole daemon, asked over its HTTP socket by hand-written requests.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::Config;
use crate::listen::Listeners;
use crate::run::{RunError, run};

/// Longer than anything takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes no time")
}

/// A daemon, and what belongs to it.
struct TestDaemon {
    socket: PathBuf,
    /// Where HTTP is served on TCP.
    address: Option<SocketAddr>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    _directory: tempfile::TempDir,
}

impl TestDaemon {
    fn start(place: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::private(directory.path());
        config.http = place.parse().unwrap();
        let listeners = Listeners::bind(&config).unwrap();
        let http = listeners.http().unwrap_or_default();
        let shutdown = CancellationToken::new();
        Self {
            socket: directory.path().join("goumemd.http.sock"),
            address: http.strip_prefix("http://").map(|at| at.parse().unwrap()),
            running: tokio::spawn(run(config, listeners, shutdown.clone())),
            shutdown,
            _directory: directory,
        }
    }

    async fn unix(&self) -> UnixStream {
        within(UnixStream::connect(&self.socket)).await.unwrap()
    }

    async fn tcp(&self) -> TcpStream {
        let address = self.address.unwrap();
        within(TcpStream::connect(address)).await.unwrap()
    }

    /// Asks on the Unix socket, once the daemon is ready.
    async fn get(&self, path: impl Display) -> Reply {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        loop {
            let reply = ask(self.unix().await, &request).await;
            if reply.status != 503 || !reply.body.contains("recovering") {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Asks on the loopback address.
    async fn send(&self, request: &str) -> Reply {
        ask(self.tcp().await, request).await
    }

    async fn end(self) {
        self.shutdown.cancel();
        within(self.running).await.unwrap().unwrap();
        assert!(!self.socket.exists());
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or_default(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request and reads until the connection's end.
async fn ask(mut socket: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Reply {
    within(async {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).await.unwrap();
        Reply::read(&String::from_utf8_lossy(&reply))
    })
    .await
}

fn request(line: &str, host: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn health_is_told_on_both_kinds_of_socket() {
    for place in ["unix", "127.0.0.1:0"] {
        let daemon = TestDaemon::start(place);
        for path in ["/livez", "/readyz", "/healthz"] {
            let reply = if daemon.address.is_some() {
                let get = request(&format!("GET {path}"), "localhost");
                loop {
                    let reply = daemon.send(&get).await;
                    if reply.body != "recovering\n" {
                        break reply;
                    }
                }
            } else {
                daemon.get(path).await
            };
            assert_eq!((reply.status, &*reply.body), (200, "ok\n"), "{path}");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
        daemon.end().await;
    }
}

#[tokio::test]
async fn ready_says_what_it_waits_for_and_alive_waits_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let stop = CancellationToken::new();
    let http = Http::start(Some(HttpSocket::Unix(socket)), &stop).unwrap();
    let get = async |page: &str| {
        let socket = UnixStream::connect(&path).await.unwrap();
        ask(socket, &request(&format!("GET {page}"), "x")).await
    };
    for (stage, why) in [
        (Stage::Recovering, "recovering\n"),
        (Stage::Draining, "draining\n"),
    ] {
        http.tell(stage);
        for page in ["/readyz", "/healthz"] {
            let reply = get(page).await;
            assert_eq!((reply.status, &*reply.body), (503, why), "{page}");
        }
        assert_eq!(get("/livez").await.status, 200);
    }
    stop.cancel();
    within(http.end()).await;
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let daemon = TestDaemon::start("127.0.0.1:0");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"] {
        let reply = daemon
            .send(&request(&format!("{method} /livez"), "localhost"))
            .await;
        assert_eq!(reply.status, 405, "{method}");
        assert_eq!(reply.header("allow"), Some("get, head"));
    }
    let reply = daemon.send(&request("HEAD /livez", "localhost")).await;
    assert_eq!((reply.status, &*reply.body), (200, ""));
    assert_eq!(reply.header("content-length"), Some("3"));
    for body in [
        "content-length: 3\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let reply = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{body}");
        assert_eq!(daemon.send(&reply).await.status, 413, "{body}");
    }
    let reply = daemon.send(&request("GET /nothing", "localhost")).await;
    assert_eq!(reply.status, 404);
    daemon.end().await;
}

#[tokio::test]
async fn foreign_hosts_are_refused_on_tcp_and_nothing_is_asked_for_on_the_unix_socket() {
    let daemon = TestDaemon::start("127.0.0.1:0");
    let port = daemon.address.unwrap().port();
    for host in [
        "localhost",
        "127.0.0.1:1",
        "[::1]",
        &format!("127.0.0.1:{port}"),
    ] {
        let reply = daemon.send(&request("GET /livez", host)).await;
        assert_eq!(reply.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:80", "127.0.0.2", ""] {
        for path in ["/", "/livez", "/metrics", "/nothing"] {
            let reply = daemon.send(&request(&format!("GET {path}"), host)).await;
            assert_eq!(reply.status, 421, "{host} {path}");
        }
    }
    let twice =
        "GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_ne!(daemon.send(twice).await.status, 200);
    let elsewhere = request("GET http://evil.example/livez", "localhost");
    assert_eq!(daemon.send(&elsewhere).await.status, 421);
    daemon.end().await;

    let daemon = TestDaemon::start("unix");
    let reply = ask(daemon.unix().await, &request("GET /livez", "evil.example")).await;
    assert_eq!(reply.status, 200);
    daemon.end().await;
}

#[tokio::test]
async fn other_sites_pages_get_nothing_but_the_front_page() {
    let daemon = TestDaemon::start("127.0.0.1:0");
    let from = |path: &str, site: &str| {
        let head = request(&format!("GET {path}"), "localhost");
        head.replace(
            "connection",
            &format!("sec-fetch-site: {site}\r\nconnection"),
        )
    };
    let answer = daemon.send(&from("/livez", "cross-site")).await;
    assert_eq!(answer.status, 403);
    for site in ["same-origin", "none", "same-site"] {
        assert_eq!(
            daemon.send(&from("/livez", site)).await.status,
            200,
            "{site}"
        );
    }
    daemon.end().await;
}

#[tokio::test]
async fn every_answer_tells_the_browser_to_run_and_frame_nothing_else() {
    let daemon = TestDaemon::start("unix");
    for path in ["/livez", "/nothing", "/", "/api/v1/observation"] {
        let reply = daemon.get(path).await;
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("x-frame-options"), Some("deny"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        let resource = reply.header("cross-origin-resource-policy");
        assert_eq!(resource, Some("same-origin"));
    }
    daemon.end().await;
}

#[tokio::test]
async fn endless_and_garbled_requests_are_refused() {
    let daemon = TestDaemon::start("unix");
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(20 << 10));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    for request in [&*long, &*many, "\0\0\0\0\r\n\r\n", "GET\r\n\r\n"] {
        let mut socket = daemon.unix().await;
        let reply = within(async {
            // It may be cut off in the middle of it.
            let _ = socket.write_all(request.as_bytes()).await;
            let mut reply = Vec::new();
            let _ = socket.read_to_end(&mut reply).await;
            Reply::read(&String::from_utf8_lossy(&reply))
        });
        let status = reply.await.status;
        assert!([0, 400, 414, 431].contains(&status), "{status}");
    }
    assert_eq!(daemon.get("/livez").await.status, 200);
    daemon.end().await;
}

#[tokio::test]
async fn silent_connections_take_half_of_the_places_and_are_cut_off_in_time() {
    let daemon = TestDaemon::start("127.0.0.1:0");
    assert_eq!(
        daemon
            .send(&request("GET /livez", "localhost"))
            .await
            .status,
        200
    );
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS / 2 {
        let mut socket = daemon.tcp().await;
        // A request without its end.
        socket
            .write_all(b"GET / HTTP/1.1\r\nhost: l")
            .await
            .unwrap();
        silent.push(socket);
    }
    let mut one_more = daemon.tcp().await;
    let mut nothing = [0; 1];
    let read = within(one_more.read(&mut nothing)).await;
    assert!(matches!(read, Ok(0) | Err(_)), "closed without an answer");
    // Theirs is told what it did, or simply ends.
    for mut socket in silent {
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(
        daemon
            .send(&request("GET /livez", "localhost"))
            .await
            .status,
        200
    );
    daemon.end().await;
}

#[tokio::test]
async fn page_and_its_files_are_served_and_known_ones_are_not_sent_again() {
    let daemon = TestDaemon::start("unix");
    let page = daemon.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    for name in ["style.css", "app.js", "icon.svg"] {
        assert!(page.body.contains(name), "{name}");
        let file = daemon.get(format!("/{name}")).await;
        assert_eq!(file.status, 200);
        let etag = file.header("etag").unwrap();
        let again = format!(
            "GET /{name} HTTP/1.1\r\nhost: x\r\nif-none-match: {etag}\r\nconnection: close\r\n\r\n"
        );
        let again = ask(daemon.unix().await, &again).await;
        assert_eq!((again.status, &*again.body), (304, ""), "{name}");
    }
    daemon.end().await;
}

#[tokio::test]
async fn observation_and_map_are_json_and_what_is_not_there_is_said() {
    let daemon = TestDaemon::start("unix");
    let seen = daemon.get("/api/v1/observation").await;
    assert_eq!(seen.header("content-type"), Some("application/json"));
    let seen: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(seen["daemon"]["pid"], std::process::id());
    assert_eq!(seen["pools"], serde_json::json!([]));
    for (name, status, reason) in [
        ("nothing", 404, "POOL_NOT_FOUND"),
        ("..%2f", 400, "INVALID_FIELD"),
    ] {
        let reply = daemon.get(format!("/api/v1/pools/{name}/map")).await;
        let said: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(
            (reply.status, &said["reason"]),
            (status, &reason.into()),
            "{name}"
        );
    }
    daemon.end().await;
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let daemon = TestDaemon::start("unix");
    // Until it is recovered there is nothing to count.
    let reply = within(async {
        loop {
            let reply = daemon.get("/metrics").await;
            if reply.status != 503 {
                break reply;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(
        reply.body.contains("\ngoumem_sessions 0\n"),
        "{}",
        reply.body
    );
    assert!(reply.body.ends_with("# EOF\n"));
    daemon.end().await;
}

/// Reads events of a live stream.
struct Events {
    socket: UnixStream,
    text: String,
}

impl Events {
    async fn open(daemon: &TestDaemon, path: &str) -> Self {
        // It is recovered by then.
        assert_eq!(daemon.get("/readyz").await.status, 200);
        let mut socket = daemon.unix().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let text = String::new();
        Self { socket, text }
    }

    /// Waits until `what` has been said.
    async fn until(&mut self, what: &str) {
        within(async {
            while !self.text.contains(what) {
                let mut piece = [0; 4096];
                let n = self.socket.read(&mut piece).await.unwrap();
                assert_ne!(n, 0, "ended before {what}: {}", self.text);
                self.text.push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn changes_are_told_when_they_happen_and_that_a_pool_is_not_there() {
    let daemon = TestDaemon::start("unix");
    let mut events = Events::open(&daemon, "/api/v1/pools/p/live").await;
    events.until("event: observation").await;
    events.until("event: gone").await;
    assert!(events.text.contains("text/event-stream"));
    daemon.end().await;
    // It ends with the daemon.
    within(events.socket.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
}

#[tokio::test]
async fn one_process_has_half_of_the_live_pages_and_they_come_back() {
    let daemon = TestDaemon::start("unix");
    let mut open = Vec::new();
    for _ in 0..MAX_LIVE / 2 {
        let mut events = Events::open(&daemon, "/api/v1/live").await;
        events.until("event: observation").await;
        open.push(events);
    }
    let refused = daemon.get("/api/v1/live").await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("5"));
    open.pop();
    within(async {
        loop {
            let mut events = Events::open(&daemon, "/api/v1/live").await;
            events.until("\r\n\r\n").await;
            if events.text.starts_with("HTTP/1.1 200") {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    daemon.end().await;
}

#[tokio::test]
async fn connections_end_with_the_daemon() {
    let daemon = TestDaemon::start("unix");
    assert_eq!(daemon.get("/livez").await.status, 200);
    let mut idle = daemon.unix().await;
    daemon.end().await;
    let read = within(idle.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test]
async fn nothing_listens_where_it_is_not_wanted() {
    let daemon = TestDaemon::start("none");
    assert!(UnixStream::connect(&daemon.socket).await.is_err());
    daemon.end().await;
}
