//! The named arenas that a session holds, and how many guards of this process stand for each. To
//! the daemon a session holds an arena or does not; so only the last guard detaches from it.

use std::collections::HashMap;
use std::sync::Mutex;

use goumem_alloc::Handle;
use goumem_proto::model::{DetachArena, DetachedArena, RequestId};
use goumem_proto::v1;
use goumem_proto::v1::control_request::Call;

use crate::error::Error;
use crate::session::{Session, lock};

/// Guards, by arena.
#[derive(Debug, Default)]
pub(crate) struct NamedArenas {
    guards: Mutex<HashMap<Handle, usize>>,
    /// Held over each call that attaches or detaches, so that the daemon hears them in the order
    /// in which the guards were counted.
    turn: tokio::sync::Mutex<()>,
}

impl NamedArenas {
    /// Waits for the turn to attach, or to share.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Counts a guard. The caller has the turn.
    pub(crate) fn add(&self, arena: Handle) {
        *lock(&self.guards).entry(arena).or_default() += 1;
    }

    /// Uncounts a guard; returns whether it was the last one.
    pub(crate) fn remove(&self, arena: Handle) -> bool {
        let mut guards = lock(&self.guards);
        match guards.get_mut(&arena) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                guards.remove(&arena);
                true
            }
        }
    }

    fn is_held(&self, arena: Handle) -> bool {
        lock(&self.guards).contains_key(&arena)
    }
}

/// Detaches from an arena whose last guard has gone, unless another has come meanwhile. Returns
/// whether the arena is free now.
pub(crate) async fn detach(session: &Session, arena: Handle) -> Result<bool, Error> {
    let _turn = session.named_arenas.turn().await;
    if session.named_arenas.is_held(arena) {
        return Ok(false);
    }
    let reply: v1::DetachArenaReply = session
        .control(|request_id| {
            let request_id = RequestId::new(request_id);
            Call::Detach(DetachArena { arena, request_id }.into())
        })
        .await
        .map_err(|error| error.about(arena))?;
    Ok(DetachedArena::try_from(reply)?.returned)
}
