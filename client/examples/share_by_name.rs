//! Two processes that only know a name: one publishes a block, the other looks it up and adds to
//! it with atomics. The program starts itself again as the second one.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use goumem::PoolOptions;
use goumem::blocking::{Client, wait};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: u32 = 100_000;

fn main() -> Result<()> {
    match std::env::args().nth(1) {
        Some(socket) => second(&socket),
        None => first(),
    }
}

fn first() -> Result<()> {
    let client = Client::embedded()?;
    let pool = client.create_pool("counters", PoolOptions::new(1 << 20))?;
    let shared = pool.alloc_value(0_u32)?.share()?;
    wait(shared.publish("visits"))?;
    println!(
        "first: published a counter as \"visits\" in pool {:?}",
        pool.name()
    );

    let mut second = Command::new(std::env::current_exe()?)
        .arg(client.socket())
        .spawn()?;
    let counter = shared.atomics::<AtomicU32>()?;
    for _ in 0..ROUNDS {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    let status = second.wait()?;
    assert!(status.success(), "second process: {status}");

    let total = shared.read()?;
    println!("first: both have counted, together to {total}");
    assert_eq!(total, 2 * ROUNDS);
    Ok(())
}

fn second(socket: &str) -> Result<()> {
    let client = Client::builder().socket(socket).label("second").connect()?;
    let pool = client.open_pool("counters")?;
    let view = pool.resolve::<u32>(pool.lookup("visits")?)?;
    let counter = view.atomics::<AtomicU32>()?;
    for _ in 0..ROUNDS {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    println!("second: found it and counted to {ROUNDS}");
    Ok(())
}
