//! What there is to draw: pieces of a pool by place, each with a label, and how much each label
//! has. Pools of blocks and arena pools look alike from here on.

use std::collections::{BTreeMap, HashMap};

use goumem::{ArenaPoolMap, ArenaState, MappedSpan, PageRun, PoolMap, RunState, SessionNumber};

use crate::args::MapBy;
use crate::observation::percent;
use crate::output::{Cell, List, Record, human_bytes};

/// Above this a span is one block.
const LARGE_BYTES: u64 = 1 << 20;

/// A pool, ready to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// `pool frames` or `arena pool batches`.
    pub(super) title: String,
    /// One thing of which there are many in a row: `page` or `arena`.
    pub(super) unit: &'static str,
    pub(super) unit_bytes: u64,
    pub(super) by: MapBy,
    /// What may be granted at a time.
    pub(super) capacity_bytes: u64,
    /// By place, without gaps, up to the last that is worth drawing.
    pub(super) pieces: Vec<Piece>,
}

/// Units in a row that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) label: Label,
    /// For programs, whatever the picture is about.
    state: &'static str,
    session: Option<u16>,
    block_bytes: Option<u64>,
    blocks: Option<u64>,
}

/// What a piece counts as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Label {
    Held(String),
    /// Free, with memory behind it or not.
    Free {
        committed: bool,
    },
}

/// What a label has in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) label: Label,
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Plan {
    pub(super) fn of_pool(map: &PoolMap, by: MapBy, whats: &HashMap<u16, String>) -> Self {
        let capacity_pages = map.pool.capacity_bytes / map.page_bytes.max(1);
        let mut pieces: Vec<_> = map.runs.iter().map(|run| of_run(run, by, whats)).collect();
        // Address space beyond the capacity is drawn only as far as it is used.
        let is_free = |piece: &Piece| piece.label == Label::Free { committed: false };
        if let Some(last) = pieces.last_mut().filter(|piece| is_free(piece)) {
            let end = capacity_pages.max(last.first);
            last.count = last.count.min(end - last.first);
        }
        pieces.retain(|piece| piece.count > 0);
        Self {
            title: format!("pool {}", map.pool.name),
            unit: "page",
            unit_bytes: map.page_bytes,
            by,
            capacity_bytes: map.pool.capacity_bytes,
            pieces,
        }
    }

    pub(super) fn of_arenas(map: &ArenaPoolMap, by: MapBy, whats: &HashMap<u16, String>) -> Self {
        let piece = |arena: &goumem::MappedArena| {
            let session = arena.holders.first().map(|holder| holder.session);
            let held = match by {
                MapBy::Holder if arena.n_holders > 1 => "several".to_owned(),
                MapBy::Holder => match session {
                    Some(session) => call(session, whats),
                    None => "others".to_owned(),
                },
                MapBy::State | MapBy::Class => match arena.state {
                    ArenaState::Named => "named".to_owned(),
                    _ => "exclusive".to_owned(),
                },
            };
            let (label, state) = match arena.state {
                ArenaState::Free => (Label::Free { committed: false }, "free"),
                ArenaState::Exclusive => (Label::Held(held), "exclusive"),
                ArenaState::Named => (Label::Held(held), "named"),
            };
            Piece {
                first: arena.index.into(),
                count: 1,
                label,
                state,
                session: session.map(SessionNumber::get),
                block_bytes: None,
                blocks: None,
            }
        };
        Self {
            title: format!("arena pool {}", map.pool.name),
            unit: "arena",
            unit_bytes: map.pool.arena_bytes,
            by,
            capacity_bytes: map.pool.arena_bytes.saturating_mul(map.pool.arenas.into()),
            pieces: map.arenas.iter().map(piece).collect(),
        }
    }

    /// Returns how much there is of each label: what is held by its size, then what is free.
    pub(super) fn shares(&self) -> Vec<Share> {
        let mut counts: BTreeMap<&Label, u64> = BTreeMap::new();
        for piece in &self.pieces {
            *counts.entry(&piece.label).or_default() += piece.count;
        }
        let mut shares: Vec<_> = counts
            .into_iter()
            .map(|(label, count)| Share {
                label: label.clone(),
                count,
                bytes: count.saturating_mul(self.unit_bytes),
            })
            .collect();
        shares.sort_by_key(|share| {
            let is_free = matches!(share.label, Label::Free { .. });
            (is_free, std::cmp::Reverse(share.count), share.label.clone())
        });
        shares
    }

    pub(super) fn units(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.count).sum()
    }

    /// Returns a line of sums: how full it is, and how broken up what is free.
    pub(super) fn summary(&self) -> String {
        let totals = self.totals();
        format!(
            "{}: {} of {} held, {} free in {} pieces, largest {}, {} % fragmented",
            self.title,
            human_bytes(totals.held_bytes),
            human_bytes(self.capacity_bytes),
            human_bytes(totals.free_bytes),
            totals.free_pieces,
            human_bytes(totals.largest_free_bytes),
            totals.fragmented_percent,
        )
    }

    fn totals(&self) -> Totals {
        let mut held = 0;
        let (mut free, mut pieces, mut largest, mut run) = (0, 0, 0, 0);
        for piece in &self.pieces {
            match piece.label {
                Label::Held(_) => {
                    held += piece.count;
                    run = 0;
                }
                Label::Free { .. } => {
                    if run == 0 {
                        pieces += 1;
                    }
                    free += piece.count;
                    run += piece.count;
                    largest = largest.max(run);
                }
            }
        }
        let bytes = |units: u64| units.saturating_mul(self.unit_bytes);
        let room = self.capacity_bytes.saturating_sub(bytes(held));
        let free_bytes = bytes(free).min(room);
        let largest_free_bytes = bytes(largest).min(room);
        Totals {
            held_bytes: bytes(held),
            free_bytes,
            free_pieces: pieces,
            largest_free_bytes,
            fragmented_percent: match free_bytes {
                0 => 0,
                free => 100 - percent(largest_free_bytes, free),
            },
        }
    }

    /// Returns everything, for programs.
    pub(super) fn facts(&self) -> Record {
        let totals = self.totals();
        let mut shares = List::new(&["label", "count", "bytes"]);
        for share in self.shares() {
            shares.push([
                share.label.text().into(),
                share.count.into(),
                Cell::Bytes(share.bytes),
            ]);
        }
        let mut runs = List::new(&[
            "first",
            "count",
            "state",
            "label",
            "session",
            "block_bytes",
            "blocks",
        ]);
        for piece in &self.pieces {
            runs.push([
                piece.first.into(),
                piece.count.into(),
                piece.state.into(),
                piece.label.text().into(),
                piece.session.map(u32::from).into(),
                piece.block_bytes.map(Cell::Bytes).into(),
                piece.blocks.into(),
            ]);
        }
        Record::new()
            .with("title", self.title.as_str())
            .with("unit", self.unit)
            .with("unit_bytes", Cell::Bytes(self.unit_bytes))
            .with("capacity_bytes", Cell::Bytes(self.capacity_bytes))
            .with("held_bytes", Cell::Bytes(totals.held_bytes))
            .with("free_bytes", Cell::Bytes(totals.free_bytes))
            .with("free_pieces", totals.free_pieces)
            .with("largest_free_bytes", Cell::Bytes(totals.largest_free_bytes))
            .with(
                "fragmented_percent",
                Cell::Percent(totals.fragmented_percent),
            )
            .with("shares", shares)
            .with("runs", runs)
    }
}

struct Totals {
    held_bytes: u64,
    free_bytes: u64,
    free_pieces: u64,
    largest_free_bytes: u64,
    fragmented_percent: u64,
}

impl Label {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Held(text) => text,
            Self::Free { committed: true } => "free, memory still there",
            Self::Free { committed: false } => "free",
        }
    }
}

fn of_run(run: &PageRun, by: MapBy, whats: &HashMap<u16, String>) -> Piece {
    let span = run.span.as_ref();
    let session = span.map(|span| span.session);
    let state = match run.state {
        RunState::Free => "free",
        RunState::FreeCommitted => "free, committed",
        RunState::Leased => "leased",
        RunState::Daemon => "of the daemon",
        RunState::Abandoned => "abandoned",
        RunState::Retired => "retired",
    };
    let label = match run.state {
        RunState::Free => Label::Free { committed: false },
        RunState::FreeCommitted => Label::Free { committed: true },
        RunState::Retired => Label::Held("retired".to_owned()),
        RunState::Leased | RunState::Daemon | RunState::Abandoned => Label::Held(match by {
            MapBy::State => state.to_owned(),
            MapBy::Class => class(span),
            MapBy::Holder => match run.state {
                RunState::Daemon => "blocks allocated by RPC".to_owned(),
                RunState::Abandoned => "blocks of sessions that have ended".to_owned(),
                _ => session.map_or_else(|| "others".to_owned(), |session| call(session, whats)),
            },
        }),
    };
    Piece {
        first: run.first_page.get().into(),
        count: run.pages.get().into(),
        label,
        state,
        session: session
            .filter(|&session| session != SessionNumber::NOBODY)
            .map(SessionNumber::get),
        block_bytes: span.map(|span| span.block_bytes),
        blocks: span.map(|span| span.exported_blocks.into()),
    }
}

fn class(span: Option<&MappedSpan>) -> String {
    match span.map(|span| span.block_bytes) {
        Some(bytes) if bytes <= LARGE_BYTES => format!("blocks of {}", human_bytes(bytes)),
        Some(_) => "large blocks".to_owned(),
        None => "not told".to_owned(),
    }
}

/// Returns what a session is called.
fn call(session: SessionNumber, whats: &HashMap<u16, String>) -> String {
    if session == SessionNumber::NOBODY {
        return "others".to_owned();
    }
    match whats.get(&session.get()).map(String::as_str) {
        Some("") | None => format!("session {session}"),
        Some(what) => format!("session {session} {what}"),
    }
}
