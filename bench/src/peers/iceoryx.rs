//! iceoryx2: a publisher and a subscriber of arrays of words, in processes of their own.

use std::path::Path as OsPath;

use anyhow::{Context as _, bail, ensure};
use iceoryx2::port::{publisher, subscriber};
use iceoryx2::prelude::{
    Config, FileName, LogLevel, Node, NodeBuilder, Path, SemanticString as _, ipc, set_log_level,
};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use crate::handoff::Work;
use crate::ring::ROOM;

type Payload<const WORDS: usize> = [u64; WORDS];

/// The side that sends arrays of so many words.
#[derive(Debug)]
pub(crate) struct Publisher<const WORDS: usize> {
    port: publisher::Publisher<ipc::Service, Payload<WORDS>, ()>,
    _service: Service<WORDS>,
}

/// The side that receives them.
#[derive(Debug)]
pub(crate) struct Subscriber<const WORDS: usize> {
    port: subscriber::Subscriber<ipc::Service, Payload<WORDS>, ()>,
    _service: Service<WORDS>,
}

impl<const WORDS: usize> Publisher<WORDS> {
    /// Makes the one publisher of the service whose files are in `directory`.
    ///
    /// # Errors
    /// Those of iceoryx2.
    pub(crate) fn new(directory: &OsPath) -> anyhow::Result<Self> {
        let service = Service::open(directory)?;
        let port = service.factory.publisher_builder();
        let port = port.max_loaned_samples(1).create()?;
        let _service = service;
        Ok(Self { port, _service })
    }

    /// Sends a message: borrows its memory, writes it as a block of goumem is, and sends it.
    ///
    /// # Errors
    /// Those of iceoryx2; that nobody is there to get it.
    #[inline]
    pub(crate) fn send(&self, work: Work, number: u64) -> anyhow::Result<()> {
        let sample = self.port.loan_uninit()?;
        // SAFETY: memory that is shared has no uninitialised bytes, and all bits are a `u64`.
        let mut sample = unsafe { sample.assume_init() };
        work.write(&mut *sample, number);
        let receivers = sample.send()?;
        ensure!(receivers == 1, "{receivers} got a message, not 1");
        Ok(())
    }
}

impl<const WORDS: usize> Subscriber<WORDS> {
    /// Makes the one subscriber.
    ///
    /// # Errors
    /// Those of iceoryx2.
    pub(crate) fn new(directory: &OsPath) -> anyhow::Result<Self> {
        let service = Service::open(directory)?;
        let port = service.factory.subscriber_builder();
        let port = port.buffer_size(ROOM).create()?;
        let _service = service;
        Ok(Self { port, _service })
    }

    /// Receives a message, reads it as a block of goumem is, and gives its memory back; none if
    /// none has come.
    ///
    /// # Errors
    /// Those of iceoryx2.
    #[inline]
    pub(crate) fn receive(&self, work: Work) -> anyhow::Result<Option<u64>> {
        let sample = self.port.receive()?;
        Ok(sample.map(|sample| work.read(&*sample)))
    }
}

/// Removes what iceoryx2 leaves in `/dev/shm` of the services in a directory, when it is dropped:
/// even after a clean end a segment that manages nodes is there.
#[derive(Debug)]
pub(crate) struct Leftovers(String);

impl Leftovers {
    pub(crate) fn of(directory: &OsPath) -> anyhow::Result<Self> {
        prefix(directory).map(Self)
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let segments = std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten();
        for segment in segments {
            if segment.file_name().to_string_lossy().starts_with(&self.0) {
                let _ = std::fs::remove_file(segment.path());
            }
        }
    }
}

/// Returns what the names of its segments begin with: as unique as the directory.
fn prefix(directory: &OsPath) -> anyhow::Result<String> {
    let name = directory.file_name().and_then(|name| name.to_str());
    let name = name.context("a directory without a name")?;
    Ok(format!("goumem-bench{name}_"))
}

/// The service that both sides find.
#[derive(Debug)]
struct Service<const WORDS: usize> {
    factory: PortFactory<ipc::Service, Payload<WORDS>, ()>,
    _node: Node<ipc::Service>,
}

impl<const WORDS: usize> Service<WORDS> {
    /// Opens it for one publisher and one subscriber, and as many messages under way as the ring
    /// of handles has room for, none of which is lost.
    fn open(directory: &OsPath) -> anyhow::Result<Self> {
        set_log_level(LogLevel::Error);
        let root = directory.join("iceoryx2");
        let root = root.to_str().context("a path that is not UTF-8")?;
        let Ok(root) = Path::new(root.as_bytes()) else {
            bail!("iceoryx2 cannot have its files in {root}");
        };
        let mut config = Config::default();
        config.global.set_root_path(&root);
        let Ok(prefix) = FileName::new(prefix(directory)?.as_bytes()) else {
            bail!("iceoryx2 takes no file names as {}", prefix(directory)?);
        };
        config.global.prefix = prefix;
        let node = NodeBuilder::new()
            .config(&config)
            .create::<ipc::Service>()?;
        let factory = node
            .service_builder(&"goumem-bench".try_into()?)
            .publish_subscribe::<Payload<WORDS>>()
            .max_publishers(1)
            .max_subscribers(1)
            .history_size(0)
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(ROOM)
            .open_or_create()?;
        Ok(Self {
            factory,
            _node: node,
        })
    }
}
