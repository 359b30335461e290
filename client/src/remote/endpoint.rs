//! From an address and some files to a channel.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, chain};

/// As the daemon has it: what may be under way on a stream, so that bytes do not wait for the
/// reader after each message.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// As much as HTTP/2 has. What a stream holds for a slow reader counts here as well, and a window
/// that a few of them fill would hold up every other call on the connection, keepalives included.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// As the daemon has it: a frame for each piece of bytes.
const MAX_FRAME_BYTES: u32 = 80 << 10;
/// A daemon that accepts at all does so within some round trips.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the daemon's machine may be silent, while a call waits, until it is asked whether it is
/// there, and how long it has to answer.
const ALIVE_EVERY: Duration = Duration::from_secs(20);

/// How the two ends prove who they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Security {
    pub(super) ca: Option<PathBuf>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) server_name: Option<String>,
}

impl Security {
    fn is_asked_for(&self) -> bool {
        self.ca.is_some() || self.identity.is_some() || self.server_name.is_some()
    }
}

/// Returns the error for an address that cannot be used as asked.
pub(super) fn refused(address: &str, why: impl Into<String>) -> Error {
    Error::Address {
        address: address.to_owned(),
        why: why.into(),
    }
}

/// Returns where to connect to, and how.
pub(super) fn endpoint(
    address: &str,
    security: &Security,
    has_token: bool,
) -> Result<Endpoint, Error> {
    let refused = |why: String| refused(address, why);
    // What is no such address may be the path of a socket to the one that parses it.
    if !["http://", "https://"]
        .iter()
        .any(|scheme| address.starts_with(scheme))
    {
        let why = "must begin with http:// or https://";
        return Err(refused(why.to_owned()));
    }
    let endpoint =
        Endpoint::from_shared(address.to_owned()).map_err(|error| refused(chain(&error)))?;
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default().to_owned();
    let endpoint = match uri.scheme_str() {
        Some("https") => secure(endpoint, security).map_err(refused)?,
        Some("http") if security.is_asked_for() => {
            return Err(refused("certificates are for https".to_owned()));
        }
        Some("http") if has_token && !is_loopback(&host) => {
            let why = "a token would be sent for everybody to read: use https";
            return Err(refused(why.to_owned()));
        }
        _ => endpoint,
    };
    Ok(endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_EVERY)
        .tcp_keepalive(Some(3 * ALIVE_EVERY)))
}

/// Connects. The channel connects again by itself.
pub(super) async fn connect(endpoint: &Endpoint, address: &str) -> Result<Channel, Error> {
    endpoint.connect().await.map_err(|error| Error::NoDaemon {
        socket: PathBuf::from(address),
        source: chain(&error).into(),
    })
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(feature = "tls")]
fn secure(endpoint: Endpoint, security: &Security) -> Result<Endpoint, String> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};

    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("could not read {}: {error}", path.display()))
    };
    let ca = security.ca.as_ref().ok_or("https needs the file of a CA")?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let Some((certificate, key)) = &security.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    if let Some(name) = &security.server_name {
        tls = tls.domain_name(name);
    }
    endpoint.tls_config(tls).map_err(|error| chain(&error))
}

#[cfg(not(feature = "tls"))]
fn secure(_: Endpoint, _: &Security) -> Result<Endpoint, String> {
    Err("https needs goumem's feature `tls`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(address: &str, security: &Security, has_token: bool) -> Option<String> {
        match endpoint(address, security, has_token) {
            Ok(_) => None,
            Err(Error::Address { why, .. }) => Some(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn token_and_certificates_go_over_tls_or_not_at_all() {
        let none = Security::default();
        let ca = Security {
            ca: Some("/nowhere/ca.pem".into()),
            ..none.clone()
        };
        for fine in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert_eq!(why(fine, &none, true), None);
        }
        assert_eq!(why("http://192.0.2.1:1", &none, false), None);
        assert!(
            why("http://192.0.2.1:1", &none, true)
                .unwrap()
                .contains("https")
        );
        assert!(
            why("http://127.0.0.1:1", &ca, false)
                .unwrap()
                .contains("https")
        );
        assert!(why("https://192.0.2.1:1", &none, false).is_some());
        let missing = why("https://192.0.2.1:1", &ca, false).unwrap();
        if cfg!(feature = "tls") {
            assert!(missing.contains("/nowhere/ca.pem"), "{missing}");
        } else {
            assert!(missing.contains("feature"), "{missing}");
        }
        for nonsense in ["", "127.0.0.1:1", "unix:///a", "ftp://a", "http://a b"] {
            assert!(why(nonsense, &none, false).is_some(), "{nonsense:?}");
        }
    }
}
