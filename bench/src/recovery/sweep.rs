//! The sweep of a session that had a million blocks, and whether others feel it.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use goumem::PoolOptions;
use goumem::blocking::Client;

use crate::control::Unary;
use crate::daemon::{Daemon, connect};
use crate::report::Line;
use crate::rpc::{Caller, POOL, runtime};
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate};
use crate::worker::{Serve, Worker};

/// The worker that is killed.
pub(crate) const ROLE: &str = "hold";

const MIB: u64 = 1 << 20;
/// What the dead session had.
const BLOCKS: usize = 1_000_000;
const POOL_BYTES: u64 = 256 * MIB;
/// How long the dead may take to be swept before something is wrong.
const DEADLINE: Duration = Duration::from_secs(10);

/// kill -9 of a client that shared a million blocks of 64 bytes: until none of them is left.
pub(crate) fn sweep(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool(POOL, PoolOptions::new(POOL_BYTES))?;
    let sweep = || {
        let doomed = Doomed::start(&daemon, &client, effort)?;
        doomed.die(Duration::ZERO).map(ms)
    };
    let medians = alternate(effort, 5, Box::new(sweep), Vec::new())?;
    let left = pool.stat()?.blocks;
    ensure!(left == 0, "{left} blocks are left");
    Ok(Line::new(bench, "ms", medians))
}

/// The longest lease by RPC in the pool that is swept, beside the longest when nobody dies.
pub(crate) fn lease_pause(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let runtime = runtime()?;
    let caller = runtime.block_on(Caller::connect_to(&daemon.socket(), POOL_BYTES))?;
    let mut calls = Unary(caller);
    let longest = move |stop: &AtomicBool| {
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            runtime.block_on(calls.cycle(1))?;
            longest = longest.max(start.elapsed());
        }
        anyhow::Ok(longest)
    };
    pause(bench, effort, &daemon, longest)
}

/// The longest allocation within what is leased already, in the pool that is swept, beside the
/// longest when nobody dies.
pub(crate) fn alloc_pause(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool(POOL, PoolOptions::new(POOL_BYTES))?;
    let longest = move |stop: &AtomicBool| {
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            drop(pool.alloc::<[u64; 8]>()?);
            longest = longest.max(start.elapsed());
        }
        anyhow::Ok(longest)
    };
    pause(bench, effort, &daemon, longest)
}

/// Runs what returns its longest step while a session is swept, and for as long while none is.
fn pause(
    bench: &Bench,
    effort: Effort,
    daemon: &Daemon,
    longest: impl FnMut(&AtomicBool) -> anyhow::Result<Duration> + Send,
) -> anyhow::Result<Line> {
    let client = daemon.client()?;
    let longest = RefCell::new(longest);
    let sweep_took = Cell::new(Duration::ZERO);
    let beside = |something: &mut dyn FnMut() -> anyhow::Result<()>| {
        let stop = AtomicBool::new(false);
        let mut longest = longest.borrow_mut();
        let longest = &mut *longest;
        thread::scope(|scope| {
            let measured = scope.spawn(|| longest(&stop));
            let done = something();
            stop.store(true, Ordering::Relaxed);
            let longest = measured.join().map_err(|_| anyhow!("a thread panicked"))?;
            done.and(longest).map(ms)
        })
    };
    let with_sweep: Run<'_> = Box::new(|| {
        let mut doomed = Some(Doomed::start(daemon, &client, effort)?);
        beside(&mut || {
            let doomed = doomed.take().context("dies once")?;
            // Others' time is what matters here: this one looks now and then.
            sweep_took.set(doomed.die(Duration::from_millis(1))?);
            Ok(())
        })
    });
    let without: Run<'_> = Box::new(|| {
        beside(&mut || {
            thread::sleep(sweep_took.get());
            Ok(())
        })
    });
    let medians = alternate(effort, 15, with_sweep, vec![("no_sweep", without)])?;
    Ok(Line::new(bench, "ms", medians).also([("sweep_ms", ms(sweep_took.get()))]))
}

/// A client that shared its blocks and will be killed.
struct Doomed<'a> {
    worker: Worker,
    client: &'a Client,
    /// With its own.
    sessions: u32,
}

impl<'a> Doomed<'a> {
    fn start(daemon: &Daemon, client: &'a Client, effort: Effort) -> anyhow::Result<Self> {
        let blocks = effort.size(BLOCKS, 10_000);
        let args = [daemon.socket().into_os_string(), blocks.to_string().into()];
        Ok(Self {
            worker: Worker::start(ROLE, &args)?,
            client,
            sessions: client.info()?.sessions,
        })
    }

    /// Kills it; returns how long it takes until its session is swept, seen to a `look`.
    fn die(self, look: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.worker.kill()?;
        // The sweep of a session ends with its number: to count the sessions costs next to nothing,
        // and waits for no pool.
        while self.client.info()?.sessions == self.sessions {
            ensure!(start.elapsed() < DEADLINE, "the dead are not swept");
            thread::sleep(look);
        }
        Ok(start.elapsed())
    }
}

/// Is the client that is killed: shares its blocks, and waits for its death.
pub(crate) fn hold(args: &[OsString]) -> anyhow::Result<Serve> {
    let [socket, blocks] = args else {
        bail!("a socket and a number");
    };
    let blocks = blocks.to_str().context("a number")?.parse()?;
    let client = connect(Path::new(socket))?;
    let pool = client.open_pool(POOL)?;
    let mut held = Vec::with_capacity(blocks);
    for _ in 0..blocks {
        held.push(pool.alloc::<[u64; 8]>()?.share()?);
    }
    Ok(Box::new(move |_| {
        let _ = &held;
        Ok(0.0)
    }))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
