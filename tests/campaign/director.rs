//! The campaign itself: starts everything, passes tokens on, kills and stops workers, and has
//! everybody stand still now and then to compare the model with what the daemon says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use goumem::blocking::{ArenaPool, Client, Pool};
use goumem::{ArenaPoolOptions, Backing, PoolOptions};
use harness::{PATIENCE, Random};

use crate::auditor::{self, Living};
use crate::daemon::{Daemon, Nemesis};
use crate::ledger::{Ledger, Verdict};
use crate::options::Options;
use crate::report::Report;
use crate::stamp::Stamp;
use crate::team::{Worker, listen};
use crate::wire::{News, Order, Sabotage, Token, Wrong};
use crate::{
    ARENA_BYTES, ARENA_POOL, ARENAS, NAMED_POOL, NAMED_POOL_BYTES, POOL, STEADY_POOL, steady,
    worker,
};

mod checks;

/// Tokens that wait for a worker; what is more is freed.
const MAX_BANK: usize = 3_000;
/// How long the director waits for something to be told.
const STEP: Duration = Duration::from_millis(5);

/// Everything that is going on.
#[derive(Debug)]
struct Director {
    options: Options,
    seed: u64,
    random: Random,
    daemon: Arc<Daemon>,
    client: Client,
    pool: Pool,
    arenas: ArenaPool,
    /// The pool in `/dev/shm`, if that is the campaign's own.
    named: Option<Pool>,
    report: Arc<Report>,
    living: Arc<Living>,
    ledger: Ledger,
    workers: Vec<Worker>,
    /// One that is never killed or stopped; it measures pauses.
    steady: Vec<Worker>,
    next_worker: u16,
    next_blow: Instant,
    sabotage: Option<Sabotage>,
}

/// Runs the campaign.
///
/// # Errors
/// What kept it from going on; what is wrong is in the report.
pub(crate) fn run(
    options: Options,
    seed: u64,
    own_dev_shm: bool,
    report: &Arc<Report>,
) -> Result<()> {
    let daemon = Arc::new(Daemon::start()?);
    let client = Client::builder()
        .socket(daemon.socket())
        .label("director")
        .connect()?;
    let pool = client.create_pool(POOL, PoolOptions::new(options.pool_mib << 20))?;
    let arenas =
        client.create_arena_pool(ARENA_POOL, ArenaPoolOptions::new(ARENAS, ARENA_BYTES))?;
    client.create_pool(STEADY_POOL, PoolOptions::new(8 << 20))?;
    let named = PoolOptions::new(NAMED_POOL_BYTES).backing(Backing::Named);
    let named = own_dev_shm
        .then(|| client.create_pool(NAMED_POOL, named))
        .transpose()?;
    let living = Arc::new(Living::default());
    let over = Arc::new(AtomicBool::new(false));
    let is_over = {
        let over = Arc::clone(&over);
        // ORDERING: Relaxed; the flag says when to stop, and carries nothing.
        move || over.load(Ordering::Relaxed)
    };
    let nemesis = Nemesis {
        seed,
        kills: !options.no_daemon_kills,
        fills_dev_shm: own_dev_shm,
    };
    let helpers = [
        thread::spawn({
            let (daemon, report, is_over) =
                (Arc::clone(&daemon), Arc::clone(report), is_over.clone());
            move || nemesis.run(&daemon, &report, &is_over)
        }),
        thread::spawn({
            let client = client.clone();
            let pools: Vec<Pool> = [&pool].into_iter().chain(&named).cloned().collect();
            let (living, report) = (Arc::clone(&living), Arc::clone(report));
            move || auditor::run(&client, &pools, &living, &report, &is_over)
        }),
    ];
    let mut director = Director {
        sabotage: options.sabotage,
        options,
        seed,
        random: Random::new(seed),
        daemon,
        client,
        pool,
        arenas,
        named,
        report: Arc::clone(report),
        living,
        ledger: Ledger::default(),
        workers: Vec::new(),
        steady: Vec::new(),
        next_worker: 1,
        next_blow: Instant::now(),
    };
    let outcome = director.conduct();
    // ORDERING: Relaxed; as above.
    over.store(true, Ordering::Relaxed);
    for helper in helpers {
        if helper.join().is_err() {
            report.wrong(Wrong::Error, "a thread of the campaign has panicked");
        }
    }
    for line in director.daemon.complaints() {
        report.wrong(Wrong::Error, format!("goumemd's log: {line}"));
    }
    outcome
}

impl Director {
    fn conduct(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        // Short ones too have one round of each kind.
        let round = Duration::from_secs(self.options.seconds)
            .div_f64(4.0)
            .clamp(Duration::from_secs(1), Duration::from_secs(8));
        self.hire(steady::ROLE)?;
        let mut n_rounds = 0;
        while Instant::now() < end {
            self.say(&format!("round {n_rounds}"));
            self.round(round, n_rounds % 2 == 0)?;
            self.baseline()?;
            if !self.report.is_clean() {
                // What follows from a wrong is noise.
                break;
            }
            n_rounds += 1;
        }
        self.report.judge_pauses(self.options.max_pause_ms);
        Ok(())
    }

    /// Has everybody work for so long, and looks at the outcome in between and at the end.
    fn round(&mut self, time: Duration, drains: bool) -> Result<()> {
        self.mixed_work(Instant::now() + time / 2)?;
        self.plant()?;
        if self.report.is_clean() {
            self.check()?;
        }
        if self.report.is_clean() {
            self.mixed_work(Instant::now() + time / 2)?;
        }
        if self.report.is_clean() && drains {
            self.drain()?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        if !self.options.json {
            println!("campaign: {what}");
        }
    }

    /// Passes tokens on and strikes at workers.
    fn mixed_work(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            while self.workers.len() < self.options.workers {
                self.hire(worker::ROLE)?;
            }
            self.hear(STEP)?;
            self.deal();
            self.strike();
        }
        Ok(())
    }

    fn hire(&mut self, role: &str) -> Result<()> {
        let id = self.next_worker;
        let Some(next) = id.checked_add(1) else {
            bail!("no more numbers for workers");
        };
        self.next_worker = next;
        let worker = Worker::start(role, &self.daemon.socket(), id, self.seed)?;
        if role == steady::ROLE {
            self.steady.push(worker);
        } else {
            self.workers.push(worker);
        }
        Ok(())
    }

    /// Listens to the workers for a while, and sees whether everybody lives.
    fn hear(&mut self, time: Duration) -> Result<()> {
        self.daemon.check(&self.report)?;
        let steady = listen(&mut self.steady, Duration::ZERO)?;
        for (id, news) in listen(&mut self.workers, time)?.into_iter().chain(steady) {
            self.note(id, news);
        }
        let ended = |worker: &mut Worker| worker.ended().map(|status| (worker.id, status));
        let ended = self
            .workers
            .iter_mut()
            .chain(&mut self.steady)
            .find_map(ended);
        if let Some((id, status)) = ended {
            let text = format!("worker {id} has ended by itself: {status}");
            self.report.wrong(Wrong::Error, text);
            bail!("a worker has ended by itself");
        }
        Ok(())
    }

    fn note(&mut self, from: u16, news: Result<News, String>) {
        let news = match news {
            Ok(news) => news,
            Err(error) => {
                let text = format!("worker {from} says what makes no sense: {error}");
                return self.report.wrong(Wrong::Error, text);
            }
        };
        match news {
            News::Hello(sessions) => {
                self.living.born(from, sessions.clone());
                if let Some(worker) = self.worker(from) {
                    worker.sessions = sessions;
                }
            }
            News::Have(token) => self.ledger.have(from, token),
            News::Give(token) => self.ledger.give(token),
            News::Gone(stamp) => {
                if let Err(text) = self.ledger.gone(from, stamp) {
                    self.report.wrong(Wrong::Error, text);
                }
            }
            News::Stale(stamp, doing) => match self.ledger.stale(from, stamp) {
                Verdict::DiedWithOwner => {}
                Verdict::Lost(token) => {
                    let text = format!("worker {from}, to {doing}: {token} is not there");
                    self.report.wrong(Wrong::Lost, text);
                }
                Verdict::Unknown => {
                    let text = format!("worker {from}, to {doing}: nobody knows {stamp}");
                    self.report.wrong(Wrong::Error, text);
                }
            },
            News::Arena(name) => {
                let order = Order::Attach(name);
                if let Some(at) = self.somebody_ready() {
                    self.workers[at].tell(&order);
                }
            }
            News::Ops(n) => self.report.ops.add(usize::try_from(n).unwrap_or(0)),
            News::Paused(has) => {
                if let Some(worker) = self.worker(from) {
                    worker.paused.push(has);
                }
            }
            News::Bug(wrong, text) => self.report.wrong(wrong, format!("worker {from}: {text}")),
            News::Pauses(pauses) => self.report.pauses(pauses),
        }
    }

    fn worker(&mut self, id: u16) -> Option<&mut Worker> {
        self.workers
            .iter_mut()
            .chain(&mut self.steady)
            .find(|worker| worker.id == id)
    }

    fn somebody_ready(&mut self) -> Option<usize> {
        if self.workers.is_empty() {
            return None;
        }
        let at = self.random.index(self.workers.len());
        self.workers[at].is_ready().then_some(at)
    }

    /// Gives the tokens in the bank to workers.
    fn deal(&mut self) {
        // Some stay, so that the killed leave something behind.
        while self.ledger.in_bank() > 50 {
            let Some(at) = self.somebody_ready() else {
                break;
            };
            let Some(token) = self.ledger.hand_out(self.workers[at].id) else {
                break;
            };
            self.report.handed_over.add(1);
            self.workers[at].tell(&Order::Take(token));
            if self.random.below(4) == 0
                && let Some(at) = self.somebody_ready()
            {
                self.workers[at].tell(&Order::Look(token));
            }
        }
        while self.ledger.in_bank() > MAX_BANK {
            let Some(token) = self.ledger.take_from_bank() else {
                break;
            };
            self.free(&token);
        }
    }

    /// Does something to a worker, when it is time.
    fn strike(&mut self) {
        let now = Instant::now();
        for worker in &mut self.workers {
            if worker.stopped_until.is_some_and(|until| until <= now) {
                worker.go_on();
            }
        }
        if now < self.next_blow || self.workers.is_empty() {
            return;
        }
        let at = self.random.index(self.workers.len());
        // Most get to work first, also on a slow machine.
        if self.workers[at].sessions.is_empty() && self.random.below(8) > 0 {
            return;
        }
        self.next_blow = now + Duration::from_millis(self.random.below(300) + 20);
        if self.random.below(3) == 0 {
            let time = Duration::from_millis(self.random.below(500));
            self.workers[at].stop(time);
            self.report.stops.add(1);
        } else {
            self.kill(at);
        }
    }

    /// Kills a worker, and frees what it may have left.
    fn kill(&mut self, at: usize) {
        let worker = self.workers.swap_remove(at);
        let id = worker.id;
        // Before it dies, so that what it owned may be gone from now on.
        self.ledger.condemn(id);
        self.living.condemned(id);
        for news in worker.kill() {
            self.note(id, news);
        }
        // It may have said hello at last.
        self.living.condemned(id);
        self.report.kills_client.add(1);
        for token in self.ledger.bury(id) {
            self.free_uncertain(&token);
        }
    }

    /// Plants the wrong that was asked for, once.
    fn plant(&mut self) -> Result<()> {
        let Some(wrong) = self.sabotage.take() else {
            return Ok(());
        };
        match wrong {
            Sabotage::Leak => {
                let mut block = self.pool.alloc_slice::<u64>(1000)?;
                block.fill(1);
                let handle = block.share()?.into_handle();
                self.pool.keep(handle)?;
            }
            Sabotage::Overlap => {
                let token = self.somebodys_token()?;
                let view = self.pool.resolve_slice::<u64>(token.handle)?;
                let mut words = vec![0; token.words];
                Stamp::new(u16::MAX, 1).write(&mut words);
                view.write(&words)?;
            }
            Sabotage::Lost => {
                let token = self.somebodys_token()?;
                self.pool.free(token.handle)?;
            }
            Sabotage::Once => {
                let token = self.somebodys_token()?;
                // Never dropped, so never unpinned.
                std::mem::forget(self.pool.pin(token.handle)?);
            }
            Sabotage::FalseDeath => {
                for worker in &mut self.workers {
                    worker.tell(&Order::Sabotage(wrong));
                }
            }
            Sabotage::Pause => self.steady[0].tell(&Order::Sabotage(wrong)),
        }
        Ok(())
    }

    /// Waits until a block of somebody who lives is in the bank.
    fn somebodys_token(&mut self) -> Result<Token> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let living = |token: &Token| !self.ledger.died_with_owner(token);
            if let Some(token) = self.ledger.banked().find(living) {
                return Ok(token);
            }
            self.mixed_work(Instant::now() + STEP)?;
        }
        bail!("nobody gives a token away")
    }
}
