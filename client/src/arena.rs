//! An arena that this process holds: filled from the front, freed as a whole.

use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::model::{Access, ArenaInfo, RequestId, ShareArena};
use goumem_proto::name::ArenaName;
use goumem_proto::v1;
use goumem_proto::v1::control_request::Call;
use goumem_shm::{AccessError, HeldArena, ShmType};

use crate::arena_pool::{ArenaCore, Holding};
use crate::client::parse_name;
use crate::error::Error;
use crate::housekeeper::Chore;
use crate::named_arenas;
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
/// It is for one thread at a time, as other bump allocators are: held alone, an allocation is a
/// few plain instructions. What points into it, [`ArenaRef`], may go to other threads. Threads that
/// bump one arena together attach to it by its name, each for itself.
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
    held: HeldArena<ArenaCore>,
    access: Access,
    hold: Hold,
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
    #[inline]
    pub(crate) fn exclusive(held: HeldArena<ArenaCore>, holding: Holding<'_>) -> Self {
        holding.keep();
        Self {
            held,
            access: Access::ReadWrite,
            hold: Hold::Alone,
        }
    }

    pub(crate) fn attached(
        held: HeldArena<ArenaCore>,
        holding: Holding<'_>,
        access: Access,
    ) -> Self {
        holding.keep();
        Self {
            held,
            access,
            hold: Hold::Shared,
        }
    }

    /// Empties the arena: every handle into it is stale. Takes `&mut self`, so that no
    /// [`ArenaRef`] of this process is left.
    ///
    /// # Errors
    /// [`Error::Access`] with `Shared` for a shared arena.
    pub fn reset(&mut self) -> Result<(), Error> {
        Ok(self.held.reset()?)
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
        // Others bump the shared cursor: it must say what is in use, and no more.
        self.held.trim();
        let arena = self.handle();
        let core = Arc::clone(self.held.bytes().keeper());
        self.core()
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
                Ok(())
            })
            .await?;
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
        let arena = self.handle();
        if !self.core().session.named_arenas.remove(arena) {
            return Ok(false);
        }
        self.core()
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

    #[inline]
    fn let_go(&mut self) -> Result<(), Error> {
        let hold = std::mem::replace(&mut self.hold, Hold::Gone);
        match hold {
            Hold::Alone => match self.held.give_back() {
                Ok(()) => self.core().given_back(self.held.bytes().index()),
                // A share whose answer never came did happen.
                Err(AccessError::Shared { .. }) => self.queue_detach(),
                Err(error) => return Err(error.into()),
            },
            Hold::Shared => {
                if self.core().session.named_arenas.remove(self.handle()) {
                    self.queue_detach();
                }
            }
            Hold::Gone => {}
        }
        Ok(())
    }

    #[cold]
    fn queue_detach(&self) {
        let arena = self.handle();
        let session = Arc::clone(&self.core().session);
        let detaching = Arc::clone(&session);
        session.queue(Chore::Call(Box::pin(async move {
            if let Err(error) = named_arenas::detach(&detaching, arena).await {
                tracing::debug!(%error, "queued detach failed");
            }
        })));
    }

    /// Allocates room for a `T`. Its bytes are unspecified.
    ///
    /// # Errors
    /// [`Error::Access`] with `ArenaFull`, `ZeroSize`, `ReadOnly`, or `Stale` when this process
    /// does not hold the arena any more. (An arena held alone notices that within 4 KiB, and
    /// at every read and write.)
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
        let inside_bytes = self.held.alloc(length_bytes, align_bytes)?;
        Ok(self.place(inside_bytes, length_bytes))
    }

    #[inline]
    fn place<T: ?Sized>(&self, inside_bytes: u64, length_bytes: u64) -> ArenaRef<'_, T> {
        ArenaRef::new(self.held.bytes(), inside_bytes, length_bytes)
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
        let inside_bytes = self.held.bytes().inside_of(handle)?;
        let limit_bytes = self.held.used_bytes()?;
        match inside_bytes.checked_add(length_bytes) {
            Some(end) if end <= limit_bytes => Ok(self.place(inside_bytes, length_bytes)),
            _ => Err(AccessError::OutOfRange {
                offset_bytes: inside_bytes,
                length_bytes,
                limit_bytes,
            }
            .into()),
        }
    }

    /// Frees an allocation. For a holder alone, the newest one's bytes come back, and the last
    /// one's free empties the arena; in a shared arena nothing happens. Returns how many bytes
    /// are in use then.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`, also for what lies in another arena, or `OutOfRange` when it
    /// is not allocated.
    pub fn free<T: ?Sized>(&self, allocation: ArenaRef<'_, T>) -> Result<u64, Error> {
        let (at, length_bytes) = (allocation.inside_bytes(), allocation.length_bytes());
        if !allocation.is_in(self.held.bytes()) {
            let handle = allocation.handle();
            return Err(AccessError::Stale { handle }.into());
        }
        Ok(self.held.free(at, length_bytes)?)
    }

    /// Returns the arena's handle, which changes when it is [reset](Self::reset).
    pub fn handle(&self) -> Handle {
        self.held.handle()
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
        self.core().info.arena_bytes
    }

    /// Returns how many bytes of it are in use. Other processes may see up to 4 KiB more while it
    /// is held alone.
    ///
    /// # Errors
    /// [`Error::Access`] with `Stale`.
    pub fn used_bytes(&self) -> Result<u64, Error> {
        Ok(self.held.used_bytes()?)
    }

    #[inline]
    fn core(&self) -> &ArenaCore {
        self.held.bytes().keeper()
    }
}

impl Drop for Arena {
    #[inline]
    fn drop(&mut self) {
        if self.held.bytes().is_inherited() {
            return; // the parent's arena
        }
        if let Err(error) = self.let_go() {
            not_given_back(self.handle(), &error);
        }
        drop(Holding::of(self.core()));
    }
}

#[cold]
fn not_given_back(arena: Handle, error: &Error) {
    tracing::debug!(%arena, %error, "arena was not given back");
}
