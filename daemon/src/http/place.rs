//! Where the HTTP listener is: beside the gRPC socket, on a loopback address, or nowhere.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where health, metrics and the live page are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpPlace {
    /// Nowhere.
    None,
    /// On a Unix socket beside the gRPC one, with its mode: `goumemd.http.sock`. Each user sees
    /// there what it may see by gRPC.
    #[default]
    Unix,
    /// On a loopback address, for browsers. Whoever reaches it sees all names and sizes.
    Loopback(LoopbackAddress),
}

/// An address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackAddress(SocketAddr);

/// Why a text says no place for the HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpPlaceError {
    /// Nothing tells who asks there, and everybody would see everything.
    #[error("HTTP address {address} is not a loopback one; only those are served, as 127.0.0.1")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// It is neither of the words nor an address.
    #[error("{text:?} is not a place for HTTP: unix, none, or an address as 127.0.0.1:4636")]
    Unreadable {
        /// What was said.
        text: String,
    },
}

impl LoopbackAddress {
    /// Takes an address if it is a loopback one.
    ///
    /// # Errors
    /// [`HttpPlaceError::NotLoopback`].
    pub fn new(address: SocketAddr) -> Result<Self, HttpPlaceError> {
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(HttpPlaceError::NotLoopback { address })
        }
    }

    /// Returns it.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for HttpPlace {
    type Err = HttpPlaceError;

    fn from_str(text: &str) -> Result<Self, HttpPlaceError> {
        match text {
            "none" => Ok(Self::None),
            "unix" => Ok(Self::Unix),
            _ => {
                let unreadable = |_| HttpPlaceError::Unreadable {
                    text: text.to_owned(),
                };
                let address = text.parse().map_err(unreadable)?;
                LoopbackAddress::new(address).map(Self::Loopback)
            }
        }
    }
}

impl fmt::Display for HttpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Unix => f.write_str("unix"),
            Self::Loopback(address) => address.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in ["none", "unix", "127.0.0.1:4636", "127.7.7.7:0", "[::1]:80"] {
            assert_eq!(text.parse::<HttpPlace>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn addresses_that_others_reach_are_refused_with_the_address() {
        for text in ["0.0.0.0:80", "192.168.1.1:80", "[::]:80"] {
            let address = text.parse().unwrap();
            assert_eq!(
                text.parse::<HttpPlace>(),
                Err(HttpPlaceError::NotLoopback { address })
            );
        }
        for text in ["", "localhost:80", "127.0.0.1", "/run/x.sock"] {
            let text = text.to_owned();
            assert_eq!(
                text.parse::<HttpPlace>(),
                Err(HttpPlaceError::Unreadable { text })
            );
        }
    }
}
