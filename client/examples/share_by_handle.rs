//! Two processes: one allocates and passes the handle on, the other takes the block and changes
//! it in place. The program starts itself again as the second one.

use std::process::{Command, Stdio};

use goumem::blocking::Client;
use goumem::{Handle, PoolOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [socket, handle] => second(socket, handle.parse()?),
        _ => first(),
    }
}

fn first() -> Result<()> {
    let client = Client::embedded()?;
    let pool = client.create_pool("frames", PoolOptions::new(1 << 20))?;

    let mut block = pool.alloc_slice::<u32>(1000)?;
    block
        .iter_mut()
        .zip(0..)
        .for_each(|(element, n)| *element = n);
    let handle = block.share()?.into_handle();
    println!("first: 1000 numbers in {handle}, for whoever takes them");

    let output = Command::new(std::env::current_exe()?)
        .arg(client.socket())
        .arg(handle.to_string())
        .stdout(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    let said = String::from_utf8(output.stdout)?;
    print!("{said}");
    assert!(output.status.success(), "second process: {}", output.status);

    let error = pool.resolve_slice::<u32>(handle).expect_err("it was taken");
    println!("first: {error}");
    assert!(error.is_stale());

    let kept: Handle = said.lines().last().unwrap_or_default().parse()?;
    let view = pool.resolve_slice::<u32>(kept)?;
    println!(
        "first: the second process left {:?}…",
        &view.read_slice()?[..4]
    );
    assert_eq!(view.read_slice()?[..4], [0, 2, 4, 6]);
    Ok(())
}

fn second(socket: &str, handle: Handle) -> Result<()> {
    let client = Client::builder().socket(socket).label("second").connect()?;
    let pool = client.open_pool("frames")?;
    let mut block = pool.take_slice::<u32>(handle)?;
    block.iter_mut().for_each(|element| *element *= 2);
    println!("second: took them and doubled them in place");
    let shared = block.share()?;
    // Kept, it outlives this process.
    println!("{}", goumem::blocking::wait(shared.keep())?);
    Ok(())
}
