//! A client that does as it is told. It keeps what it has under keys that the test chooses:
//!
//! ```text
//! connect SOCKET | connect-default | embed     close
//! create-pool NAME BYTES [mode=660] [gid=1] [backing=named]      open-pool NAME rw|ro
//! alloc POOL KEY BYTES FILL      alloc-many POOL N BYTES      fill POOL BYTES
//! check KEY FILL      share KEY      give KEY      keep KEY      publish KEY NAME      drop KEY
//! look POOL HANDLE FILL      take POOL KEY HANDLE      adopt POOL KEY HANDLE
//! free POOL HANDLE      pin POOL KEY HANDLE
//! create-arenas NAME N BYTES      open-arenas NAME rw|ro
//! get POOL KEY MS      attach POOL KEY NAME rw|ro      share-arena KEY NAME      detach KEY
//! put POOL KEY BYTES FILL (allocates in arena KEY)
//! sessions      kill SESSION
//! steal SOCKET TOKEN POOL-ID (tries a token of another process)
//! intrude SOCKET POOL POOL-ID HANDLE (tries every call on a pool and a block of somebody else)
//! fork      fork-use POOL KEY      fork-live POOL KEY      fds      protect NEEDLE
//! exec (what a program that it starts has open)
//! flood SOCKET N [BYTES] (that many connections that say so much, as %xx)
//! http SOCKET PATH (status and body of what is asked beside the gRPC socket)
//! flood-ended (waits for the other side's end of each)      pools
//! ```
//!
//! The answer is `ok …` or `error REASON: message`.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use goumem::blocking::{Arena, ArenaPool, Client, Pool, wait};
use goumem::{
    Access, AccessError, AllocError, ArenaPoolOptions, Backing, Block, Error, Handle, Pin,
    PoolOptions, SessionNumber, Shared,
};
use harness::{PATIENCE, sys};

use crate::intruder;

/// Runs until standard input closes.
pub(crate) fn run() -> ExitCode {
    println!("ready");
    let mut puppet = Puppet::default();
    for line in io::stdin().lines() {
        let line = line.unwrap();
        match puppet.obey(&line) {
            Ok(reply) => println!("ok {reply}"),
            Err(error) => println!("error {}", error.replace('\n', " ")),
        }
    }
    ExitCode::SUCCESS
}

#[derive(Debug, Default)]
struct Puppet {
    // Dropped first, so that what is held goes before the session does.
    held: HashMap<String, Held>,
    many: Vec<Block<[u8]>>,
    pools: HashMap<String, Pool>,
    arena_pools: HashMap<String, ArenaPool>,
    client: Option<Client>,
    flood: Vec<UnixStream>,
}

/// Something that ends when it is dropped.
#[derive(Debug)]
enum Held {
    Block(Block<[u8]>),
    Shared(Shared<[u8]>),
    Pin(Pin),
    Arena(Arena),
}

/// The words of a command.
pub(crate) struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    pub(crate) fn text(&mut self) -> &'a str {
        self.0.next().expect("a word is missing")
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.text().parse().unwrap()
    }

    fn bytes(&mut self) -> usize {
        self.text().parse().unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.text().parse().unwrap()
    }

    pub(crate) fn handle(&mut self) -> Handle {
        self.text().parse().unwrap()
    }

    fn access(&mut self) -> Access {
        match self.text() {
            "ro" => Access::ReadOnly,
            _ => Access::ReadWrite,
        }
    }

    /// The `key=value` words at the end.
    fn options(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.map(|word| word.split_once('=').unwrap())
    }
}

fn failed(error: Error) -> String {
    match error.reason() {
        Some(reason) => format!("{reason}: {error}"),
        None => format!("{error:?}"),
    }
}

fn mismatch(found: &[u8], fill: u8) -> Result<String, String> {
    // Comparing slices is fast, also in a build for debugging.
    if found == vec![fill; found.len()] {
        return Ok(found.len().to_string());
    }
    match found.iter().position(|&byte| byte != fill) {
        Some(at) => Err(format!("byte {at} is {}, not {fill}", found[at])),
        None => Ok(found.len().to_string()),
    }
}

impl Puppet {
    fn obey(&mut self, line: &str) -> Result<String, String> {
        let mut words = Words(line.split_whitespace());
        let verb = words.text();
        match verb {
            "fork" => done(sys::fork_holder()),
            "fork-use" => self.use_in_a_fork(&mut words),
            "fork-live" => self.live_in_a_fork(&mut words),
            "fds" => Ok(harness::open_fds().to_string()),
            "exec" => done(exec()),
            "flood" => Ok(self.flood(&mut words)),
            "flood-ended" => done(self.flood_ended()),
            "pools" => self.pool_names().map_err(failed),
            "steal" | "intrude" => Ok(intruder::obey(verb, &mut words)),
            "http" => Ok(http(&mut words)),
            "protect" => Ok(protect(words.text())),
            "alloc-many" => self.alloc_many(&mut words),
            "fill" => self.fill(&mut words),
            "check" | "look" => self.check(verb, &mut words),
            "drop" => {
                self.held.remove(words.text());
                Ok(String::new())
            }
            "drop-many" => {
                self.many.clear();
                Ok(String::new())
            }
            "connect" | "connect-default" | "embed" | "close" | "sessions" | "kill" => {
                self.session(verb, &mut words).map_err(failed)
            }
            "create-pool" | "open-pool" | "create-arenas" | "open-arenas" => {
                self.pool(verb, words).map_err(failed)
            }
            "get" | "attach" | "share-arena" | "detach" | "put" => {
                self.arena(verb, &mut words).map_err(failed)
            }
            _ => self.block(verb, &mut words).map_err(failed),
        }
    }

    fn session(&mut self, verb: &str, words: &mut Words<'_>) -> Result<String, Error> {
        match verb {
            "close" => {
                self.pools.clear();
                self.arena_pools.clear();
                self.client.take().unwrap().close()?;
                return Ok(String::new());
            }
            "sessions" => return Ok(self.client().sessions()?.len().to_string()),
            "kill" => {
                let session = SessionNumber::new(words.text().parse().unwrap());
                self.client().kill_session(session, None)?;
            }
            "embed" => self.client = Some(Client::embedded()?),
            "connect" => {
                let builder = Client::builder().socket(words.text()).label("puppet");
                self.client = Some(builder.connect()?);
            }
            _ => self.client = Some(Client::connect()?),
        }
        let client = self.client();
        Ok(format!(
            "{} {}",
            client.session(),
            client.socket().display()
        ))
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("connected first")
    }

    fn pool(&mut self, verb: &str, mut words: Words<'_>) -> Result<String, Error> {
        let name = words.text();
        match verb {
            "create-pool" => {
                let mut options = PoolOptions::new(words.number());
                for (key, value) in words.options() {
                    options = match (key, value) {
                        ("mode", mode) => options.mode(u32::from_str_radix(mode, 8).unwrap()),
                        ("gid", gid) => options.gid(gid.parse().unwrap()),
                        (_, "named") => options.backing(Backing::Named),
                        (_, "file") => options.backing(Backing::File),
                        _ => options.backing(Backing::Memfd),
                    };
                }
                let pool = self.client().create_pool(name, options)?;
                let os_name = pool.info().os_name.clone().unwrap_or_default();
                self.pools.insert(name.to_owned(), pool);
                Ok(os_name)
            }
            "open-pool" => {
                let pool = match words.access() {
                    Access::ReadOnly => self.client().open_pool_read_only(name)?,
                    Access::ReadWrite => self.client().open_pool(name)?,
                };
                self.pools.insert(name.to_owned(), pool);
                Ok(String::new())
            }
            "create-arenas" => {
                let arenas = words.number().try_into().unwrap();
                let options = ArenaPoolOptions::new(arenas, words.number());
                let pool = self.client().create_arena_pool(name, options)?;
                self.arena_pools.insert(name.to_owned(), pool);
                Ok(String::new())
            }
            _ => {
                let pool = match words.access() {
                    Access::ReadOnly => self.client().open_arena_pool_read_only(name)?,
                    Access::ReadWrite => self.client().open_arena_pool(name)?,
                };
                self.arena_pools.insert(name.to_owned(), pool);
                Ok(String::new())
            }
        }
    }

    fn block(&mut self, verb: &str, words: &mut Words<'_>) -> Result<String, Error> {
        match verb {
            "alloc" => {
                let (pool, key) = (&self.pools[words.text()], words.text());
                let mut block = pool.alloc_slice::<u8>(words.bytes())?;
                block.fill(words.byte());
                self.held.insert(key.to_owned(), Held::Block(block));
                Ok(String::new())
            }
            "share" => {
                let key = words.text();
                let Some(Held::Block(block)) = self.held.remove(key) else {
                    panic!("{key} is no block");
                };
                let shared = block.share()?;
                let handle = shared.handle();
                self.held.insert(key.to_owned(), Held::Shared(shared));
                Ok(handle.to_string())
            }
            "give" => {
                let Some(Held::Shared(shared)) = self.held.remove(words.text()) else {
                    panic!("it is not shared");
                };
                Ok(shared.into_handle().to_string())
            }
            "keep" => wait(self.shared(words.text()).keep()).map(|handle| handle.to_string()),
            "publish" => {
                let shared = self.shared(words.text());
                wait(shared.publish(words.text())).map(|handle| handle.to_string())
            }
            "take" => {
                let (pool, key) = (&self.pools[words.text()], words.text());
                let block = pool.take_slice::<u8>(words.handle())?;
                self.held.insert(key.to_owned(), Held::Block(block));
                Ok(String::new())
            }
            "adopt" => {
                let (pool, key) = (&self.pools[words.text()], words.text());
                let shared = pool.adopt_slice::<u8>(words.handle())?;
                self.held.insert(key.to_owned(), Held::Shared(shared));
                Ok(String::new())
            }
            "pin" => {
                let (pool, key) = (&self.pools[words.text()], words.text());
                let pin = pool.pin(words.handle())?;
                self.held.insert(key.to_owned(), Held::Pin(pin));
                Ok(String::new())
            }
            "free" => {
                self.pools[words.text()].free(words.handle())?;
                Ok(String::new())
            }
            verb => panic!("no such command: {verb}"),
        }
    }

    fn shared(&self, key: &str) -> &Shared<[u8]> {
        match &self.held[key] {
            Held::Shared(shared) => shared,
            _ => panic!("{key} is not shared"),
        }
    }

    fn arena(&mut self, verb: &str, words: &mut Words<'_>) -> Result<String, Error> {
        match verb {
            "get" => {
                let (pool, key) = (&self.arena_pools[words.text()], words.text());
                let arena = pool.get_timeout(Duration::from_millis(words.number()))?;
                let handle = arena.handle();
                self.held.insert(key.to_owned(), Held::Arena(arena));
                Ok(handle.to_string())
            }
            "attach" => {
                let (pool, key) = (&self.arena_pools[words.text()], words.text());
                let arena = pool.attach(words.text(), words.access())?;
                let handle = arena.handle();
                self.held.insert(key.to_owned(), Held::Arena(arena));
                Ok(handle.to_string())
            }
            "share-arena" => {
                let key = words.text();
                let Some(Held::Arena(arena)) = self.held.get_mut(key) else {
                    panic!("{key} is no arena");
                };
                arena.share(words.text())?;
                Ok(arena.handle().to_string())
            }
            "detach" => {
                let Some(Held::Arena(arena)) = self.held.remove(words.text()) else {
                    panic!("it is no arena");
                };
                arena.detach().map(|returned| returned.to_string())
            }
            _ => {
                let key = words.text();
                let Held::Arena(arena) = &self.held[key] else {
                    panic!("{key} is no arena");
                };
                let place = arena.alloc_bytes(words.bytes(), 16)?;
                place.write(&vec![words.byte(); place.len()])?;
                Ok(place.handle().to_string())
            }
        }
    }

    fn alloc_many(&mut self, words: &mut Words<'_>) -> Result<String, String> {
        let pool = &self.pools[words.text()];
        let (n, bytes) = (words.number(), words.bytes());
        for _ in 0..n {
            let mut block = pool.alloc_slice::<u8>(bytes).map_err(failed)?;
            block[0] = 1;
            self.many.push(block);
        }
        Ok(self.many.len().to_string())
    }

    /// Allocates until there is no more, and writes every byte of it.
    fn fill(&mut self, words: &mut Words<'_>) -> Result<String, String> {
        let pool = &self.pools[words.text()];
        let bytes = words.bytes();
        let error = loop {
            match pool.alloc_slice::<u8>(bytes) {
                Ok(mut block) => {
                    block.fill(0x5a);
                    self.many.push(block);
                }
                Err(error) => break failed(error),
            }
        };
        Ok(format!("{} {error}", self.many.len()))
    }

    /// Opens connections, and says a few bytes on each. Says how many could be tried: the other
    /// side may have closed them again.
    fn flood(&mut self, words: &mut Words<'_>) -> String {
        let (socket, n) = (words.text(), words.number());
        let bytes = words.0.next().map(unescape).unwrap_or_default();
        for _ in 0..n {
            let Ok(mut connection) = UnixStream::connect(socket) else {
                break;
            };
            // It may be closed again already.
            let _ = connection.write_all(&bytes);
            self.flood.push(connection);
        }
        self.flood.len().to_string()
    }

    /// Waits until the other side has ended each of them. Says how many it ended without a word.
    fn flood_ended(&mut self) -> io::Result<usize> {
        let mut n = 0;
        for mut connection in self.flood.drain(..) {
            connection.set_read_timeout(Some(PATIENCE))?;
            match connection.read(&mut [0]) {
                Ok(0) => n += 1,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => n += 1,
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(n)
    }

    fn pool_names(&self) -> Result<String, Error> {
        let pools = self.client().list_pools()?;
        let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
        Ok(names.join(" "))
    }

    /// Has a forked child try everything with what the parent has; says how many of the attempts
    /// were not refused as they should be.
    fn use_in_a_fork(&mut self, words: &mut Words<'_>) -> Result<String, String> {
        let pool = &self.pools[words.text()];
        let shared = self.held.remove(words.text());
        let Some(Held::Shared(shared)) = shared else {
            panic!("it is not shared");
        };
        let handle = shared.handle();
        let forked = |error: Error| matches!(error, Error::Access(AccessError::Forked));
        let allocated = |outcome: Result<(), AllocError>| outcome != Err(AllocError::Forked);
        let code = sys::in_forked_child(|| {
            let refused = [
                !allocated(pool.try_alloc::<u64>().map(drop)),
                pool.resolve_slice::<u8>(handle).is_err_and(forked),
                pool.take_slice::<u8>(handle).is_err_and(forked),
                pool.adopt_slice::<u8>(handle).is_err_and(forked),
                pool.free(handle).is_err_and(forked),
                pool.alloc::<u64>().is_err(),
                pool.stat().is_err_and(forked),
            ];
            drop(shared);
            refused
                .iter()
                .fold(0, |bits, &refused| bits << 1 | u8::from(!refused))
        });
        done(code)
    }

    /// Has a forked child live on with a client of its own, and have a child that does the same;
    /// says how much of that was not as it should be.
    fn live_in_a_fork(&self, words: &mut Words<'_>) -> Result<String, String> {
        let pool = &self.pools[words.text()];
        let Some(Held::Shared(shared)) = self.held.get(words.text()) else {
            panic!("it is not shared");
        };
        let (handle, socket) = (shared.handle(), self.client().socket());
        done(sys::in_forked_child(|| {
            live_on(pool, handle, socket, 1).unwrap_or(0xff)
        }))
    }

    fn check(&self, verb: &str, words: &mut Words<'_>) -> Result<String, String> {
        if verb == "look" {
            let pool = &self.pools[words.text()];
            let view = pool.resolve_slice::<u8>(words.handle()).map_err(failed)?;
            let mut bytes = vec![0; view.len()];
            view.copy_to(&mut bytes).map_err(failed)?;
            return mismatch(&bytes, words.byte());
        }
        match &self.held[words.text()] {
            Held::Block(block) => mismatch(block, words.byte()),
            Held::Shared(shared) => {
                let view = shared.view().map_err(failed)?;
                let mut bytes = vec![0; view.len()];
                view.copy_to(&mut bytes).map_err(failed)?;
                mismatch(&bytes, words.byte())
            }
            Held::Pin(pin) => {
                let mut bytes = vec![0; pin.length_bytes().try_into().unwrap()];
                pin.copy_at(0, &mut bytes).map_err(failed)?;
                mismatch(&bytes, words.byte())
            }
            Held::Arena(arena) => arena.used_bytes().map(|n| n.to_string()).map_err(failed),
        }
    }
}

/// Reads `%0d` as the byte 13.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(byte, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    bytes
}

/// Has another program say what it was left open.
fn exec() -> io::Result<String> {
    let output = Command::new(std::env::current_exe()?).arg("fds").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn done<T: Display>(outcome: io::Result<T>) -> Result<String, String> {
    outcome
        .map(|value| value.to_string())
        .map_err(|error| error.to_string())
}

/// Tries to make every mapping that it may only read writable. Says how many there are, how many
/// can be written as they are, and how many gave in.
fn http(words: &mut Words<'_>) -> String {
    let (status, body) = harness::http_get(Path::new(words.text()), words.text());
    format!("{status} {}", body.trim_end())
}

fn protect(needle: &str) -> String {
    let mapped = harness::mappings_of(std::process::id(), needle);
    let readable: Vec<_> = mapped
        .iter()
        .filter(|m| m.permissions.starts_with("r-"))
        .collect();
    let writable = mapped
        .iter()
        .filter(|m| m.permissions.starts_with("rw"))
        .count();
    let gave_in = readable
        .iter()
        .filter(|m| sys::make_writable(m.start, m.length).is_ok())
        .count();
    format!("{} {writable} {gave_in}", readable.len())
}

/// What a forked child does with a client of its own, and so many children's children after it;
/// returns a bit for each thing that was not as it should be.
fn live_on(inherited: &Pool, handle: Handle, socket: &Path, children: u32) -> Result<u8, Error> {
    const N: u64 = 3000;
    let client = Client::builder().socket(socket).label("forked").connect()?;
    let pool = client.open_pool(inherited.name())?;
    // On the thread that had heaps in the parent, and more than a span of them.
    let blocks: Result<Vec<_>, _> = (0..N).map(|n| pool.alloc_value(n)).collect();
    let mut blocks = blocks?;
    blocks.truncate(2000);
    blocks.extend(
        (2000..N)
            .map(|n| pool.alloc_value(n))
            .collect::<Result<Vec<_>, _>>()?,
    );
    let mut ours = pool.alloc_slice::<u8>(1000)?;
    ours.fill(9);
    let shared = ours.share()?;
    let theirs = pool.resolve_slice::<u8>(handle)?;
    let mut bytes = [vec![0; theirs.len()], vec![0; 1000]];
    theirs.copy_to(&mut bytes[0])?;
    let child = match children {
        0 => Ok(0),
        _ => sys::in_forked_child(|| {
            live_on(&pool, shared.handle(), socket, children - 1).unwrap_or(0xff)
        }),
    };
    let forked = |error: &Error| matches!(error, Error::Access(AccessError::Forked));
    let is_good = [
        inherited.try_alloc_value(1_u64).err() == Some(AllocError::Forked),
        inherited.stat().as_ref().is_err_and(forked),
        inherited
            .resolve_slice::<u8>(handle)
            .as_ref()
            .is_err_and(forked),
        // Of one byte, whoever filled it.
        bytes[0].windows(2).all(|pair| pair[0] == pair[1]),
        child.is_ok_and(|bits| bits == 0),
        blocks.iter().zip(0..).all(|(block, n)| **block == n),
        shared.copy_to(&mut bytes[1]).is_ok() && bytes[1] == [9; 1000],
        {
            drop((blocks, shared));
            drop(pool);
            client.close().is_ok()
        },
    ];
    let bits = is_good.iter();
    Ok(bits.fold(0, |bits, &good| bits << 1 | u8::from(!good)))
}
