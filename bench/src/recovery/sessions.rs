//! Ten thousand open sessions, or as many as the limit of open files allows: what each costs, how
//! long a call takes among them, and a restart with all of them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use goumem_proto::v1;
use goumem_proto::v1::daemon_service_client::DaemonServiceClient;
use goumem_proto::v1::session_service_client::SessionServiceClient;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::daemon::{Daemon, keeper_of};
use crate::process::memory;
use crate::report::Line;
use crate::rpc::{channel, runtime};
use crate::suite::Bench;
use crate::timing::{Effort, Medians, percentile};

const SESSIONS: u64 = 10_000;
/// They share these: a connection costs the daemon two fds, and one process may have half of the
/// places.
const CONNECTIONS: u64 = 2_000;
/// Fds of a daemon for anything else.
const SPARE_FDS: u64 = 128;
const PINGS: usize = 20_000;
/// Connections that resume at a time.
const AT_ONCE: usize = 64;
/// How long a session may take to resume before something is wrong.
const DEADLINE: Duration = Duration::from_secs(30);

/// kill -9 of a daemon with all these sessions: from the start of the next one until it has
/// answered a new client. What else is printed is in README.md.
pub(crate) fn sessions(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let (n_sessions, n_connections) = affordable(effort.size(SESSIONS, 60));
    let limits = [
        format!("--max-sessions={}", n_sessions + 8),
        format!("--max-connections={}", 2 * n_connections + 8),
    ];
    let mut daemon = Daemon::start_kept_with(&limits)?;
    let runtime = runtime()?;
    let rss_kib = |pid| anyhow::Ok(memory(pid)?.rss_bytes / 1024.0);
    // It listens before it has a keeper.
    daemon.client()?.ping()?;
    let keeper = keeper_of(&daemon)?;
    let start_kib = (rss_kib(daemon.pid())?, rss_kib(keeper)?);

    let mut crowd = runtime.block_on(Crowd::connect(&daemon.socket(), n_connections))?;
    let connected_kib = rss_kib(daemon.pid())?;
    let open_us = runtime.block_on(crowd.open(n_sessions))?;
    let opened_kib = (rss_kib(daemon.pid())?, rss_kib(keeper)?);
    let ping_us = runtime.block_on(crowd.ping(effort.size(PINGS, 100)))?;

    let restarted = daemon.restart()?;
    let client = daemon.client()?;
    let serves = restarted.elapsed();
    runtime.block_on(crowd.resume())?;
    let all_resumed = restarted.elapsed();
    let sessions = client.info()?.sessions;
    ensure!(
        u64::from(sessions) == n_sessions + 1,
        "{sessions} sessions were taken over"
    );

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (n, c) = (n_sessions as f64, n_connections as f64);
    let medians = Medians {
        goumem: serves.as_secs_f64() * 1e3,
        peers: BTreeMap::new(),
    };
    Ok(Line::new(bench, "ms", medians).also([
        ("sessions", n),
        ("connections", c),
        ("all_resumed_ms", all_resumed.as_secs_f64() * 1e3),
        ("open_p50_us", percentile(&open_us, 50)),
        ("open_p99_us", percentile(&open_us, 99)),
        ("ping_p50_us", percentile(&ping_us, 50)),
        ("ping_p99_us", percentile(&ping_us, 99)),
        ("daemon_mib", opened_kib.0 / 1024.0),
        ("keeper_mib", opened_kib.1 / 1024.0),
        ("kib_a_connection", (connected_kib - start_kib.0) / c),
        ("kib_a_session", (opened_kib.0 - connected_kib) / n),
        ("keeper_kib_a_session", (opened_kib.1 - start_kib.1) / n),
    ]))
}

/// Returns how many sessions and connections there can be, of which a daemon with this process's
/// limit of open files would not say that they are too many.
fn affordable(sessions: u64) -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    // The daemon does so by itself.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    let fds = limit.maximum.unwrap_or(u64::MAX);
    let connections = CONNECTIONS.min(fds / 10).min(sessions);
    let left = (fds / 16 * 14).saturating_sub(2 * connections + SPARE_FDS);
    (sessions.min(left), connections)
}

/// Sessions on connections.
struct Crowd {
    connections: Vec<Connection>,
}

#[derive(Clone)]
struct Connection {
    channel: Channel,
    tokens: Vec<BinaryMetadataValue>,
}

impl Crowd {
    async fn connect(socket: &Path, n: u64) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..n {
            let channel = channel(socket).await?;
            // It is a connection once it has been answered.
            DaemonServiceClient::new(channel.clone())
                .ping(v1::PingRequest {})
                .await?;
            connections.push(Connection {
                channel,
                tokens: Vec::new(),
            });
        }
        Ok(Self { connections })
    }

    /// Opens sessions, one after the other; returns the microseconds of each.
    async fn open(&mut self, n: u64) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        for i in 0..n {
            let at = usize::try_from(i)? % self.connections.len();
            let connection = &mut self.connections[at];
            let mut sessions = SessionServiceClient::new(connection.channel.clone());
            let start = Instant::now();
            let opened = sessions.open(v1::OpenSessionRequest::default()).await?;
            times.push(us(start));
            let token = MetadataValue::from_bytes(&opened.into_inner().token);
            connection.tokens.push(token);
        }
        Ok(times)
    }

    /// Pings on one connection after the other; returns the microseconds of each.
    async fn ping(&self, n: usize) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        for connection in self.connections.iter().cycle().take(n) {
            let mut daemon = DaemonServiceClient::new(connection.channel.clone());
            let start = Instant::now();
            daemon.ping(v1::PingRequest {}).await?;
            times.push(us(start));
        }
        Ok(times)
    }

    /// Resumes every session, by some connections at a time.
    async fn resume(&self) -> anyhow::Result<()> {
        let mut left: VecDeque<Connection> = self.connections.iter().cloned().collect();
        let mut resuming = JoinSet::new();
        loop {
            while resuming.len() < AT_ONCE
                && let Some(connection) = left.pop_front()
            {
                resuming.spawn(connection.resume());
            }
            match resuming.join_next().await {
                Some(resumed) => resumed??,
                None => return Ok(()),
            }
        }
    }
}

impl Connection {
    async fn resume(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut sessions = SessionServiceClient::new(self.channel);
        for token in self.tokens {
            loop {
                let mut request = Request::new(v1::ResumeSessionRequest {});
                let key = goumem_proto::model::SESSION_METADATA_KEY;
                request.metadata_mut().insert_bin(key, token.clone());
                match sessions.resume(request).await {
                    Ok(_) => break,
                    // What is left of the connection to the dead daemon.
                    Err(status) if is_of_the_connection(&status) && Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(status) => return Err(status).context("a session does not resume"),
                }
            }
        }
        Ok(())
    }
}

/// The daemon's own refusals are of other kinds.
fn is_of_the_connection(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled
    )
}

fn us(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}
