//! Three answers for whoever looks after the daemon: does the process run, does it take calls, and
//! does the core behind them answer. Each says 200 and `ok`, or 503 and why not.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use tokio::time::timeout;

use super::{Site, Stage};
use crate::core::Core;

/// How long the core may take to be looked at: a sweep or a recovery of a large pool holds locks
/// for some tens of milliseconds.
const CORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A status and why.
pub(super) type Answer = (StatusCode, &'static str);

const OK: Answer = (StatusCode::OK, "ok\n");

const fn not_yet(why: &'static str) -> Answer {
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

/// `/livez`: the process turns its wheel. Restart it if this fails.
pub(super) async fn alive() -> Answer {
    OK
}

/// `/readyz`: new calls are taken.
pub(super) async fn ready(State(site): State<Site>) -> Answer {
    match site.core() {
        Ok(_) => OK,
        Err(why) => why,
    }
}

/// `/healthz`: new calls are taken, and the core comes to an end with one.
pub(super) async fn healthy(State(site): State<Site>) -> Answer {
    let core = match site.core() {
        Ok(core) => core,
        Err(why) => return why,
    };
    // Not in place: if it does not answer, it must not take the connections along.
    let look = tokio::task::spawn_blocking(move || core.has_anything());
    match timeout(CORE_TIMEOUT, look).await {
        Ok(Ok(_)) => OK,
        Ok(Err(_panicked)) => not_yet("the core panicked\n"),
        Err(_) => not_yet("the core does not answer within 5 s\n"),
    }
}

impl Site {
    /// Returns the core if it takes calls, else the answer that says why not.
    pub(super) fn core(&self) -> Result<Arc<Core>, Answer> {
        match &*self.stage.borrow() {
            Stage::Serving(core) => Ok(Arc::clone(core)),
            Stage::Recovering => Err(not_yet("recovering\n")),
            Stage::Draining => Err(not_yet("draining\n")),
        }
    }
}
