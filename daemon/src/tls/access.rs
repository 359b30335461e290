//! What the files of TLS and tokens say now. They are looked at again when somebody comes, at most
//! once a second, and read when they have changed. Files that make no sense change nothing: what
//! was read before stays, and the log says so, once.
//!
//! A new certificate, key or CA counts from the next connection on, tokens from the next call:
//! connections that are there stay.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goumem_proto::name::Label;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::files::Stamp;
use super::identity::{Refused, RemoteIdentity};
use super::tokens::Tokens;
use super::{TcpOptions, TlsError};
use crate::status::chain;

/// How often the files are looked at: four system calls each time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Decides who is let in by TCP.
#[derive(Debug)]
pub(crate) struct Access {
    options: TcpOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked_at: Instant,
    stamps: Vec<Option<Stamp>>,
    read: Arc<Contents>,
}

/// What the files say.
#[derive(Debug)]
struct Contents {
    tls: Option<Tls>,
    tokens: Option<Tokens>,
}

struct Tls(TlsAcceptor);

impl Access {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Any [`TlsError`].
    pub(crate) fn load(options: TcpOptions, now: Instant) -> Result<Self, TlsError> {
        // Before they are read: a change in between is a change.
        let stamps = stamps(&options);
        let read = Arc::new(Contents::read(&options)?);
        Ok(Self {
            options,
            state: Mutex::new(State {
                looked_at: now,
                stamps,
                read,
            }),
        })
    }

    /// Returns what a connection begins with; none where that is not TLS.
    pub(crate) fn acceptor(&self, now: Instant) -> Option<TlsAcceptor> {
        self.read(now).tls.as_ref().map(|tls| tls.0.clone())
    }

    /// Returns whether calls have to prove themselves, when their connection has not.
    pub(crate) fn wants_tokens(&self) -> bool {
        self.options.tokens_file.is_some()
    }

    /// Returns who a caller is, by the name in its connection's certificate, or by its token.
    pub(crate) fn identify(
        &self,
        address: SocketAddr,
        certified: Option<&Label>,
        token: Option<&str>,
        now: Instant,
    ) -> Result<RemoteIdentity, Refused> {
        let name = match (certified, token) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(token)) if self.wants_tokens() => {
                let read = self.read(now);
                let tokens = read.tokens.as_ref().ok_or(Refused::UnknownToken)?;
                Some(tokens.name_of(token).ok_or(Refused::UnknownToken)?)
            }
            (None, _) if self.wants_tokens() || self.options.client_ca.is_some() => {
                return Err(Refused::NoProof);
            }
            (None, _) => None,
        };
        Ok(RemoteIdentity::new(name, address, &self.options.users))
    }

    /// Reads the files again, changed or not, and says in the log what came of it.
    pub(crate) fn reload(&self, now: Instant) {
        let mut state = self.lock();
        state.looked_at = now;
        state.stamps = stamps(&self.options);
        state.read_again(&self.options);
    }

    fn read(&self, now: Instant) -> Arc<Contents> {
        let mut state = self.lock();
        if now.saturating_duration_since(state.looked_at) >= LOOK_EVERY {
            state.looked_at = now;
            let stamps = stamps(&self.options);
            if stamps != state.stamps {
                state.stamps = stamps;
                state.read_again(&self.options);
            }
        }
        Arc::clone(&state.read)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read_again(&mut self, options: &TcpOptions) {
        match Contents::read(options) {
            Ok(read) => {
                info!("read TLS files and tokens again");
                self.read = Arc::new(read);
            }
            Err(error) => warn!(
                error = chain(&error),
                "TLS files or tokens cannot be used: going on with what they were"
            ),
        }
    }
}

impl Contents {
    fn read(options: &TcpOptions) -> Result<Self, TlsError> {
        let tokens = options.tokens_file.as_deref().map(Tokens::read);
        Ok(Self {
            tls: options.acceptor()?.map(Tls),
            tokens: tokens.transpose()?,
        })
    }
}

fn stamps(options: &TcpOptions) -> Vec<Option<Stamp>> {
    let TcpOptions {
        tls_cert,
        tls_key,
        client_ca,
        tokens_file,
        ..
    } = options;
    [tls_cert, tls_key, client_ca, tokens_file]
        .into_iter()
        .map(|path| path.as_deref().and_then(Stamp::of))
        .collect()
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}
