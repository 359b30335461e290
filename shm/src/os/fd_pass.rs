//! Sends and receives fds over a Unix stream socket. gRPC cannot, so memory is handed over on a
//! socket of its own, in the frames of [`frame`](super::frame).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

#[cfg(test)]
mod tests;

/// The kernel's own limit for one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// Sends `bytes` with `fds` attached to the first of them.
///
/// # Errors
///
/// `WouldBlock` when nothing was sent and may be tried again; `InvalidInput` for no bytes or more
/// than [`MAX_FDS`] fds. After any other error (`WriteZero`: a part went out and the socket is
/// full) the connection is of no further use. A closed peer is `BrokenPipe`, never a signal.
pub fn send(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot send {} fds with {} bytes", fds.len(), bytes.len()),
        ));
    }
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(
            fits,
            "{} fds do not fit into {CONTROL_BYTES} bytes",
            fds.len()
        );
    }
    let mut sent = send_once(socket, bytes, &mut control)?;
    // The fds are with the first byte; the rest of a short send goes without.
    while sent < bytes.len() {
        match send_once(socket, &bytes[sent..], &mut SendAncillaryBuffer::default()) {
            Ok(more) => sent += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("only {sent} of {} bytes sent with the fds", bytes.len()),
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_once(
    socket: &impl AsFd,
    bytes: &[u8],
    control: &mut SendAncillaryBuffer<'_, '_, '_>,
) -> io::Result<usize> {
    let bytes = [IoSlice::new(bytes)];
    Ok(rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &bytes, control, SendFlags::NOSIGNAL)
    })?)
}

/// Receives up to `into.len()` bytes and the fds that came with them, closed on exec. No bytes
/// means that the peer has closed the connection.
///
/// # Errors
///
/// `WouldBlock` when nothing is there yet; `InvalidData` when more than `max_fds` came, or the
/// kernel could not deliver all that were sent (this process is at its limit of open files). No
/// fd is kept then.
pub fn recv(
    socket: &impl AsFd,
    into: &mut [u8],
    max_fds: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for as many as can come, whatever the caller wants: what the kernel delivers is ours
    // to close.
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut bytes = [IoSliceMut::new(into)];
        rustix::net::recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "peer sent more fds than could be received ({} were)",
                fds.len()
            ),
        ));
    }
    if fds.len() > max_fds {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("peer sent {} fds, at most {max_fds} expected", fds.len()),
        ));
    }
    Ok((received.bytes, fds))
}
