//! Over socket pairs; no process is needed to pass an fd.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use rustix::io::FdFlags;

use super::*;

fn inode(fd: OwnedFd) -> u64 {
    File::from(fd).metadata().unwrap().ino()
}

#[test]
fn fds_arrive_in_order_and_closed_on_exec() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    send(&ours, b"0123456789", &[one.as_fd(), other.as_fd()]).unwrap();
    let mut bytes = [0; 16];
    let (n, fds) = recv(&theirs, &mut bytes, 2).unwrap();
    assert_eq!(&bytes[..n], b"0123456789");
    for fd in &fds {
        assert!(
            rustix::io::fcntl_getfd(fd)
                .unwrap()
                .contains(FdFlags::CLOEXEC)
        );
    }
    let arrived: Vec<u64> = fds.into_iter().map(inode).collect();
    assert_eq!(
        arrived,
        [
            one.metadata().unwrap().ino(),
            other.metadata().unwrap().ino()
        ]
    );
}

#[test]
fn as_many_fds_as_the_kernel_allows_can_be_passed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let many = vec![ours.as_fd(); MAX_FDS];
    send(&ours, b"x", &many).unwrap();
    let (n, fds) = recv(&theirs, &mut [0; 1], MAX_FDS).unwrap();
    assert_eq!((n, fds.len()), (1, MAX_FDS));
    let too_many = send(&ours, b"x", &vec![ours.as_fd(); MAX_FDS + 1]).unwrap_err();
    assert_eq!(too_many.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(
        send(&ours, b"", &[]).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
}

/// Returns whether all writing ends of the pipe are closed.
fn is_at_end(reader: &mut PipeReader) -> bool {
    reader.read(&mut [0; 1]).unwrap() == 0
}

#[test]
fn unexpected_fds_are_closed_and_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    for (sent, max_fds) in [(1, 0), (2, 1), (3, 1), (40, 2)] {
        let (mut reader, writer) = io::pipe().unwrap();
        send(&ours, b"x", &vec![writer.as_fd(); sent]).unwrap();
        drop(writer);
        let error = recv(&theirs, &mut [0; 8], max_fds).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(&sent.to_string()), "{error}");
        assert!(is_at_end(&mut reader));
    }
}

#[test]
fn plain_bytes_and_the_end_of_the_stream_bring_no_fds() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"plain").unwrap();
    let mut bytes = [0; 8];
    let (n, fds) = recv(&theirs, &mut bytes, 2).unwrap();
    assert_eq!((&bytes[..n], fds.len()), (&b"plain"[..], 0));
    drop(ours);
    let (n, fds) = recv(&theirs, &mut bytes, 2).unwrap();
    assert_eq!((n, fds.len()), (0, 0));
}

#[test]
fn non_blocking_socket_says_so() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(
        recv(&theirs, &mut [0; 1], 2).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    ours.set_nonblocking(true).unwrap();
    let big = vec![0; 1 << 20];
    // Larger than any socket buffer: a part goes out, and then the connection is of no use.
    assert_eq!(
        send(&ours, &big, &[]).unwrap_err().kind(),
        io::ErrorKind::WriteZero
    );
    assert_eq!(
        send(&ours, &big, &[]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn short_sends_are_completed_on_a_blocking_socket() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    let big: Vec<u8> = (0_u8..=255).cycle().take(1 << 20).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| send(&ours, &big, &[file.as_fd()]).unwrap());
        let mut arrived = vec![0; 1 << 20];
        let (n, fds) = recv(&theirs, &mut arrived, 1).unwrap();
        assert_eq!(fds.len(), 1);
        theirs.read_exact(&mut arrived[n..]).unwrap();
        assert_eq!(arrived, big);
    });
}

#[test]
fn closed_peer_is_an_error_and_not_a_signal() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert_eq!(
        send(&ours, b"x", &[]).unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
}
