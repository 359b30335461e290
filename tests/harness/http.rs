//! A daemon's HTTP socket, asked by hand.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use goumem_shm::os::paths::http_socket_path;

use crate::wait::PATIENCE;

/// Asks the HTTP socket beside a gRPC socket; returns the status and the body.
///
/// # Panics
/// When there is no answer.
pub fn http_get(grpc_socket: &Path, path: &str) -> (u16, String) {
    let mut socket = http_connect(grpc_socket);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Connects to the HTTP socket beside a gRPC socket. Reads end in time.
///
/// # Panics
/// When nothing listens there.
pub fn http_connect(grpc_socket: &Path) -> UnixStream {
    let socket = UnixStream::connect(http_socket_path(grpc_socket).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
