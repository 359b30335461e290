//! An arena that this process holds: filled from the front, freed as a whole.

use goumem_alloc::Handle;
use goumem_proto::model::{Access, ArenaInfo, RequestId, ShareArena};
use goumem_proto::name::ArenaName;
use goumem_proto::v1;
use goumem_proto::v1::control_request::Call;
use goumem_shm::os::fork;
use goumem_shm::{AccessError, ShmType};

use crate::arena_pool::ArenaCore;
use crate::client::parse_name;
use crate::error::Error;
use crate::housekeeper::Chore;
use crate::in_use::InUse;
use crate::named_arenas;
use crate::session::Held;
use crate::view::offset_of;

mod allocation;

pub use allocation::ArenaRef;

/// An arena that this process holds: a piece of memory of a fixed size, filled from the front by
/// adding to a cursor, and freed as a whole. Allocating makes no call.
///
/// One that was got is held alone; [`share`](Self::share) gives it a name under which others may
/// [attach](crate::ArenaPool::attach) to it. Dropping it returns it, or detaches from it if it is
/// shared: the last holder's detach returns it. What was in it is gone then, and every handle
/// into it is stale.
///
/// ```
/// # use goumem::{ArenaPoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_arena_pool("a", ArenaPoolOptions::new(1, 4096))?;
/// let arena = pool.get()?;
/// let number = arena.alloc::<u64>()?;
/// number.write(456)?;
/// let handle = number.handle(); // may be sent to other holders of the arena
/// assert_eq!(arena.resolve::<u64>(handle)?.read()?, 456);
/// # Ok::<(), goumem::Error>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    core: InUse<ArenaCore>,
    handle: Handle,
    access: Access,
    hold: Hold,
    _held: Held,
}

/// How an arena is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Alone,
    Shared,
    /// Not any more.
    Gone,
}

impl Arena {
    pub(crate) fn exclusive(core: InUse<ArenaCore>, held: Held, handle: Handle) -> Self {
        Self {
            core,
            handle,
            access: Access::ReadWrite,
            hold: Hold::Alone,
            _held: held,
        }
    }

    pub(crate) fn attached(
        core: InUse<ArenaCore>,
        held: Held,
        handle: Handle,
        access: Access,
    ) -> Self {
        Self {
            core,
            handle,
            access,
            hold: Hold::Shared,
            _held: held,
        }
    }

    /// Empties the arena: every handle into it is stale. Takes `&mut self`, so that no
    /// [`ArenaRef`] of this process is left.
    ///
    /// # Errors
    /// [`Error::Access`] with `Shared` for a shared arena.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.require_writable()?;
        self.handle = self
            .core
            .memory
            .reset(self.handle, self.core.session.number)?;
        Ok(())
    }

    /// Gives the arena a name in its pool, so that others may attach to it. This process stays a
    /// holder.
    ///
    /// # Errors
    /// [`Error::NameExists`]; [`Error::Name`]; [`Error::Access`] with `Shared` if it has a name.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # use goumem::{Access, ArenaPoolOptions, Client};
    /// # let client = Client::embedded().await?;
    /// # let pool = client.create_arena_pool("a", ArenaPoolOptions::new(2, 4096)).await?;
    /// let mut arena = pool.get().await?;
    /// arena.share("batch/17").await?;
    /// // … in another process:
    /// let theirs = pool.attach("batch/17", Access::ReadWrite).await?;
    /// assert_eq!(theirs.handle(), arena.handle());
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn share(&mut self, name: &str) -> Result<(), Error> {
        let name: ArenaName = parse_name("arena", name)?;
        let arena = self.handle;
        let core = self.core.clone();
        let reply = self
            .core
            .session
            .run(move |session| async move {
                let _turn = session.named_arenas.turn().await;
                let reply: v1::ArenaReply = session
                    .control(|request_id| {
                        let request_id = RequestId::new(request_id);
                        let share = ShareArena {
                            arena,
                            name: name.clone(),
                            request_id,
                        };
                        Call::Share(share.into())
                    })
                    .await
                    .map_err(|error| core.name_loss(error.about(arena)))?;
                let info = ArenaInfo::try_from(reply)?;
                session.named_arenas.add(info.arena);
                Ok(info)
            })
            .await?;
        self.handle = reply.arena;
        self.hold = Hold::Shared;
        Ok(())
    }

    /// Stops holding a shared arena, and waits until the daemon has noted it. Returns whether
    /// this was the last holder, so that the arena is free now; another guard of this process for the
    /// same arena still holds it.
    ///
    /// # Errors
    /// [`Error::Transport`] and the like; this process has let go of it all the same. One held
    /// alone is returned, which makes no call.
    pub async fn detach(mut self) -> Result<bool, Error> {
        if self.hold == Hold::Alone {
            return self.return_arena().map(|()| true);
        }
        self.hold = Hold::Gone;
        let arena = self.handle;
        if !self.core.session.named_arenas.remove(arena) {
            return Ok(false);
        }
        self.core
            .session
            .run(move |session| async move { named_arenas::detach(&session, arena).await })
            .await
    }

    /// Returns the arena to its pool: as dropping it, but that it tells what went wrong. A
    /// shared arena is detached from in the background.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale` when this process does not hold it any more.
    pub fn return_arena(mut self) -> Result<(), Error> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), Error> {
        let hold = std::mem::replace(&mut self.hold, Hold::Gone);
        match hold {
            Hold::Alone => self.core.give_back(self.handle)?,
            Hold::Shared => {
                let (session, arena) = (&self.core.session, self.handle);
                if session.named_arenas.remove(arena) {
                    let detaching = std::sync::Arc::clone(session);
                    session.queue(Chore::Call(Box::pin(async move {
                        if let Err(error) = named_arenas::detach(&detaching, arena).await {
                            tracing::debug!(%error, "queued detach failed");
                        }
                    })));
                }
            }
            Hold::Gone => {}
        }
        Ok(())
    }

    /// Allocates room for a `T`. Its bytes are unspecified.
    ///
    /// # Errors
    /// [`Error::Access`] with `ArenaFull`, `ZeroSize`, `ReadOnly`, or `Stale` when this process
    /// does not hold the arena any more.
    #[inline]
    pub fn alloc<T: ShmType>(&self) -> Result<ArenaRef<'_, T>, Error> {
        self.alloc_raw(size_of::<T>() as u64, align_of::<T>() as u64)
    }

    /// Allocates room for `len` elements. Their bytes are unspecified.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    #[inline]
    pub fn alloc_slice<E: ShmType>(&self, len: usize) -> Result<ArenaRef<'_, [E]>, Error> {
        self.alloc_raw(offset_of::<E>(len), align_of::<E>() as u64)
    }

    /// Allocates `len_bytes` bytes at a multiple of `align_bytes`, a power of two up to 4096.
    /// They are unspecified.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc); `WrongLength` for an impossible alignment.
    pub fn alloc_bytes(
        &self,
        len_bytes: usize,
        align_bytes: usize,
    ) -> Result<ArenaRef<'_, [u8]>, Error> {
        self.alloc_raw(len_bytes as u64, align_bytes as u64)
    }

    #[inline]
    fn alloc_raw<T: ?Sized>(
        &self,
        length_bytes: u64,
        align_bytes: u64,
    ) -> Result<ArenaRef<'_, T>, Error> {
        self.require_writable()?;
        let core = &self.core;
        let number = core.session.number;
        let handle = core
            .memory
            .alloc(self.handle, number, length_bytes, align_bytes)?;
        Ok(ArenaRef::new(self, handle, length_bytes))
    }

    /// Returns an allocation in this arena by its handle, for example one that another holder
    /// has sent. Arenas do not record types: its type is the caller's to know.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, `WrongPool`, `WrongKind`; `OutOfRange` when it would end
    /// past what is allocated.
    pub fn resolve<T: ShmType>(&self, handle: Handle) -> Result<ArenaRef<'_, T>, Error> {
        self.resolve_raw(handle, size_of::<T>() as u64)
    }

    /// As [`resolve`](Self::resolve), for `len` elements.
    ///
    /// # Errors
    /// As `resolve`.
    pub fn resolve_slice<E: ShmType>(
        &self,
        handle: Handle,
        len: usize,
    ) -> Result<ArenaRef<'_, [E]>, Error> {
        self.resolve_raw(handle, offset_of::<E>(len))
    }

    fn resolve_raw<T: ?Sized>(
        &self,
        handle: Handle,
        length_bytes: u64,
    ) -> Result<ArenaRef<'_, T>, Error> {
        let memory = &self.core.memory;
        let (at, _) = memory.resolve(handle)?;
        let (own, _) = memory.resolve(self.handle)?;
        if at.index != own.index {
            return Err(AccessError::Stale { handle }.into());
        }
        let limit_bytes = memory.used_bytes(self.handle)?;
        if at
            .inside_bytes
            .checked_add(length_bytes)
            .is_none_or(|end| end > limit_bytes)
        {
            let offset_bytes = at.inside_bytes;
            return Err(AccessError::OutOfRange {
                offset_bytes,
                length_bytes,
                limit_bytes,
            }
            .into());
        }
        Ok(ArenaRef::new(self, handle, length_bytes))
    }

    /// Frees an allocation. For a holder alone, the newest one's bytes come back, and the last
    /// one's free empties the arena; in a shared arena nothing happens. Returns how many bytes
    /// are in use then.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, or `OutOfRange` when it is not allocated.
    pub fn free<T: ?Sized>(&self, allocation: ArenaRef<'_, T>) -> Result<u64, Error> {
        self.require_writable()?;
        let number = self.core.session.number;
        Ok(self
            .core
            .memory
            .free(allocation.handle(), number, allocation.length_bytes())?)
    }

    /// Returns the arena's handle, which changes when it is [reset](Self::reset).
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns what this process may do with it.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Returns whether it has a name and may have other holders.
    pub fn is_shared(&self) -> bool {
        self.hold == Hold::Shared
    }

    /// Returns how many bytes it has.
    pub fn size_bytes(&self) -> u64 {
        self.core.info.arena_bytes
    }

    /// Returns how many bytes of it are in use.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`.
    pub fn used_bytes(&self) -> Result<u64, Error> {
        Ok(self.core.memory.used_bytes(self.handle)?)
    }

    fn require_writable(&self) -> Result<(), AccessError> {
        if self.access == Access::ReadWrite && self.core.memory.is_writable() {
            return Ok(());
        }
        Err(AccessError::ReadOnly {
            pool: self.core.info.pool_id,
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if fork::in_child_of_init() {
            return; // the parent's arena
        }
        if let Err(error) = self.let_go() {
            tracing::debug!(arena = %self.handle, %error, "arena was not given back");
        }
    }
}
