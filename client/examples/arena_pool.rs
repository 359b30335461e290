//! Two arenas of a thousand bytes: get, allocate, free, return.

use std::time::Duration;

use goumem::blocking::Client;
use goumem::{ArenaPoolOptions, Error};

fn main() -> Result<(), Error> {
    let client = Client::embedded()?;
    let pool = client.create_arena_pool("example", ArenaPoolOptions::new(2, 1000))?;

    let first = pool.get()?;
    let second = pool.get()?;
    println!("got two arenas: {} and {}", first.handle(), second.handle());
    assert!(matches!(pool.try_get(), Err(Error::NoFreeArena)));
    println!(
        "there is no third: {}",
        pool.get_timeout(Duration::from_millis(10))
            .expect_err("both are held")
    );

    let numbers = first.alloc_slice::<i32>(2)?;
    numbers.write(&[123, 456])?;
    println!(
        "wrote {:?}, {} bytes in use",
        numbers.read_slice()?,
        first.used_bytes()?
    );
    assert_eq!(numbers.read_slice()?, [123, 456]);

    let more = first.alloc_bytes(900, 16)?;
    println!(
        "{} of {} bytes in use",
        first.used_bytes()?,
        first.size_bytes()
    );
    println!(
        "100 more: {}",
        first.alloc_bytes(100, 16).expect_err("it is nearly full")
    );
    first.free(more)?;
    println!("freed the newest: {} bytes in use", first.used_bytes()?);
    assert!(first.alloc_bytes(100, 16).is_ok());

    let handle = numbers.handle();
    first.return_arena()?;
    println!("returned it: what was in it is gone");
    let again = pool.get()?;
    assert!(
        again
            .resolve::<i32>(handle)
            .is_err_and(|error| error.is_stale())
    );
    println!(
        "got {}: {} bytes in use",
        again.handle(),
        again.used_bytes()?
    );
    assert_eq!(again.used_bytes()?, 0);
    Ok(())
}
