//! Who may come by TCP, and how they prove it: by nothing (loopback only), by a certificate of a
//! CA that the daemon knows, or by a bearer token over TLS. What the files say is in `Access`,
//! which reads them again when they change; which name a caller has, and which user that makes it,
//! is in `identity`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use goumem_proto::name::{Label, NameError};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

mod access;
mod certificate;
mod files;
mod identity;
mod tokens;

pub(crate) use access::Access;
pub(crate) use certificate::name_of;
pub use identity::RemoteIdentity;
pub(crate) use identity::{REMOTE_ID, Refused};

use files::Secrecy;

/// Calls of remote clients under way at a time, of all of them together, unless configured: each
/// takes some kilobytes and at most a place in the queue of the threads that work long.
pub(crate) const DEFAULT_MAX_CALLS: u32 = 1024;

/// How callers by TCP prove who they are, and what they get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// The daemon's certificate and those between it and its CA, in PEM. With `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// The private key of that certificate, in PEM. Only the daemon's user and group may read it.
    pub tls_key: Option<PathBuf>,
    /// The CAs whose certificates clients may come with, in PEM. Without tokens every client must.
    pub client_ca: Option<PathBuf>,
    /// Bearer tokens, a line `NAME: TOKEN` or `NAME: sha256:HEX` for each. Only the daemon's user
    /// may read it.
    pub tokens_file: Option<PathBuf>,
    /// Which user of this machine a remote name stands for. Others are nobody's but their own.
    pub users: BTreeMap<String, u32>,
    /// Calls of remote clients under way at a time, of all of them together.
    pub max_calls: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            client_ca: None,
            tokens_file: None,
            users: BTreeMap::new(),
            max_calls: DEFAULT_MAX_CALLS,
        }
    }
}

/// Why nobody is let in by TCP.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Anybody who reaches the address could use the daemon, or listen to those who do.
    #[error("TCP address {address} is not a loopback one: add {add}")]
    Unprotected {
        /// The address asked for.
        address: SocketAddr,
        /// What to configure.
        add: &'static str,
    },
    /// One option is of no use without the other.
    #[error("{given} needs {missing} as well")]
    Half {
        /// What is configured.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// A remote name may not stand for that user.
    #[error("remote name {name:?} cannot stand for user {uid}: {why}")]
    User {
        /// The name.
        name: String,
        /// The user it was to stand for.
        uid: u32,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A key of the table of users is no name.
    #[error("remote name {name:?} is not valid")]
    Name {
        /// The text.
        name: String,
        /// Which rule it breaks.
        source: NameError,
    },
    /// Others could read a secret.
    #[error("{} has mode {mode:04o}, so others may read it: chmod {should}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be at most.
        should: &'static str,
    },
    /// The file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the OS said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} holds no {what}", path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The file is not PEM.
    #[error("{} is not PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A line of the file of tokens makes no sense.
    #[error("{}, line {line}: {why}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it. Nothing of the line is quoted: it may be a secret.
        why: &'static str,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("TLS certificate and key cannot be used")]
    Tls(#[from] rustls::Error),
    /// The CAs cannot be used.
    #[error("client CA cannot be used")]
    Ca(#[from] VerifierBuilderError),
}

impl TcpOptions {
    /// Refuses an address that these options do not protect, and options that are of no use.
    ///
    /// # Errors
    /// `Unprotected`, `Half`, `User`, `Name`. No file is looked at yet.
    pub fn check(&self, address: SocketAddr) -> Result<(), TlsError> {
        let half = |given, missing| Err(TlsError::Half { given, missing });
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return half("tls_cert", "tls_key"),
            (None, Some(_)) => return half("tls_key", "tls_cert"),
            (None, None) if self.client_ca.is_some() => {
                return half("client_ca", "tls_cert and tls_key");
            }
            _ => {}
        }
        for (name, &uid) in &self.users {
            identity::check_user(name, uid)?;
        }
        let unprotected = |add| Err(TlsError::Unprotected { address, add });
        let proof = self.client_ca.is_some() || self.tokens_file.is_some();
        match (address.ip().is_loopback(), self.tls_cert.is_some(), proof) {
            (true, ..) | (false, true, true) => Ok(()),
            (false, false, true) => unprotected("tls_cert and tls_key"),
            (false, true, false) => unprotected("client_ca or tokens_file"),
            (false, false, false) => {
                unprotected("tls_cert and tls_key, and client_ca or tokens_file")
            }
        }
    }

    /// Reads certificate, key and CAs; none where TLS is not configured.
    fn acceptor(&self) -> Result<Option<TlsAcceptor>, TlsError> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for ca in certificates(path)? {
                    roots.add(ca)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier: Arc<dyn ClientCertVerifier> = if self.tokens_file.is_some() {
                    // Who has no certificate may have a token.
                    verifier.allow_unauthenticated().build()?
                } else {
                    verifier.build()?
                };
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(certificates(cert)?, private_key(key)?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection proves itself anew: by the CAs of now, and before its certificate ends.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Arc::new(config).into()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = files::read(path, Secrecy::None)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::Nothing {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = files::read(path, Secrecy::Group)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::Nothing {
            path: path.to_owned(),
            what: "private key",
        },
        source => TlsError::Pem {
            path: path.to_owned(),
            source,
        },
    })
}

/// Puts the users of remote names into their table, as "alice=1000, ci=1001" has them; returns
/// whether the text makes sense.
pub(crate) fn parse_users(users: &mut BTreeMap<String, u32>, text: &str) -> bool {
    users.clear();
    text.split(',').all(|pair| {
        let parsed = pair.rsplit_once('=').and_then(|(name, uid)| {
            let uid = uid.trim().parse().ok()?;
            Some((name.trim().to_owned(), uid))
        });
        // No name twice: which of the two holds would be a guess.
        parsed.is_some_and(|(name, uid)| users.insert(name, uid).is_none())
    })
}

/// A name that a remote caller may have: a label that is not empty.
fn parse_name(text: &str) -> Result<Label, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    text.parse()
}

#[cfg(test)]
mod tests;
