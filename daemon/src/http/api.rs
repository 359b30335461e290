//! What the page is drawn from, as JSON: everything at once, the map of a pool, and both again
//! whenever they change.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use goumem_proto::name::{NameError, PoolName};
use goumem_proto::reason::{ErrorDetail, Reason};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::map_view::MapView;
use super::{Site, Visitor, health};
use crate::core::Core;
use crate::error::Error;
use crate::observation::Observation;

/// The shortest time between two looks for one page: three to four times a second.
const PAUSE: Duration = Duration::from_millis(280);
/// All looks together take one part of so many of a CPU: what a look costs depends on how much
/// there is to see.
const REST: u32 = 10;
/// What comes also when there is no news, so that a page knows the daemon is there.
const SILENCE: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/api/v1/observation`: everything that the visitor may see.
pub(super) async fn observation(
    State(site): State<Site>,
    Extension(visitor): Extension<Visitor>,
) -> Response {
    let look = move |core: &Core| text(&core.observe(visitor.viewer(), Instant::now()));
    answer(site.look(look).await)
}

/// `/metrics`: the same in numbers, and what has been counted, for monitors.
pub(super) async fn metrics(
    State(site): State<Site>,
    Extension(visitor): Extension<Visitor>,
) -> Response {
    let look = move |core: &Core| {
        let observation = core.observe(visitor.viewer(), Instant::now());
        core.metrics().encode(&observation)
    };
    match site.look(look).await {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// `/api/v1/pools/NAME/map`: what each page of a pool is.
pub(super) async fn map(
    State(site): State<Site>,
    Extension(visitor): Extension<Visitor>,
    Path(name): Path<String>,
) -> Response {
    let since = site.started;
    let look = move |core: &Core| {
        let name = named(&name)?;
        let map = MapView::look(core, visitor.viewer(), &name, since, Instant::now())?;
        Ok(text(&map))
    };
    answer(site.look(look).await.and_then(|looked| looked))
}

/// `/api/v1/live`: both as server-sent events, `observation` and `map`, whenever they change.
pub(super) async fn live(state: State<Site>, visitor: Extension<Visitor>) -> Response {
    follow(state.0, visitor.0, None)
}

/// `/api/v1/pools/NAME/live`: the same with the map of a pool.
pub(super) async fn live_pool(
    state: State<Site>,
    visitor: Extension<Visitor>,
    Path(name): Path<String>,
) -> Response {
    match named(&name) {
        Ok(name) => follow(state.0, visitor.0, Some(name)),
        Err(refusal) => refusal.into_response(),
    }
}

fn named(name: &str) -> Result<PoolName, Refusal> {
    name.parse().map_err(|error: NameError| Refusal {
        status: StatusCode::BAD_REQUEST,
        reason: Reason::InvalidField.to_string(),
        message: error.to_string(),
    })
}

fn follow(site: Site, visitor: Visitor, pool: Option<PoolName>) -> Response {
    if let Err(why) = site.core() {
        return Refusal::from(why).into_response();
    }
    let place = Arc::clone(&site.live).try_acquire_owned().ok();
    let place = place.zip(site.live_shares.take(visitor.holders()));
    let Some(place) = place else {
        let why = "too many pages are open\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], why).into_response();
    };
    let (sender, receiver) = mpsc::channel(1);
    let tasks = site.tasks.clone();
    tasks.spawn(async move {
        tell(site, visitor, pool, &sender).await;
        drop(place);
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    ([(CONTENT_TYPE, EVENTS)], body).into_response()
}

type EventSender = mpsc::Sender<Result<String, Infallible>>;

/// What a page has been told last.
#[derive(Debug)]
struct Told {
    visitor: Visitor,
    pool: Option<PoolName>,
    since: Instant,
    observation: Option<(Observation, Instant)>,
    map: Option<MapView>,
}

/// Looks and tells until the page or the daemon goes.
async fn tell(mut site: Site, visitor: Visitor, pool: Option<PoolName>, events: &EventSender) {
    let mut told = Told {
        visitor,
        pool,
        since: site.started,
        observation: None,
        map: None,
    };
    // What it is by now is no change; `look` says whether there is a core.
    site.stage.mark_unchanged();
    loop {
        let begun = Instant::now();
        let look = move |core: &Core| {
            let news = told.look(core);
            (told, news)
        };
        let Ok((told_now, news)) = site.look(look).await else {
            return;
        };
        told = told_now;
        let pages = u32::try_from(super::MAX_LIVE - site.live.available_permits()).unwrap_or(1);
        let pause = PAUSE.max(begun.elapsed() * pages * REST);
        for event in news {
            // A page that reads slowly is told less often.
            if events.send(Ok(event)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = events.closed() => return,
            _ = site.stage.changed() => return,
        }
    }
}

impl Told {
    /// Looks again; returns what is new, as events.
    fn look(&mut self, core: &Core) -> Vec<String> {
        let now = Instant::now();
        let mut events = Vec::new();
        let observation = core.observe(self.visitor.viewer(), now);
        let is_old = self.observation.as_ref().is_some_and(|(before, at)| {
            now.saturating_duration_since(*at) < SILENCE && is_alike(before, &observation)
        });
        if !is_old {
            events.push(event("observation", &observation));
            self.observation = Some((observation, now));
        }
        let Some(pool) = &self.pool else {
            return events;
        };
        match MapView::look(core, self.visitor.viewer(), pool, self.since, now) {
            Ok(map) => {
                if self
                    .map
                    .as_ref()
                    .is_none_or(|before| map.differs_from(before))
                {
                    events.push(event("map", &map));
                }
                self.map = Some(map);
            }
            Err(error) => {
                events.push(event("gone", &ErrorDetail::from(&error).message));
                (self.pool, self.map) = (None, None);
            }
        }
        events
    }
}

/// Returns whether two observations differ in nothing but the time, and in what the rest of the
/// machine does.
fn is_alike(one: &Observation, other: &Observation) -> bool {
    let mut timeless = other.clone();
    timeless.daemon.uptime_ms = one.daemon.uptime_ms;
    timeless.daemon.available_bytes = one.daemon.available_bytes;
    for (session, before) in timeless.sessions.iter_mut().zip(&one.sessions) {
        session.age_ms = before.age_ms;
    }
    timeless == *one
}

fn event(name: &str, data: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", text(data))
}

/// JSON has no line ends of its own, so that it fits an event.
fn text(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("plain data with texts as keys")
}

fn answer(looked: Result<String, Refusal>) -> Response {
    match looked {
        Ok(text) => ([(CONTENT_TYPE, JSON)], text).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// Why there is nothing to see, as JSON says it.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    reason: String,
    message: String,
}

impl Refusal {
    /// A look that came to no end.
    pub(super) fn panicked() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: Reason::Internal.to_string(),
            message: "the daemon could not look".to_owned(),
        }
    }
}

/// The daemon takes no calls.
impl From<health::Answer> for Refusal {
    fn from((status, why): health::Answer) -> Self {
        Self {
            status,
            reason: "UNAVAILABLE".to_owned(),
            message: why.trim_end().to_owned(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let detail = ErrorDetail::from(&error);
        Self {
            status: match detail.reason {
                Reason::PoolNotFound | Reason::PoolDestroyed => StatusCode::NOT_FOUND,
                Reason::PermissionDenied => StatusCode::FORBIDDEN,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            reason: detail.reason.to_string(),
            message: detail.message,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, [(CONTENT_TYPE, JSON)], text(&self)).into_response()
    }
}
