//! Something to look at, on the daemon's page or in `goumemctl top`: a few processes that allocate,
//! share, keep and free, as a camera and those who use its pictures would. They use the daemon that
//! runs (or that of `GOUMEM_SOCKET`), and end with this program: at the end of its standard input.
//!
//! `cargo run -p goumem --example busy -- 10000` has so many small blocks beside.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use goumem::blocking::{ArenaPool, Client, Pool};
use goumem::{ArenaPoolOptions, Error, PoolOptions, Shared};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const FRAMES: &str = "frames";
const INDEX: &str = "index";
const BATCHES: &str = "batches";
const N_ARENAS: u64 = 96;

/// What one process does: its name, its pool, how large its blocks are, how many it has, how long
/// it thinks.
type Role = (&'static str, &'static str, (u64, u64), u64, u64);

const ROLES: [Role; 5] = [
    ("camera", FRAMES, (700_000, 2_400_000), 14, 90),
    ("decoder", FRAMES, (40_000, 220_000), 70, 40),
    ("trainer", FRAMES, (90_000, 900_000), 20, 120),
    ("features", INDEX, (2_000, 40_000), 250, 25),
    ("search", INDEX, (64, 900), 600, 15),
];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    let small_blocks = |text: Option<String>| text.and_then(|text| text.parse().ok());
    match ROLES.iter().find(|role| Some(role.0) == first.as_deref()) {
        Some(role) => play(role, small_blocks(args.next()).unwrap_or(role.3)),
        None => direct(small_blocks(first)),
    }
}

/// Makes the pools, starts the processes and waits for the end of standard input.
fn direct(small_blocks: Option<u64>) -> Result<()> {
    let client = Client::builder().label("director").connect()?;
    let frames = client.open_or_create_pool(FRAMES, PoolOptions::new(96 << 20))?;
    client.open_or_create_pool(INDEX, PoolOptions::new(24 << 20))?;
    let arenas = ArenaPoolOptions::new(u32::try_from(N_ARENAS)?, 1 << 20);
    client.open_or_create_arena_pool(BATCHES, arenas)?;
    for (name, len_bytes) in [("model.weights", 6 << 20), ("labels", 90_000)] {
        if frames.lookup(name).is_err() {
            let handle = frames.alloc_bytes(len_bytes, 64)?.into_handle()?;
            frames.publish(name, handle)?;
        }
    }
    let mut cast = Cast(Vec::new());
    for (name, _, _, blocks, _) in ROLES {
        let blocks = small_blocks.filter(|_| name == "search").unwrap_or(blocks);
        let mut command = Command::new(std::env::current_exe()?);
        command.args([name, &blocks.to_string()]);
        cast.0.push(command.stdin(Stdio::piped()).spawn()?);
    }
    println!("busy: {} processes; Ctrl-D ends them", ROLES.len());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The processes, which end when their standard input does.
struct Cast(Vec<Child>);

impl Drop for Cast {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            // What became of it, it has said itself.
            let _ = child.wait();
        }
    }
}

static ENDED: AtomicBool = AtomicBool::new(false);

fn play(&(name, pool, sizes, _, think_ms): &Role, n_blocks: u64) -> Result<()> {
    thread::spawn(|| {
        // An error is an end as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ENDED.store(true, Ordering::Relaxed);
    });
    let client = Client::builder().label(name).connect()?;
    let pool = client.open_pool(pool)?;
    let arenas = client.open_arena_pool(BATCHES)?;
    let mut dice = Dice(u64::from(std::process::id()) << 17 | 1);
    let mut blocks = Vec::new();
    let mut act = Act {
        arenas,
        named: name == "trainer",
        held: Vec::new(),
    };
    while (blocks.len() as u64) < n_blocks && share_one(&pool, &mut blocks, sizes, &mut dice)? {}
    while !ENDED.load(Ordering::Relaxed) {
        for _ in 0..=dice.below(3) {
            if (blocks.len() as u64) < n_blocks - dice.below(1 + n_blocks / 8) {
                share_one(&pool, &mut blocks, sizes, &mut dice)?;
            } else if !blocks.is_empty() {
                let at = usize::try_from(dice.below(blocks.len() as u64))?;
                blocks.swap_remove(at);
            }
        }
        if dice.below(6) == 0 {
            act.step(&mut dice)?;
        }
        thread::sleep(Duration::from_millis(think_ms / 2 + dice.below(think_ms)));
    }
    Ok(())
}

/// Allocates a block and shares it; returns whether there was room.
fn share_one(
    pool: &Pool,
    blocks: &mut Vec<Shared<[u8]>>,
    (least, most): (u64, u64),
    dice: &mut Dice,
) -> Result<bool> {
    let len_bytes = least + dice.below(most - least);
    match pool.alloc_bytes(usize::try_from(len_bytes)?, 16) {
        Ok(block) => {
            blocks.push(block.share()?);
            Ok(true)
        }
        Err(error) if is_full(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_full(error: &Error) -> bool {
    error.reason() == Some(goumem::Reason::PoolExhausted)
}

/// What a process does with arenas: it fills some, shares a few by name, and returns them.
struct Act {
    arenas: ArenaPool,
    named: bool,
    held: Vec<goumem::blocking::Arena>,
}

impl Act {
    fn step(&mut self, dice: &mut Dice) -> Result<()> {
        if self.held.len() < 4 + usize::try_from(dice.below(6))? {
            let Ok(mut arena) = self.arenas.try_get() else {
                return Ok(()); // all are held: another time
            };
            arena.alloc_bytes(usize::try_from(1 + dice.below((1 << 20) - 4096))?, 16)?;
            if self.named {
                arena.share(&format!("batch/{}", dice.below(10_000)))?;
            }
            self.held.push(arena);
        } else {
            let at = usize::try_from(dice.below(self.held.len() as u64))?;
            let arena = self.held.swap_remove(at);
            if arena.is_shared() {
                arena.detach()?;
            } else {
                arena.return_arena()?;
            }
        }
        Ok(())
    }
}

/// Xorshift: good enough to be busy.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}
