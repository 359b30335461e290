//! The worker that is never killed or stopped: one thread allocates, shares, takes and frees inside
//! what it has leased, for which no daemon is needed, and measures how long that ever takes.
//! A second thread does the like with memory of the process's own.
//!
//! A thread also pauses because the machine has other things to do. So the time that it was ready
//! to run but had no processor, which the kernel tells in `/proc/thread-self/schedstat`, does not
//! count; and the second thread shows what is left of that: faults, interrupts, a hypervisor that
//! takes the processor away.

use std::fs;
use std::hint::black_box;
use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use goumem::Block;
use goumem::blocking::Pool;
use goumem_shm::sync::{AtomicU64, Ordering};

use crate::STEADY_POOL;
use crate::stamp::Stamp;
use crate::wire::{News, Order, Pauses, Sabotage, Wrong};
use crate::worker::connect;

/// The hidden role of this process.
pub(crate) const ROLE: &str = "role-steady";
/// Shorter pauses are not looked at: reading what the kernel tells takes a few microseconds.
const NOTABLE: Duration = Duration::from_micros(200);
/// Between two reports.
const REPORT: Duration = Duration::from_millis(200);
/// A thread that never rests would take the processor from those that are to be disturbed.
const REST: Duration = Duration::from_millis(1);
const WORDS: [usize; 4] = [2, 40, 500, 4000];

/// The longest pauses of one thread, in microseconds.
#[derive(Debug, Default)]
struct Longest {
    own_us: AtomicU64,
    wall_us: AtomicU64,
}

/// Looks at the clock between two pieces of work.
struct Watch<'a> {
    longest: &'a Longest,
    last: Instant,
    waited_ns: u64,
}

impl<'a> Watch<'a> {
    fn new(longest: &'a Longest) -> Self {
        Self {
            longest,
            last: Instant::now(),
            waited_ns: waited_ns(),
        }
    }

    /// A piece of work begins.
    fn start(&mut self) {
        self.waited_ns = waited_ns();
        self.last = Instant::now();
    }

    /// A step of it is done.
    fn step(&mut self) {
        let now = Instant::now();
        let wall = now - self.last;
        self.last = now;
        if wall < NOTABLE {
            return;
        }
        let waited_ns = waited_ns();
        let waited = Duration::from_nanos(waited_ns.saturating_sub(self.waited_ns));
        self.waited_ns = waited_ns;
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // ORDERING: Relaxed; both are numbers to be reported, and nothing else.
        let Longest { own_us, wall_us } = self.longest;
        own_us.fetch_max(us(wall.saturating_sub(waited)), Ordering::Relaxed);
        wall_us.fetch_max(us(wall), Ordering::Relaxed);
        self.last = Instant::now();
    }
}

/// Returns for how long this thread has been ready to run and had no processor.
fn waited_ns() -> u64 {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let field = told.split_whitespace().nth(1);
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Runs until standard input closes: `SOCKET ID SEED`.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let id: u16 = args.get(1).context("an id")?.parse()?;
    let client = connect(args.first().context("a socket")?, "steady")?;
    let pool = client.open_pool(STEADY_POOL)?;
    let own = (client.session().get(), client.session_serial());
    println!("{}", News::Hello(vec![own]));
    let longest = Arc::new([Longest::default(), Longest::default()]);
    let sabotage = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let (longest, sabotage) = (Arc::clone(&longest), Arc::clone(&sabotage));
        move || {
            if let Err(error) = allocate(&pool, id, &longest[0], &sabotage) {
                let text = format!("inside its lease: {error:#}");
                println!("{}", News::Bug(Wrong::Error, text));
            }
        }
    });
    thread::spawn({
        let longest = Arc::clone(&longest);
        move || control(id, &longest[1])
    });
    thread::spawn(move || {
        loop {
            thread::sleep(REPORT);
            let get = |us: &AtomicU64| us.load(Ordering::Relaxed);
            let pauses = Pauses {
                own_us: get(&longest[0].own_us),
                wall_us: get(&longest[0].wall_us),
                control_us: get(&longest[1].own_us),
                control_wall_us: get(&longest[1].wall_us),
            };
            println!("{}", News::Pauses(pauses));
        }
    });
    for line in io::stdin().lock().lines() {
        if line?.parse() == Ok(Order::Sabotage(Sabotage::Pause)) {
            // ORDERING: Relaxed; the flag carries nothing.
            sabotage.store(true, Ordering::Relaxed);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Works inside what it has leased for ever.
fn allocate(pool: &Pool, id: u16, longest: &Longest, sabotage: &AtomicBool) -> Result<()> {
    // One block of each class stays, so that its span is never idle and never given back.
    let _first: Vec<Block<[u64]>> = WORDS
        .iter()
        .map(|&words| pool.alloc_slice(words))
        .collect::<Result<_, _>>()?;
    let mut watch = Watch::new(longest);
    let mut seq = 0;
    loop {
        watch.start();
        for _ in 0..8 {
            for words in WORDS {
                seq += 1;
                let stamp = Stamp::new(id, seq);
                let mut block = pool.try_alloc_slice::<u64>(words)?;
                stamp.write(&mut block);
                let handle = block.share()?.into_handle();
                if seq % 2 == 0 {
                    let block = pool.take_slice::<u64>(handle)?;
                    stamp.verify(&block).map_err(|m| anyhow::anyhow!("{m}"))?;
                } else {
                    let words = pool.resolve_slice::<u64>(handle)?.read_slice()?;
                    stamp.verify(&words).map_err(|m| anyhow::anyhow!("{m}"))?;
                    pool.free(handle)?;
                }
                if sabotage.swap(false, Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(400));
                }
                watch.step();
            }
        }
        thread::sleep(REST);
    }
}

/// The same work in memory of the process's own.
fn control(id: u16, longest: &Longest) {
    let mut watch = Watch::new(longest);
    let mut seq = 0;
    loop {
        watch.start();
        for _ in 0..8 {
            for words in WORDS {
                seq += 1;
                let stamp = Stamp::new(id, seq);
                let mut block = vec![0; words];
                stamp.write(&mut block);
                let _ = black_box(stamp.verify(&block));
                watch.step();
            }
        }
        thread::sleep(REST);
    }
}
