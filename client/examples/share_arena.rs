//! Two processes hold one arena by name: the first fills it, the second reads it. The program
//! starts itself again as the second one.

use std::process::Command;

use goumem::blocking::Client;
use goumem::{Access, ArenaPoolOptions, Handle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NUMBERS: u64 = 10_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(socket), Some(handle)) => second(&socket, handle.parse()?),
        _ => first(),
    }
}

fn first() -> Result<()> {
    let client = Client::embedded()?;
    let pool = client.create_arena_pool("batches", ArenaPoolOptions::new(4, 1 << 20))?;
    let mut arena = pool.get()?;
    let numbers: Vec<u64> = (1..=NUMBERS).collect();
    let filled = arena.alloc_slice::<u64>(numbers.len())?;
    filled.write(&numbers)?;
    let handle = filled.handle();
    arena.share("batch/17")?;
    println!(
        "first: arena \"batch/17\" holds {} bytes",
        arena.used_bytes()?
    );

    let status = Command::new(std::env::current_exe()?)
        .arg(client.socket())
        .arg(handle.to_string())
        .status()?;
    assert!(status.success(), "second process: {status}");
    let last = arena.detach()?;
    println!("first: detached, as the last one: {last}");
    assert!(last && pool.stat()?.free == 4);
    Ok(())
}

fn second(socket: &str, handle: Handle) -> Result<()> {
    let client = Client::builder().socket(socket).label("second").connect()?;
    let pool = client.open_arena_pool_read_only("batches")?;
    let arena = pool.attach("batch/17", Access::ReadOnly)?;
    let numbers = arena.resolve_slice::<u64>(handle, usize::try_from(NUMBERS)?)?;
    let sum: u64 = numbers.read_slice()?.iter().sum();
    println!("second: attached it read-only, and its numbers add up to {sum}");
    assert_eq!(sum, NUMBERS * (NUMBERS + 1) / 2);
    Ok(())
}
