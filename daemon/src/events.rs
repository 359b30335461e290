//! What happens in the daemon, told to whoever watches, and counted. There is one queue for all
//! watchers, of a fixed length: who does not keep up with it loses events and learns how many, and
//! nobody waits for anybody.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use goumem_proto::model::{EventKind, Happening, Permissions, WatchEvent, WatchRequest};
use tokio::sync::broadcast;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::core::Viewer;
use crate::metrics::Metrics;
use crate::session::Caller;

/// Events that wait for the slowest watcher: some seconds of a busy daemon, and 300 KiB.
const QUEUE: usize = 1024;

/// What a client can bring about as fast as it can call is told once in this time, and counted
/// each time: else it would push everything else out of the queue.
const NOISE: Duration = Duration::from_millis(100);

/// Whom an event concerns, and so who may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// Root and the daemon's user.
    Operators,
    /// Those who may read a pool.
    Pool(Permissions),
    /// One user.
    User(u32),
}

/// Tells and counts what happens.
#[derive(Debug)]
pub struct Hub {
    metrics: Arc<Metrics>,
    started: Instant,
    sender: broadcast::Sender<Arc<Told>>,
    state: Mutex<HubState>,
}

#[derive(Debug, Default)]
struct HubState {
    /// The number of the last event.
    sequence: u64,
    /// When each kind of noise was last told.
    told: [Option<Instant>; 3],
}

/// An event in the queue.
#[derive(Debug)]
struct Told {
    event: WatchEvent,
    about: About,
}

impl Hub {
    pub(crate) fn new(metrics: Arc<Metrics>, started: Instant) -> Self {
        Self {
            metrics,
            started,
            sender: broadcast::Sender::new(QUEUE),
            state: Mutex::default(),
        }
    }

    /// Counts what has happened, and tells whoever watches and may know.
    pub(crate) fn tell(&self, about: About, happening: Happening, now: Instant) {
        self.metrics.count(&happening);
        let mut state = self.lock();
        if let Some(last) = noise(&happening).and_then(|i| state.told.get_mut(i)) {
            if last.is_some_and(|last| now.saturating_duration_since(last) < NOISE) {
                return;
            }
            *last = Some(now);
        }
        state.sequence += 1;
        let event = WatchEvent {
            sequence: state.sequence,
            uptime: now.saturating_duration_since(self.started),
            happening,
        };
        // In the order of their numbers, so under the lock. It fails when nobody watches.
        let _ = self.sender.send(Arc::new(Told { event, about }));
    }

    /// Tells that a connection was closed because there were too many, on the socket of that name.
    pub(crate) fn tell_of_connection(&self, socket: &'static str) {
        let socket = socket.to_owned();
        let refused = Happening::ConnectionRefused { socket };
        self.tell(About::Operators, refused, Instant::now());
    }

    /// Returns what happens from now on, as far as the caller may see it.
    pub(crate) fn watch(&self, caller: Caller, request: WatchRequest, now: Instant) -> Watcher {
        let state = self.lock();
        let watching = WatchEvent {
            sequence: state.sequence,
            uptime: now.saturating_duration_since(self.started),
            happening: Happening::Watching,
        };
        Watcher {
            first: Some(watching),
            last: (state.sequence, Duration::ZERO),
            events: BroadcastStream::new(self.sender.subscribe()),
            metrics: Arc::clone(&self.metrics),
            kinds: request.kinds.into_iter().collect(),
            caller,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns which kind of noise it is, if it is.
fn noise(happening: &Happening) -> Option<usize> {
    match happening {
        Happening::Pressure(_) => Some(0),
        Happening::Refused(_) => Some(1),
        Happening::ConnectionRefused { .. } => Some(2),
        _ => None,
    }
}

/// What happens, as one caller may see it. It ends when the daemon does.
#[derive(Debug)]
pub struct Watcher {
    first: Option<WatchEvent>,
    /// Number and time of the last event that came out of the queue.
    last: (u64, Duration),
    events: BroadcastStream<Arc<Told>>,
    metrics: Arc<Metrics>,
    /// None: all.
    kinds: BTreeSet<EventKind>,
    caller: Caller,
}

impl Watcher {
    fn wants(&self, told: &Told) -> bool {
        let kind = told.event.happening.kind();
        let asked_for = kind.is_some_and(|kind| self.kinds.contains(&kind));
        if !asked_for && !self.kinds.is_empty() {
            return false;
        }
        let viewer = Viewer::Caller(&self.caller);
        match &told.about {
            About::Operators => viewer.sees_everything(),
            About::Pool(permissions) => viewer.sees_pool(permissions),
            About::User(uid) => viewer.sees_user(*uid),
        }
    }
}

impl Stream for Watcher {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            match ready!(Pin::new(&mut self.events).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Ok(told)) => {
                    self.last = (told.event.sequence, told.event.uptime);
                    if self.wants(&told) {
                        return Poll::Ready(Some(told.event.clone()));
                    }
                }
                Some(Err(BroadcastStreamRecvError::Lagged(missed))) => {
                    self.metrics.count_missed(missed);
                    self.last.0 += missed;
                    let (sequence, uptime) = self.last;
                    return Poll::Ready(Some(WatchEvent {
                        sequence,
                        uptime,
                        happening: Happening::Lagged { missed },
                    }));
                }
            }
        }
    }
}
