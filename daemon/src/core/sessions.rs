//! Sessions: opened, resumed, closed, killed, and swept when their process has died.

use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{PoolId, SessionNumber};
use goumem_proto::model::{
    Access, CloseSession, ClosedSession, EndCause, Event, Happening, KillSession, OpenSession,
    OpenedSession, RenewedSession, ResumedSession, SessionInfo, Unmap,
};
use std::os::fd::OwnedFd;

use super::Core;
use super::registry::AnyPool;
use crate::error::Error;
use crate::permission;
use crate::session::{Caller, Session};
use crate::tls::REMOTE_ID;

impl Core {
    /// Opens a session for the calling process.
    ///
    /// # Errors
    /// `TooMany`, `Os`, `SessionExpired` for a process that has died already.
    pub fn open_session(
        &self,
        caller: &Caller,
        request: OpenSession,
        now: Instant,
    ) -> Result<OpenedSession, Error> {
        let (session, token) = self.sessions.open(caller, &request, now)?;
        if let Some(pidfd) = &session.watched
            && let Err(source) = self.watch.add(pidfd, session.serial)
            // So it is for the retry of an Open.
            && source.kind() != std::io::ErrorKind::AlreadyExists
        {
            // Unwatched, it would never be swept.
            session.mark_dead();
            self.sessions.forget(&session);
            return Err(Error::os("watch a session's process", source));
        }
        if let Some(at) = session.expires_at() {
            self.note_deadline(at);
        }
        tracing::info!(
            session = session.number.get(), uid = session.uid, pid = session.pid,
            label = %session.label, "session opened"
        );
        self.tell_of_session(&session, Happening::SessionOpened, now);
        Ok(OpenedSession {
            session: session.number,
            serial: session.serial,
            token,
            may_map: session.may_map,
            fd_socket: self.fd_socket.clone().filter(|_| session.may_map),
            epoch: self.root.epoch(),
            ttl: session.ttl,
        })
    }

    /// Continues a session on a new connection.
    ///
    /// # Errors
    /// `SessionRequired`, `SessionExpired`.
    pub fn resume_session(&self, caller: &Caller, now: Instant) -> Result<ResumedSession, Error> {
        let session = caller.session()?;
        session.touch(now);
        Ok(ResumedSession {
            session: session.number,
            serial: session.serial,
            highest_request_id: session.highest_request(),
            epoch: self.root.epoch(),
            fd_socket: self.fd_socket.clone().filter(|_| session.may_map),
        })
    }

    /// Renews a remote session.
    ///
    /// # Errors
    /// `SessionRequired`, `SessionExpired`.
    pub fn keep_alive(&self, caller: &Caller, now: Instant) -> Result<RenewedSession, Error> {
        let session = caller.session()?;
        session.touch(now);
        Ok(RenewedSession { ttl: session.ttl })
    }

    /// Ends the calling session.
    ///
    /// # Errors
    /// `BlocksOutstanding` unless forced.
    pub fn close_session(
        &self,
        caller: &Caller,
        request: CloseSession,
        now: Instant,
    ) -> Result<ClosedSession, Error> {
        let session = caller.session()?;
        if !request.force {
            self.require_nothing_held(session)?;
        }
        let reclaimed_bytes = self.end_session(session, EndCause::Closed, now);
        Ok(ClosedSession { reclaimed_bytes })
    }

    /// Sends SIGKILL to a session's process; its sweep follows from its death. A session without
    /// a process on this machine just ends.
    ///
    /// # Errors
    /// `SessionNotFound`, `PermissionDenied`, `Os`.
    pub fn kill_session(
        &self,
        caller: &Caller,
        request: KillSession,
        now: Instant,
    ) -> Result<(), Error> {
        let not_found = || Error::SessionNotFound {
            session: request.session,
        };
        let session = self
            .sessions
            .by_number(request.session)
            .ok_or_else(not_found)?;
        if request
            .serial
            .is_some_and(|serial| serial.get() != session.serial)
        {
            return Err(not_found());
        }
        // From elsewhere one may end one's sessions, but kill no process.
        let same_user = caller.uid == session.uid
            && (caller.local || caller.uid != REMOTE_ID && session.pidfd.is_none());
        if !permission::is_root(caller) && !same_user {
            return Err(permission::denied(
                caller,
                format!("kill session {}", session.number),
            ));
        }
        match &session.pidfd {
            Some(pidfd) => {
                tracing::warn!(
                    session = session.number.get(),
                    pid = session.pid,
                    by_uid = caller.uid,
                    "killing a session's process"
                );
                pidfd
                    .kill()
                    .map_err(|e| Error::os("kill a session's process", e))
            }
            None => {
                self.end_session(&session, EndCause::Killed, now);
                Ok(())
            }
        }
    }

    /// Lists the caller's user's sessions, all of them for root and the daemon's user.
    ///
    /// # Errors
    /// None.
    pub fn list_sessions(&self, caller: &Caller, now: Instant) -> Result<Vec<SessionInfo>, Error> {
        let sees_all = permission::is_root(caller)
            || (caller.local && caller.uid == goumem_shm::os::process::own_uid());
        let mut sessions: Vec<Arc<Session>> = self.sessions.all();
        let is_somebody = caller.local || caller.uid != REMOTE_ID;
        sessions.retain(|session| sees_all || (is_somebody && session.uid == caller.uid));
        sessions.sort_by_key(|session| session.serial);
        Ok(sessions
            .iter()
            .map(|session| self.session_info(session, now))
            .collect())
    }

    /// Sweeps the session with that serial, whose process has died.
    pub fn session_died(&self, serial: u64, now: Instant) {
        if let Some(session) = self.sessions.by_serial(serial) {
            self.end_session(&session, EndCause::Died, now);
        }
    }

    /// Hands a pool's memory to a session.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `SessionExpired`, `ForeignPidNamespace`, `Os`.
    pub fn map_request(
        &self,
        session: &Arc<Session>,
        pool_id: PoolId,
        access: Access,
        now: Instant,
    ) -> Result<(OwnedFd, OwnedFd), Error> {
        session.require_live()?;
        let Some(pidfd) = session.pidfd.clone().filter(|_| session.may_map) else {
            return Err(Error::ForeignPidNamespace);
        };
        let caller = Caller {
            uid: session.uid,
            gid: session.gid,
            pid: session.pid,
            local: true,
            pidfd: Some(pidfd),
            session: Some(Arc::clone(session)),
        };
        let pool = self.registry().by_id(pool_id)?;
        match pool {
            AnyPool::Blocks(pool) => {
                pool.require(&caller, access)?;
                pool.hand_out(session, access, now)
            }
            AnyPool::Arenas(pool) => {
                pool.require(&caller, access)?;
                pool.hand_out(session, access, now)
            }
        }
    }

    /// Notes that a session has unmapped a pool; a destroyed one may go with it.
    ///
    /// # Errors
    /// `PoolNotFound`, `SessionRequired`, `SessionExpired`.
    pub fn unmap(&self, caller: &Caller, request: Unmap, _now: Instant) -> Result<(), Error> {
        let session = caller.session()?;
        let pool = self.registry().by_id(request.pool_id)?;
        match &pool {
            AnyPool::Blocks(pool) => pool.unmap(session),
            AnyPool::Arenas(pool) => pool.unmap(session),
        }
        self.drop_if_gone(&pool);
        Ok(())
    }

    /// Tells every session that the daemon ends.
    pub fn announce_shutdown(&self, deadline: std::time::Duration) {
        for session in self.sessions.all() {
            session.send(Event::ShuttingDown { deadline });
        }
    }

    /// Ends the streams of every session, so that connections can drain.
    pub fn end_streams(&self) {
        for session in self.sessions.all() {
            session.end_streams();
        }
    }

    /// Tells the sessions of a pool something.
    pub(super) fn tell(&self, sessions: &[SessionNumber], event: Event) {
        for &number in sessions {
            if let Some(session) = self.sessions.by_number(number) {
                session.send(event);
            }
        }
    }

    /// Marks a session dead and gives back what it held; returns how many bytes that were. Only
    /// after the last pool is its number free again.
    pub(super) fn end_session(&self, session: &Session, cause: EndCause, now: Instant) -> u64 {
        if !session.mark_dead() {
            return 0;
        }
        self.sweep_session(session, cause, now)
    }

    /// The rest of `end_session`, for a session that is marked dead. It may be done again from the
    /// start.
    pub(super) fn sweep_session(&self, session: &Session, cause: EndCause, now: Instant) -> u64 {
        session.end_streams();
        let pools = self.registry().all();
        let mut reclaimed_bytes = 0;
        for pool in &pools {
            reclaimed_bytes += match pool {
                AnyPool::Blocks(pool) => {
                    let bytes = pool.sweep(session, now);
                    self.note_freed(pool, now);
                    bytes
                }
                AnyPool::Arenas(pool) => pool.sweep(session),
            };
        }
        if let Some(pidfd) = &session.watched {
            // Not watched any more when it was its death that brought us here.
            let _ = self.watch.remove(pidfd);
        }
        self.sessions.forget(session);
        pools.iter().for_each(|pool| self.drop_if_gone(pool));
        let why = match cause {
            EndCause::Expired => "was silent for longer than its ttl",
            EndCause::Lost => "died while no daemon ran",
            cause => cause.as_str(),
        };
        tracing::info!(
            session = session.number.get(),
            uid = session.uid,
            pid = session.pid,
            cause = why,
            reclaimed_bytes,
            "session ended"
        );
        self.tell_of_session(
            session,
            |session| Happening::SessionEnded {
                session,
                cause,
                reclaimed_bytes,
            },
            now,
        );
        reclaimed_bytes
    }

    fn require_nothing_held(&self, session: &Session) -> Result<(), Error> {
        let (mut blocks, mut leased_bytes, mut arenas) = (0, 0, 0);
        let pools = self.registry().all();
        for pool in pools {
            match pool {
                AnyPool::Blocks(pool) => {
                    let held = pool.holdings(session);
                    blocks += held.blocks;
                    leased_bytes += held.leased_bytes;
                }
                AnyPool::Arenas(pool) => arenas += pool.held_by(session).0,
            }
        }
        if blocks == 0 && leased_bytes == 0 && arenas == 0 {
            Ok(())
        } else {
            Err(Error::BlocksOutstanding {
                blocks,
                arenas,
                leased_bytes,
            })
        }
    }

    fn session_info(&self, session: &Session, now: Instant) -> SessionInfo {
        let mut info = SessionInfo {
            session: session.number,
            serial: session.serial,
            uid: session.uid,
            pid: session.pid,
            label: session.label.clone(),
            may_map: session.may_map,
            connected: session.is_connected(),
            leased_bytes: 0,
            rpc_bytes: 0,
            arenas_held: 0,
            pins: 0,
            command: session.remote().or_else(|| {
                goumem_shm::os::process::command_of(session.pid).filter(|_| session.pidfd.is_some())
            }),
            age: now.saturating_duration_since(session.opened_at),
        };
        let pools = self.registry().all();
        for pool in pools {
            match pool {
                AnyPool::Blocks(pool) => {
                    let held = pool.holdings(session);
                    info.leased_bytes += held.leased_bytes;
                    info.rpc_bytes += held.rpc_bytes;
                    info.pins += u32::try_from(held.pins).unwrap_or(u32::MAX);
                }
                AnyPool::Arenas(pool) => {
                    info.arenas_held += u32::try_from(pool.held_by(session).0).unwrap_or(u32::MAX);
                }
            }
        }
        info
    }
}
