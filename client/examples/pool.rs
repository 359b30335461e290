//! A very small pool: two blocks of four bytes, one freed and allocated again.

use goumem::PoolOptions;
use goumem::blocking::Client;

fn main() -> Result<(), goumem::Error> {
    let client = Client::embedded()?;
    let pool = client.create_pool("example", PoolOptions::new(15))?;
    let stat = pool.stat()?;
    println!(
        "asked for 15 bytes, the pool has {}: pages of 64 KiB",
        stat.pool.capacity_bytes
    );
    assert_eq!(stat.pool.capacity_bytes, 64 << 10);

    let first = pool.alloc_value(123_i32)?;
    let second = pool.alloc_value(456_i32)?;
    println!(
        "allocated {} and {}, {} bytes each",
        *first,
        *second,
        size_of_val(&*first)
    );

    drop(first);
    println!("freed the first; the second is still {}", *second);
    let third = pool.alloc_value(789_i32)?;
    println!("allocated {}; the second is still {}", *third, *second);
    assert_eq!((*second, *third), (456, 789));

    // What is asked of a pool that small may be too much for it.
    let error = pool
        .alloc_slice::<u64>(1 << 20)
        .expect_err("8 MiB do not fit");
    println!("8 MiB: {error}");
    assert_eq!(error.reason(), Some(goumem::Reason::PoolExhausted));
    Ok(())
}
