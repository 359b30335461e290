//! Two processes that bump one arena, which they share by name; beside a loop of compare and
//! exchange on one shared word, which is the least that two processes could do.
#![expect(
    clippy::disallowed_types,
    reason = "the payload of an arena, not a word of goumem's"
)]

use std::ffi::OsString;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use goumem::blocking::{Arena, ArenaPool};
use goumem::{Access, ArenaPoolOptions, Handle};

use crate::arena::Unit;
use crate::daemon::{Daemon, connect};
use crate::report::Line;
use crate::ring::spin;
use crate::suite::Bench;
use crate::timing::{Effort, alternate, each_ns};
use crate::worker::{Serve, TwoWorkers, Worker};

/// The role of a worker process.
pub(crate) const ROLE: &str = "bump";

/// Bumps of each process in a round.
const BUMPS: u32 = 500_000;
const POOL: &str = "bench";
/// The name of the arena with the word, and of the one to bump.
const WORD: &str = "word";
const BUMPED: &str = "bumped";

/// Two cache lines, which processors fetch together.
const LINE_WORDS: usize = 16;
/// The word to exchange, and the one to meet at.
type Words = [AtomicU64; 2 * LINE_WORDS];
type PlainWords = [u64; 2 * LINE_WORDS];
const EXCHANGED: usize = 0;
const ARRIVED: usize = LINE_WORDS;

/// Nanoseconds for an allocation of each process, until the slower one is done.
pub(crate) fn bump(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let bumps = effort.size(BUMPS, BUMPS / 10);
    let arena_bytes = 2 * u64::from(bumps) * size_of::<Unit>() as u64;
    let pool = client.create_arena_pool(POOL, ArenaPoolOptions::new(2, arena_bytes))?;
    let mut with_word = pool.try_get()?;
    let word = with_word.alloc::<PlainWords>()?.handle();
    with_word.share(WORD)?;
    let args = [daemon.socket().into_os_string(), word.to_string().into()];
    let workers = TwoWorkers([Worker::start(ROLE, &args)?, Worker::start(ROLE, &args)?]);
    let workers = std::cell::RefCell::new(workers);
    let goumem = Box::new(|| {
        // An arena that others hold is not emptied, so each round has one of its own.
        let mut arena = pool.get()?;
        arena.share(BUMPED)?;
        let mut workers = workers.borrow_mut();
        workers.round("attach")?;
        let [a, b] = workers.round(&format!("bump {bumps}"))?;
        workers.round("detach")?;
        arena.detach()?;
        Ok(a.max(b))
    });
    let bare = Box::new(|| {
        let [a, b] = workers.borrow_mut().round(&format!("exchange {bumps}"))?;
        Ok(a.max(b))
    });
    let medians = alternate(effort, 50, goumem, vec![("exchange_loop", bare)])?;
    Ok(Line::new(bench, "ns", medians))
}

/// Prepares a worker: at the socket, with the handle of the word.
///
/// # Errors
/// Those of connecting and attaching.
pub(crate) fn serve(args: &[OsString]) -> anyhow::Result<Serve> {
    let [socket, word] = args else {
        bail!("not a socket and a handle");
    };
    let client = connect(Path::new(socket))?;
    let pool: ArenaPool = client.open_arena_pool(POOL)?;
    let with_word = pool.attach(WORD, Access::ReadWrite)?;
    let word: Handle = word.to_str().context("not a handle")?.parse()?;
    let mut bumped = None;
    let mut rounds = 0;
    Ok(Box::new(move |line| {
        let words = with_word.resolve::<PlainWords>(word)?.atomics::<Words>()?;
        let (what, n) = line.split_once(' ').unwrap_or((line, "0"));
        let n = n.parse()?;
        match what {
            "attach" => bumped = Some(pool.attach(BUMPED, Access::ReadWrite)?),
            "detach" => drop(bumped.take().map(Arena::detach).transpose()?),
            "bump" => {
                let arena = bumped.as_ref().context("no arena")?;
                rounds += 1;
                meet(&words[ARRIVED], rounds)?;
                return each_ns(n, || {
                    black_box(arena.alloc::<Unit>()?.handle());
                    Ok(())
                });
            }
            "exchange" => {
                rounds += 1;
                meet(&words[ARRIVED], rounds)?;
                return each_ns(n, || {
                    black_box(advance(&words[EXCHANGED]));
                    Ok(())
                });
            }
            other => bail!("no such round: {other}"),
        }
        Ok(0.0)
    }))
}

/// Waits until both processes are here, for the n-th time: they begin within a microsecond.
fn meet(arrived: &AtomicU64, nth: u64) -> anyhow::Result<()> {
    arrived.fetch_add(1, Ordering::Relaxed);
    spin("nobody to begin with", || {
        (arrived.load(Ordering::Relaxed) >= 2 * nth).then_some(())
    })
}

/// Adds to a word as a cursor is bumped, but for every check.
#[inline]
fn advance(word: &AtomicU64) -> u64 {
    let mut found = word.load(Ordering::Relaxed);
    loop {
        let next = found.wrapping_add(4);
        match word.compare_exchange_weak(found, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return found,
            Err(now) => found = now,
        }
    }
}
