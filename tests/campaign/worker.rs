//! A worker process: a few threads that work on one pool by the mapping, and one that does so by
//! gRPC alone, each with its own orders and its own random numbers. Private blocks also go from
//! thread to thread.

use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use goumem::blocking::{ArenaPool, Client, Pool};
use goumem::{Block, Error};
use harness::{PATIENCE, Random};

use crate::stamp::{Mismatch, Stamp};
use crate::wire::{News, Order, Wrong};
use crate::{ARENA_POOL, NAMED_POOL, POOL};

mod arenas;
mod hand;
mod private;
mod thin;
mod tokens;

/// The hidden role of this process.
pub(crate) const ROLE: &str = "role-worker";
/// Threads that work by the mapping.
const HANDS: u64 = 2;

/// What the threads of a worker share.
#[derive(Debug)]
struct Crew {
    id: u16,
    seed: u64,
    client: Client,
    pool: Pool,
    arenas: ArenaPool,
    /// The pool in `/dev/shm`, if there is one.
    named: Option<Pool>,
    next_seq: AtomicU32,
    /// Blocks that a thread has left for another one to verify and free.
    exchange: Mutex<Vec<(Block<[u64]>, Stamp)>>,
}

impl Crew {
    fn stamp(&self) -> Stamp {
        // ORDERING: Relaxed; the number has to be unique, and carries nothing.
        Stamp::new(self.id, self.next_seq.fetch_add(1, Ordering::Relaxed))
    }

    fn random(&self, thread: u64) -> Random {
        let number = u64::from(self.id) << 8 | thread;
        Random::new(
            self.seed
                .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        )
    }

    fn exchange(&self) -> MutexGuard<'_, Vec<(Block<[u64]>, Stamp)>> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the director something.
fn tell(news: &News) {
    // If nobody listens any more, the closed standard input ends this process too.
    let _ = io::stdout()
        .lock()
        .write_all(format!("{news}\n").as_bytes());
}

fn bug(wrong: Wrong, text: impl Into<String>) {
    tell(&News::Bug(wrong, text.into()));
}

/// Reports a block that is not what was written there.
fn report_mismatch(mismatch: &Mismatch, doing: &str) {
    // Pages that were taken away under a block read as zero.
    let wrong = if mismatch.found == 0 {
        Wrong::Lost
    } else {
        Wrong::Overlap
    };
    bug(wrong, format!("{doing}: {mismatch}"));
}

/// Runs until standard input closes: `SOCKET ID SEED`.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let [socket, id, seed] = args else {
        anyhow::bail!("usage: SOCKET ID SEED");
    };
    let client = connect(socket, &format!("worker {id}"))?;
    let crew = Arc::new(Crew {
        id: id.parse().context("an id")?,
        seed: seed.parse().context("a seed")?,
        pool: client.open_pool(POOL)?,
        arenas: client.open_arena_pool(ARENA_POOL)?,
        named: match client.open_pool(NAMED_POOL) {
            Err(Error::PoolNotFound { .. }) => None,
            opened => Some(opened?),
        },
        client,
        next_seq: AtomicU32::new(1),
        exchange: Mutex::default(),
    });
    let thin = thin::Thin::open(Arc::clone(&crew), socket.as_ref())?;
    let own = (crew.client.session().get(), crew.client.session_serial());
    tell(&News::Hello(vec![own, thin.session()]));

    let mut threads = Vec::new();
    for number in 0..HANDS {
        let (sender, orders) = mpsc::channel();
        let hand = hand::Hand::new(Arc::clone(&crew), number, HANDS + 1);
        thread::Builder::new()
            .name(format!("hand {number}"))
            .spawn(move || hand.work(&orders))?;
        threads.push(sender);
    }
    let (sender, orders) = mpsc::channel();
    thread::Builder::new()
        .name("thin".to_owned())
        .spawn(move || thin.work(&orders, HANDS + 1))?;
    threads.push(sender);
    pass_on(&threads)?;
    // Not by returning, which would drop and close: the director is gone, and so are we.
    #[expect(clippy::exit, reason = "the campaign that wanted this process is over")]
    std::process::exit(0)
}

/// Opens a session, when there is a daemon.
pub(crate) fn connect(socket: &str, label: &str) -> Result<Client> {
    let start = Instant::now();
    loop {
        let builder = Client::builder().socket(socket).label(label);
        match builder.connect() {
            Err(Error::NoDaemon { .. } | Error::Transport { .. }) if start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// Passes orders to the threads: to each in turn what is for one of them.
fn pass_on(threads: &[Sender<Order>]) -> Result<()> {
    let (mut next, mut next_hand) = (0, 0);
    for line in io::stdin().lock().lines() {
        let line = line?;
        let order: Order = line.parse().map_err(anyhow::Error::msg)?;
        let to: Vec<usize> = match order {
            Order::Take(_) | Order::Look(_) => {
                next += 1;
                vec![next % threads.len()]
            }
            Order::Attach(_) => {
                next_hand += 1;
                vec![next_hand % (threads.len() - 1)]
            }
            Order::Pause | Order::Drain | Order::Go | Order::Sabotage(_) => {
                (0..threads.len()).collect()
            }
        };
        for at in to {
            // A thread that has panicked has said so; the director sees that it stands still.
            let _ = threads[at].send(order.clone());
        }
    }
    Ok(())
}
