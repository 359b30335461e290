//! A thread that does not map the pool: every block by gRPC, as a client in any other language
//! would have it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use anyhow::{Result, anyhow};
use goumem::Handle;
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_proto::v1;
use harness::{Random, Rpc};

use super::{Crew, bug, report_mismatch, tell};
use crate::stamp::Stamp;
use crate::wire::{Belongings, News, Order, Token, Wrong};

mod calls;

use self::calls::{Call, on_handle};

/// What it has at a time.
const MAX_HELD: usize = 30;
const MAX_PINS: usize = 10;
/// `u64` in docs/layout.md.
const TYPE_TAG: u32 = 4;

/// A session without a mapping, and what it has.
#[derive(Debug)]
pub(super) struct Thin {
    crew: Arc<Crew>,
    rpc: Rpc,
    serial: u64,
    pool_id: u32,
    arena_pool_id: u32,
    random: Random,
    next_request: u64,
    held: Vec<Token>,
    pins: Vec<Token>,
    ops: u64,
}

impl Thin {
    pub(super) fn open(crew: Arc<Crew>, socket: &Path) -> Result<Self> {
        let mut thin = Self {
            rpc: Rpc::lazy(socket),
            serial: 0,
            pool_id: crew.pool.id().get(),
            arena_pool_id: crew.arenas.id().get(),
            random: crew.random(u64::from(u8::MAX)),
            crew,
            next_request: 1,
            held: Vec::new(),
            pins: Vec::new(),
            ops: 0,
        };
        let open = |rpc: Rpc| -> Call<v1::OpenSessionReply> {
            let request = v1::OpenSessionRequest {
                label: format!("thin {}", std::process::id()),
                ttl_ms: 0,
                // The same at each try, so that it is one session however often it is opened.
                nonce: b"the thin session".to_vec(),
            };
            Box::pin(async move { rpc.sessions().open(request).await })
        };
        let opened = thin
            .insist(open)
            .map_err(|detail| anyhow!("open a session: {detail:?}"))?;
        thin.rpc.token = opened.token;
        thin.rpc.session = opened.session;
        thin.serial = opened.serial;
        Ok(thin)
    }

    pub(super) fn session(&self) -> (u16, u64) {
        (u16::try_from(self.rpc.session).unwrap_or(0), self.serial)
    }

    /// Works until the director has gone.
    pub(super) fn work(mut self, orders: &Receiver<Order>, threads: u64) {
        loop {
            match orders.try_recv() {
                Ok(order @ (Order::Pause | Order::Drain)) => {
                    if !self.stand_still(order, orders, threads) {
                        return;
                    }
                }
                Ok(Order::Take(token)) => self.take(token),
                Ok(Order::Look(token)) => drop(self.look(&token)),
                Ok(Order::Sabotage(_)) => self.close(),
                Ok(Order::Attach(_) | Order::Go) => {}
                Err(TryRecvError::Empty) => self.step(),
                Err(TryRecvError::Disconnected) => return,
            }
            self.ops += 1;
        }
    }

    fn stand_still(&mut self, mut order: Order, orders: &Receiver<Order>, threads: u64) -> bool {
        loop {
            if order == Order::Drain {
                while !self.held.is_empty() {
                    self.end_held();
                }
                while !self.pins.is_empty() {
                    self.unpin();
                }
            }
            tell(&News::Ops(std::mem::take(&mut self.ops)));
            tell(&News::Paused(Belongings {
                pins: self.pins.len() as u64,
                threads,
                ..Belongings::default()
            }));
            order = loop {
                match orders.recv() {
                    Ok(Order::Go) => return true,
                    Ok(Order::Drain) => break Order::Drain,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            };
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..6 => self.make(),
            6..9 => self.end_held(),
            9 => self.keep(),
            10 => self.pin_held(),
            11 => self.unpin(),
            12 => self.use_arena(),
            _ => {
                if let Some(token) = self.some_held() {
                    self.look(&token);
                }
            }
        }
    }

    fn make(&mut self) {
        let words = match self.random.below(32) {
            0 => 20_000 + self.random.index(10_000),
            1..4 => 100 + self.random.index(2_000),
            _ => 1 + self.random.index(64),
        };
        let pool_id = self.pool_id;
        let alloc = move |rpc: Rpc, request_id| -> Call<v1::AllocReply> {
            Box::pin(async move {
                let spec = Some(v1::BlockSpec {
                    size_bytes: 8 * words as u64,
                    type_tag: TYPE_TAG,
                    ..Default::default()
                });
                let request = v1::AllocRequest {
                    pool_id,
                    spec,
                    request_id,
                };
                rpc.pools().alloc(rpc.with(request)).await
            })
        };
        let handle = match self.effect("alloc", alloc) {
            Ok(reply) => reply.block.and_then(|block| block.handle),
            Err(detail) if detail.reason == Reason::PoolExhausted => {
                return self.end_held();
            }
            Err(detail) => return self.report(&detail, "alloc"),
        };
        let Some(handle) = handle.and_then(|handle| Handle::try_from(handle).ok()) else {
            return bug(Wrong::Error, "alloc by gRPC: no handle");
        };
        if self.random.below(4) == 0
            && let Ok(found) = self.read(handle)
            && let Some(at) = found.iter().position(|&word| word != 0)
        {
            let (stamp, place) = Stamp::of(found[at]);
            let text = format!("new {handle}: word {at} is word {place} of {stamp}, not 0");
            bug(Wrong::Overlap, text);
        }
        let stamp = self.crew.stamp();
        let token = Token {
            stamp,
            words,
            handle,
            owner: Some(self.crew.id),
            named: false,
        };
        self.write(&token);
        if self.held.len() < MAX_HELD && self.random.below(2) == 0 {
            tell(&News::Have(token));
            self.held.push(token);
        } else {
            tell(&News::Give(token));
        }
    }

    /// Looks at a block. Returns whether it is there.
    fn look(&self, token: &Token) -> bool {
        match self.read(token.handle) {
            Ok(words) => {
                if let Err(mismatch) = token.stamp.verify(&words) {
                    report_mismatch(&mismatch, "read by gRPC");
                }
                if words.len() != token.words {
                    bug(Wrong::Overlap, format!("{token} has {} words", words.len()));
                }
                true
            }
            Err(detail) if is_stale(&detail) => false,
            Err(detail) => {
                self.report(&detail, "read");
                true
            }
        }
    }

    /// Does something with a token that has come.
    fn take(&mut self, token: Token) {
        if !self.look(&token) {
            return tell(&News::Stale(token.stamp, "read it by gRPC".to_owned()));
        }
        match self.random.below(8) {
            0..3 => self.free(token),
            3..5 => self.take_over(token),
            5..7 if self.held.len() < MAX_HELD => self.adopt(token),
            _ => tell(&News::Give(token)),
        }
    }

    fn free(&mut self, token: Token) {
        let handle = Some(token.handle.into());
        let free = move |rpc: Rpc, request_id| -> Call<v1::FreeReply> {
            let request = v1::FreeRequest { handle, request_id };
            Box::pin(async move { rpc.pools().free(rpc.with(request)).await })
        };
        match self.effect("free", free) {
            Ok(_) => tell(&News::Gone(token.stamp)),
            Err(detail) => self.refused(token, &detail, "free"),
        }
    }

    fn take_over(&mut self, token: Token) {
        let take = on_handle(token.handle, |rpc, request| {
            Box::pin(async move { rpc.pools().take(rpc.with(request)).await })
        });
        match self.effect("take", take) {
            Ok(reply) => {
                tell(&News::Gone(token.stamp));
                let handle = reply
                    .handle
                    .and_then(|handle| Handle::try_from(handle).ok());
                let Some(handle) = handle else {
                    return bug(Wrong::Error, "take by gRPC: no handle");
                };
                let token = Token {
                    stamp: self.crew.stamp(),
                    handle,
                    owner: Some(self.crew.id),
                    named: false,
                    ..token
                };
                self.write(&token);
                tell(&News::Give(token));
            }
            Err(detail) => self.refused(token, &detail, "take"),
        }
    }

    fn adopt(&mut self, token: Token) {
        let adopt = on_handle(token.handle, |rpc, request| {
            Box::pin(async move { rpc.pools().adopt(rpc.with(request)).await })
        });
        match self.effect("adopt", adopt) {
            Ok(_) => {
                let token = Token {
                    owner: Some(self.crew.id),
                    named: false,
                    ..token
                };
                tell(&News::Have(token));
                self.held.push(token);
            }
            Err(detail) => self.refused(token, &detail, "adopt"),
        }
    }

    fn refused(&self, token: Token, detail: &ErrorDetail, doing: &str) {
        if is_stale(detail) {
            return tell(&News::Stale(token.stamp, format!("{doing} it by gRPC")));
        }
        if detail.reason != Reason::BlockPinned {
            self.report(detail, doing);
        }
        tell(&News::Give(token));
    }

    fn some_held(&mut self) -> Option<Token> {
        if self.held.is_empty() {
            return None;
        }
        Some(self.held[self.random.index(self.held.len())])
    }

    fn pop_held(&mut self) -> Option<Token> {
        let token = self.some_held()?;
        self.held.retain(|held| held.stamp != token.stamp);
        Some(token)
    }

    fn end_held(&mut self) {
        let Some(token) = self.pop_held() else {
            return;
        };
        if self.look(&token) {
            self.free(token);
        } else {
            tell(&News::Stale(token.stamp, "free its own by gRPC".to_owned()));
        }
    }

    fn keep(&mut self) {
        let Some(token) = self.pop_held() else {
            return;
        };
        let keep = on_handle(token.handle, |rpc, request| {
            Box::pin(async move { rpc.pools().keep(rpc.with(request)).await })
        });
        match self.effect("keep", keep) {
            Ok(_) => tell(&News::Give(Token {
                owner: None,
                ..token
            })),
            Err(detail) => self.refused(token, &detail, "keep"),
        }
    }

    fn pin_held(&mut self) {
        let Some(token) = self.some_held() else {
            return;
        };
        if self.pins.len() >= MAX_PINS {
            return self.unpin();
        }
        let pin = on_handle(token.handle, |rpc, request| {
            Box::pin(async move { rpc.pools().pin(rpc.with(request)).await })
        });
        let outcome = self.effect("pin", pin);
        if self.expect(outcome, "pin its own").is_some() {
            self.pins.push(token);
        }
    }

    fn unpin(&mut self) {
        let Some(token) = self.pins.pop() else {
            return;
        };
        let unpin = on_handle(token.handle, |rpc, request| {
            Box::pin(async move { rpc.pools().unpin(rpc.with(request)).await })
        });
        let outcome = self.effect("unpin", unpin);
        self.expect(outcome, "unpin");
    }

    /// Gets an arena, writes into it, reads it and returns it.
    fn use_arena(&mut self) {
        let pool_id = self.arena_pool_id;
        let wait_ms = self.random.below(10);
        let get = move |rpc: Rpc, request_id| -> Call<v1::ArenaReply> {
            let request = v1::GetArenaRequest {
                pool_id,
                wait_ms,
                request_id,
            };
            Box::pin(async move { rpc.arenas().get(rpc.with(request)).await })
        };
        let arena = match self.effect("get an arena", get) {
            Ok(reply) => reply.arena,
            Err(detail)
                if matches!(
                    detail.reason,
                    Reason::NoFreeArena | Reason::DeadlineExceeded
                ) =>
            {
                return;
            }
            Err(detail) => return self.report(&detail, "get an arena"),
        };
        let words = 1 + self.random.index(500);
        let bump = move |rpc: Rpc, request_id| -> Call<v1::ArenaAllocReply> {
            let request = v1::ArenaAllocRequest {
                arena,
                size_bytes: 8 * words as u64,
                align_bytes: 0,
                request_id,
            };
            Box::pin(async move { rpc.arenas().alloc(rpc.with(request)).await })
        };
        let outcome = match self.effect("bump", bump) {
            // The daemon died in the middle of it, and cannot tell.
            Err(detail) if detail.reason == Reason::RequestExpired => None,
            outcome => self.expect(outcome, "bump"),
        };
        let place = outcome
            .and_then(|reply| reply.handle)
            .and_then(|handle| Handle::try_from(handle).ok());
        if let Some(handle) = place {
            let token = Token {
                stamp: self.crew.stamp(),
                words,
                handle,
                owner: Some(self.crew.id),
                named: false,
            };
            self.write(&token);
            match self.read(handle) {
                Ok(found) => {
                    if let Err(mismatch) = token.stamp.verify(&found[..words.min(found.len())]) {
                        report_mismatch(&mismatch, "read an arena by gRPC");
                    }
                }
                Err(detail) => self.report(&detail, "read an arena"),
            }
        }
        let give_back = move |rpc: Rpc, request_id| -> Call<v1::ReturnArenaReply> {
            let request = v1::ReturnArenaRequest { arena, request_id };
            Box::pin(async move { rpc.arenas().r#return(rpc.with(request)).await })
        };
        let outcome = self.effect("return an arena", give_back);
        self.expect(outcome, "return an arena");
    }

    /// Ends its session, as only a bug would.
    fn close(&self) {
        let close = |rpc: Rpc| -> Call<v1::CloseSessionReply> {
            let request = v1::CloseSessionRequest { force: true };
            Box::pin(async move { rpc.sessions().close(rpc.with(request)).await })
        };
        self.expect(self.insist(close), "close");
    }
}

fn is_stale(detail: &ErrorDetail) -> bool {
    matches!(detail.reason, Reason::StaleHandle | Reason::DoubleFree)
}
