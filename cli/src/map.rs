//! `goumemctl map`: where a pool's memory is, as a picture in the terminal: who holds it, blocks of
//! which size, or in which state. Each cell is a run of pages and shows what most of it is.

mod picture;
mod plan;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};

use goumem::blocking::Client;
use goumem::{ArenaPoolMap, Error, PoolMap, Reason};

use self::picture::Look;
use self::plan::Plan;
use crate::args::{MapArgs, MapBy};
use crate::error::{Failure, no_colour};
use crate::observation::whats;
use crate::output::Output;

/// Where stdout is no terminal.
const DEFAULT_WIDTH: u16 = 80;

/// Draws a pool or an arena pool of that name.
pub(crate) fn run(client: &Client, args: &MapArgs) -> Result<Output, Failure> {
    // Without them a holder is a number, which is still worth drawing.
    let whats = whats(&client.sessions().unwrap_or_default());
    let by = args.by.unwrap_or(MapBy::Holder);
    let plan = match whole_pool(client, &args.pool) {
        Ok(map) => Plan::of_pool(&map, by, &whats),
        Err(error) if error.reason() == Some(Reason::PoolNotFound) => {
            // If it is neither, what is said of a pool is said.
            let map = whole_arena_pool(client, &args.pool).map_err(|_| error)?;
            Plan::of_arenas(&map, by, &whats)
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Output::Report {
        text: picture::text(&plan, look(args.width)),
        facts: plan.facts(),
        failed: false,
    })
}

/// Returns the whole map, however many answers it takes. Each is of one moment.
fn whole_pool(client: &Client, name: &str) -> Result<PoolMap, Error> {
    let mut map = client.pool_map(name)?;
    while let Some(page) = map.next_page {
        let more = client.pool_map_from(name, page)?;
        map.runs.extend(more.runs);
        // A daemon that does not get on would have us ask for ever.
        map.next_page = more.next_page.filter(|&next| next > page);
    }
    Ok(map)
}

/// The same for arenas.
fn whole_arena_pool(client: &Client, name: &str) -> Result<ArenaPoolMap, Error> {
    let mut map = client.arena_pool_map(name)?;
    while let Some(arena) = map.next_arena {
        let more = client.arena_pool_map_from(name, arena)?;
        map.arenas.extend(more.arenas);
        map.next_arena = more.next_arena.filter(|&next| next > arena);
    }
    Ok(map)
}

fn look(width: Option<u16>) -> Look {
    let is_terminal = io::stdout().is_terminal();
    let columns = width.or_else(|| {
        let (columns, _) = is_terminal.then(crossterm::terminal::size)?.ok()?;
        Some(columns)
    });
    Look {
        columns: columns.unwrap_or(DEFAULT_WIDTH).max(8),
        colour: is_terminal && !no_colour(),
    }
}
