//! A client that allocates, hands over and frees at random, and stamps every block that it has
//! with who wrote it and which one it is: `churn SOCKET POOL OWNER SEED`.
//!
//! It writes `give HANDLE OWNER SEQ` for a block that somebody else may have, and is told
//! `take HANDLE OWNER SEQ`. A handle that is stale by then is reported (`stale OWNER SEQ`): the
//! test knows whether its giver was killed. A stamp that is wrong is a bug (`bug …`).
//! `stop` makes it free everything and say `stopped N`, N being the blocks it has made.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;

use goumem::blocking::{Client, Pool};
use goumem::{Block, Error, Handle, Shared};
use harness::Random;

/// Blocks at hand at a time.
const MAX_HELD: usize = 400;
/// Of a large block, one word in so many is stamped.
const STRIDE: usize = 61;

/// Runs until it is told to stop.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let client = Client::builder()
        .socket(&args[0])
        .label("churn")
        .connect()
        .unwrap();
    let pool = client.open_pool(&args[1]).unwrap();
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    println!("ready");
    let mut churn = Churn {
        pool,
        owner: args[2].parse().unwrap(),
        random: Random::new(args[3].parse().unwrap()),
        n_made: 0,
        held: Vec::new(),
        adopted: Vec::new(),
    };
    loop {
        match told.try_recv() {
            Ok(line) if line == "stop" => break,
            Ok(line) => churn.receive(&line),
            Err(TryRecvError::Empty) => churn.step(),
            Err(TryRecvError::Disconnected) => return ExitCode::SUCCESS,
        }
    }
    churn.verify_all();
    churn.held.clear();
    churn.adopted.clear();
    println!("stopped {}", churn.n_made);
    // Until the test has looked: what was given away goes with the session.
    while told.recv().is_ok() {}
    ExitCode::SUCCESS
}

/// Who wrote a block, and which of its blocks it is.
type Stamp = (u64, u64);

fn word((owner, seq): Stamp, at: usize) -> u64 {
    (owner << 48 | seq).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at as u64
}

fn stamped(len: usize) -> impl Iterator<Item = usize> {
    (0..len)
        .step_by(if len > 256 { STRIDE } else { 1 })
        .chain([len - 1])
}

fn write(block: &mut [u64], stamp: Stamp) {
    for at in stamped(block.len()) {
        block[at] = word(stamp, at);
    }
}

fn verify(words: &[u64], stamp: Stamp, doing: &str) {
    for at in stamped(words.len()) {
        if words[at] != word(stamp, at) {
            println!("bug {doing}: word {at} of {stamp:?} is {:#x}", words[at]);
            return;
        }
    }
}

struct Churn {
    pool: Pool,
    owner: u64,
    random: Random,
    n_made: u64,
    held: Vec<(Block<[u64]>, Stamp)>,
    adopted: Vec<(Shared<[u64]>, Stamp)>,
}

impl Churn {
    fn step(&mut self) {
        match self.random.below(16) {
            0..8 if self.held.len() < MAX_HELD => self.make(),
            0..10 => self.give(),
            10 if !self.adopted.is_empty() => {
                let at = self.random.index(self.adopted.len());
                let (shared, stamp) = self.adopted.swap_remove(at);
                check_shared(&shared, stamp);
            }
            _ if !self.held.is_empty() => {
                let at = self.random.index(self.held.len());
                let (block, stamp) = self.held.swap_remove(at);
                verify(&block, stamp, "free");
            }
            _ => {}
        }
    }

    fn make(&mut self) {
        let words = match self.random.below(64) {
            0 => 40_000 + self.random.index(120_000),
            1..8 => 1 + self.random.index(4_000),
            _ => 1 + self.random.index(64),
        };
        match self.pool.alloc_slice::<u64>(words) {
            Ok(mut block) => {
                self.n_made += 1;
                let stamp = (self.owner, self.n_made);
                write(&mut block, stamp);
                self.held.push((block, stamp));
            }
            Err(Error::Exhausted { .. }) => self.held.truncate(self.held.len() / 2),
            Err(error) => println!("bug make: {error:?}"),
        }
    }

    fn give(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.index(self.held.len());
        let (block, (owner, seq)) = self.held.swap_remove(at);
        verify(&block, (owner, seq), "give");
        match block.share() {
            Ok(shared) => println!("give {} {owner} {seq}", shared.into_handle()),
            Err(error) => println!("bug share: {error:?}"),
        }
    }

    fn receive(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("take"), "{line}");
        let handle: Handle = words.next().unwrap().parse().unwrap();
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let stamp = (number(), number());
        let outcome = match self.random.below(4) {
            0 => self.pool.adopt_slice(handle).map(|shared| {
                check_shared(&shared, stamp);
                self.adopted.push((shared, stamp));
            }),
            1 => self.pool.free(handle),
            _ => self.pool.take_slice(handle).map(|block| {
                verify(&block, stamp, "take");
                self.held.push((block, stamp));
            }),
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_stale() => println!("stale {} {}", stamp.0, stamp.1),
            Err(error) => println!("bug receive: {error:?}"),
        }
    }

    fn verify_all(&self) {
        for (block, stamp) in &self.held {
            verify(block, *stamp, "stop");
        }
        for (shared, stamp) in &self.adopted {
            check_shared(shared, *stamp);
        }
    }
}

fn check_shared(shared: &Shared<[u64]>, stamp: Stamp) {
    match shared.read_slice() {
        Ok(words) => verify(&words, stamp, "adopted"),
        Err(error) => println!("bug adopted {stamp:?}: {error:?}"),
    }
}
