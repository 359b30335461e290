//! Handing blocks over: one process allocates and writes, another takes, reads and frees. The
//! handle goes through a ring in shared memory; beside loan, send and receive of iceoryx2, between
//! the same two processes, with as many messages under way and the same bytes written and read.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use goumem::blocking::{ArenaPool, Pool};
use goumem::{Access, ArenaPoolOptions, Handle, PoolOptions};

use crate::daemon::{Daemon, connect};
use crate::peers::Peer;
use crate::report::Line;
use crate::ring::{self, Head, Tail};
use crate::suite::Bench;
use crate::timing::{Effort, alternate, each_ns};
use crate::worker::{Serve, TwoWorkers, Worker};

/// The roles of the two worker processes.
pub(crate) const SENDER: &str = "sender";
pub(crate) const RECEIVER: &str = "receiver";

const POOL: &str = "blocks";
const RINGS: &str = "rings";

/// How many bytes there are.
const SMALL_WORDS: usize = 64 / 8;
const LARGE_WORDS: usize = 80_000 / 8;

/// What is done to the bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// All are written, and all are read.
    All,
    /// Only the first word is: what is left is the handing over itself.
    First,
}

impl Work {
    /// Writes a message.
    #[inline]
    pub(crate) fn write(self, words: &mut [u64], number: u64) {
        match self {
            Self::All => words.fill(number),
            Self::First => words[0] = number,
        }
    }

    /// Returns the sum of what is read.
    #[inline]
    pub(crate) fn read(self, words: &[u64]) -> u64 {
        match self {
            Self::All => words.iter().fold(0, |sum, word| sum.wrapping_add(*word)),
            Self::First => words[0],
        }
    }

    /// Makes sure that it is the sum of that message.
    #[inline]
    fn check(self, sum: u64, number: u64, n_words: usize) -> anyhow::Result<()> {
        let expected = match self {
            Self::All => number.wrapping_mul(n_words as u64),
            Self::First => number,
        };
        ensure!(sum == expected, "read {sum} in message {number}");
        Ok(())
    }
}

pub(crate) fn small(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    handoff(bench, effort, "small", effort.size(100_000, 10_000))
}

pub(crate) fn large(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    handoff(bench, effort, "large", effort.size(2000, 200))
}

pub(crate) fn large_touch(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    handoff(bench, effort, "large_touch", effort.size(100_000, 10_000))
}

/// Nanoseconds for each message, until the slower side is done.
fn handoff(bench: &Bench, effort: Effort, kind: &str, messages: u32) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let _pool = client.create_pool(POOL, PoolOptions::new(256 << 20))?;
    let arenas = client.create_arena_pool(RINGS, ArenaPoolOptions::new(1, 64 << 10))?;
    let mut arena = arenas.try_get()?;
    let ring = arena.alloc::<ring::Words>()?.handle();
    let acknowledged = arena.alloc::<ring::Words>()?.handle();
    arena.share(RINGS)?;
    let args: [OsString; 5] = [
        daemon.socket().into(),
        daemon.directory().into(),
        kind.into(),
        ring.to_string().into(),
        acknowledged.to_string().into(),
    ];
    // Dropped after the workers.
    #[cfg(feature = "peers")]
    let _leftovers = crate::peers::Leftovers::of(daemon.directory())?;
    let workers = [
        Worker::start(SENDER, &args)?,
        Worker::start(RECEIVER, &args)?,
    ];
    let workers = std::cell::RefCell::new(TwoWorkers(workers));
    let round = |what| {
        let [a, b] = workers.borrow_mut().round(&format!("{what} {messages}"))?;
        Ok(f64::max(a, b))
    };
    let goumem = Box::new(|| round("goumem"));
    let peers: Vec<Peer<'_>> = if crate::peers::ALL {
        vec![("iceoryx2", Box::new(|| round("iceoryx2")))]
    } else {
        Vec::new()
    };
    let medians = alternate(effort, 50, goumem, peers)?;
    Ok(Line::new(bench, "ns", medians))
}

/// What a worker is told.
struct Place {
    pool: Pool,
    arena: goumem::blocking::Arena,
    ring: Handle,
    work: Work,
    #[cfg(feature = "peers")]
    beside: Beside,
}

/// Where iceoryx2 has its files, and the ring that counts its messages.
#[cfg(feature = "peers")]
struct Beside {
    directory: std::path::PathBuf,
    acknowledged: Handle,
}

impl Place {
    /// Returns it, and whether messages are large.
    fn parse(args: &[OsString]) -> anyhow::Result<(Self, bool)> {
        let [socket, directory, kind, ring, acknowledged] = args else {
            bail!("not a socket, a directory, a kind and two handles");
        };
        let client = connect(Path::new(socket))?;
        let arenas: ArenaPool = client.open_arena_pool(RINGS)?;
        let handle = |text: &OsString| -> anyhow::Result<Handle> {
            Ok(text.to_str().context("not a handle")?.parse()?)
        };
        let (large, work) = match kind.to_str() {
            Some("small") => (false, Work::All),
            Some("large") => (true, Work::All),
            Some("large_touch") => (true, Work::First),
            _ => bail!("no such kind: {}", kind.display()),
        };
        let place = Self {
            pool: client.open_pool(POOL)?,
            arena: arenas.attach(RINGS, Access::ReadWrite)?,
            ring: handle(ring)?,
            work,
            #[cfg(feature = "peers")]
            beside: Beside {
                directory: directory.into(),
                acknowledged: handle(acknowledged)?,
            },
        };
        #[cfg(not(feature = "peers"))]
        let _ = (directory, acknowledged);
        Ok((place, large))
    }

    fn words(&self, ring: Handle) -> anyhow::Result<&ring::Shared> {
        Ok(self.arena.resolve::<ring::Words>(ring)?.atomics()?)
    }
}

/// Prepares the worker that sends.
///
/// # Errors
/// Those of connecting and attaching.
pub(crate) fn serve_sender(args: &[OsString]) -> anyhow::Result<Serve> {
    let (place, large) = Place::parse(args)?;
    if large {
        sender::<LARGE_WORDS>(place)
    } else {
        sender::<SMALL_WORDS>(place)
    }
}

/// Prepares the worker that receives.
///
/// # Errors
/// Those of connecting and attaching.
pub(crate) fn serve_receiver(args: &[OsString]) -> anyhow::Result<Serve> {
    let (place, large) = Place::parse(args)?;
    if large {
        receiver::<LARGE_WORDS>(place)
    } else {
        receiver::<SMALL_WORDS>(place)
    }
}

fn sender<const WORDS: usize>(place: Place) -> anyhow::Result<Serve> {
    #[cfg(feature = "peers")]
    let publisher = crate::peers::Publisher::<WORDS>::new(&place.beside.directory)?;
    Ok(Box::new(move |line| {
        let (what, messages) = parse_round(line)?;
        match what {
            "goumem" => {
                let mut tail = Tail::of(place.words(place.ring)?);
                each_ns(messages, || {
                    let mut block = match place.pool.try_alloc::<[u64; WORDS]>() {
                        Ok(block) => block,
                        Err(_) => place.pool.alloc()?,
                    };
                    place.work.write(&mut *block, tail.sent());
                    tail.send(block.share()?.into_handle())
                })
            }
            #[cfg(feature = "peers")]
            "iceoryx2" => {
                let mut tail = Tail::of(place.words(place.beside.acknowledged)?);
                each_ns(messages, || {
                    tail.wait_for_room()?;
                    publisher.send(place.work, tail.sent())?;
                    tail.note_sent();
                    Ok(())
                })
            }
            other => bail!("no such round: {other}"),
        }
    }))
}

fn receiver<const WORDS: usize>(place: Place) -> anyhow::Result<Serve> {
    #[cfg(feature = "peers")]
    let subscriber = crate::peers::Subscriber::<WORDS>::new(&place.beside.directory)?;
    Ok(Box::new(move |line| {
        let (what, messages) = parse_round(line)?;
        match what {
            "goumem" => {
                let mut head = Head::of(place.words(place.ring)?);
                each_ns(messages, || {
                    let number = head.received();
                    let block = place.pool.take::<[u64; WORDS]>(head.receive()?)?;
                    let sum = place.work.read(&*block);
                    place.work.check(sum, number, WORDS)
                })
            }
            #[cfg(feature = "peers")]
            "iceoryx2" => {
                let mut head = Head::of(place.words(place.beside.acknowledged)?);
                each_ns(messages, || {
                    let number = head.received();
                    let sum = wait_for(|| subscriber.receive(place.work))?;
                    head.note_received();
                    place.work.check(sum, number, WORDS)
                })
            }
            other => bail!("no such round: {other}"),
        }
    }))
}

/// Repeats until there is something, or an error.
#[cfg(feature = "peers")]
#[inline]
fn wait_for<T>(mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    ring::spin("no message", || look().transpose())?
}

fn parse_round(line: &str) -> anyhow::Result<(&str, u32)> {
    let (what, messages) = line.split_once(' ').context("not a round")?;
    Ok((what, messages.parse()?))
}
