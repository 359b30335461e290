//! The whole of it in a few lines: a pool, a block, a handle, and another pair of eyes.

use goumem::PoolOptions;
use goumem::blocking::Client;

fn main() -> Result<(), goumem::Error> {
    let client = Client::embedded()?; // Client::connect() where a goumemd runs
    let pool = client.create_pool("hello", PoolOptions::new(1 << 20))?;

    let mut block = pool.alloc::<[f64; 4]>()?;
    *block = [1.0, 2.0, 3.0, 4.0];
    let shared = block.share()?;
    println!("any process finds the block by {}", shared.handle());

    let view = pool.resolve::<[f64; 4]>(shared.handle())?;
    println!("and reads {:?}", view.read()?);
    assert_eq!(view.read()?, [1.0, 2.0, 3.0, 4.0]);
    Ok(())
}
