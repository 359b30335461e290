//! A client with a daemon of its own in the same process: for tests, examples, and programs whose
//! processes all descend from one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use goumem_proto::name::Label;
use goumemd::{Config, Listeners};
use tokio_util::sync::CancellationToken;

use crate::calls::CALL_DEADLINE;
use crate::client::{self, Client, MAX_IDLE_BYTES};
use crate::end::End;
use crate::error::Error;
use crate::housekeeper::LastAct;
use crate::session::{Session, Settings};

/// Directories of dead processes of the same number may be in the way.
const MAX_TRIES: u32 = 1000;

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Client {
    /// Starts a daemon inside this process and connects to it. Its sockets lie in a private
    /// directory under the system's one for temporary files; [`socket`](Self::socket) tells
    /// where, so that other processes of this user can connect too. The daemon ends with this
    /// client, whose drop waits for it: for everybody.
    ///
    /// # Errors
    /// [`Error::Os`] when the directory, sockets or threads cannot be made.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// let client = goumem::Client::embedded().await?;
    /// let second = goumem::Client::builder().socket(client.socket()).connect().await?;
    /// assert_ne!(client.session(), second.session());
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn embedded() -> Result<Self, Error> {
        let end = Arc::new(End::new(true));
        client::start(Arc::clone(&end), move |io, running| async move {
            let directory = private_directory().map_err(Error::os("make a directory"))?;
            let config = Config::private(&directory);
            let socket = config.socket.clone();
            let last_act = start(config, directory)?;
            let settings = Settings {
                socket,
                label: Label::default(),
                call_deadline: CALL_DEADLINE,
                max_idle_bytes: MAX_IDLE_BYTES,
            };
            Session::open(io, running, settings, end, Some(last_act)).await
        })
        .await
    }
}

/// Starts the daemon; returns how it ends.
fn start(config: Config, directory: PathBuf) -> Result<LastAct, Error> {
    let directory = Directory(directory);
    let listeners = Listeners::bind(&config)
        .map_err(|error| Error::os("start the embedded daemon")(io::Error::other(error)))?;
    let shutdown = CancellationToken::new();
    let daemon = tokio::spawn(goumemd::run(config, listeners, shutdown.clone()));
    Ok(Box::pin(async move {
        shutdown.cancel();
        if let Ok(Err(error)) = daemon.await {
            tracing::warn!(%error, "embedded daemon failed");
        }
        drop(directory);
    }))
}

/// Removed with everything in it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "directory was not removed");
        }
    }
}

/// Makes a directory that is this user's alone, and was not there before.
fn private_directory() -> io::Result<PathBuf> {
    let mut last = io::ErrorKind::AlreadyExists.into();
    for _ in 0..MAX_TRIES {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("goumem-{}-{n}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
