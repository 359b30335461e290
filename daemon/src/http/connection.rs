//! One connection: HTTP/1.1 with little patience. Who is slow at asking is cut off, and so is who
//! does not read what it asked for.

use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::codegen::Service as _;

use super::Visitor;

/// How long a request may take to arrive, and a connection may be idle before it does.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may leave what was sent to it unread, when no more fits into the socket.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A request's first line and headers; a browser's come to one or two KiB.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Headers of a request; a browser sends about twenty.
const MAX_HEADERS: usize = 64;

/// Answers one client until it leaves or breaks the rules.
pub(super) async fn converse<S>(socket: S, visitor: Visitor, pages: Router) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(visitor.clone());
        let mut pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.call(request).await.unwrap_or_else(|e| match e {})) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_header_size(MAX_REQUEST_BYTES)
        .max_buf_size(MAX_REQUEST_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Impatient::new(socket, STALL_TIMEOUT)), answer)
        .await
}

/// A socket whose writes fail when nothing of them is taken for a while.
#[derive(Debug)]
struct Impatient<S> {
    socket: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(socket: S, patience: Duration) -> Self {
        Self {
            socket,
            patience,
            stalled: None,
        }
    }

    /// Passes on what the socket says of a write; while it says nothing, time runs.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn write_that_nobody_reads_fails_in_time() {
        let (_reader, ours) = tokio::io::duplex(16);
        let mut ours = Impatient::new(ours, Duration::from_millis(20));
        let error = ours.write_all(&[7; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn write_that_is_read_piece_by_piece_goes_through() {
        let (mut reader, ours) = tokio::io::duplex(16);
        let mut ours = Impatient::new(ours, STALL_TIMEOUT);
        let reading = tokio::spawn(async move {
            let mut pieces = [0; 80];
            reader.read_exact(&mut pieces).await.map(|_| pieces)
        });
        ours.write_all(&[7; 80]).await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), [7; 80]);
        assert!(ours.stalled.is_none(), "no time runs");
    }
}
