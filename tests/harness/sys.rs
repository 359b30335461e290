//! What a test needs of the kernel and no crate offers safely: fork, users, mounts, mprotect.
//! The one file of the tests that may hold unsafe code. All of it is for puppets, which call it
//! while they have one thread, except where said.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr;
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Becomes another user for good.
///
/// # Errors
/// `EPERM` unless this process is root.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is that many group numbers, and outlives the call.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: takes a number.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: takes a number.
    check(unsafe { libc::setuid(uid) })
}

/// Moves into a mount namespace of its own, in which `/dev/shm` has room for so many bytes.
///
/// # Errors
/// `EPERM` without the capability.
pub fn small_dev_shm(bytes: u64) -> io::Result<()> {
    small_disk(Path::new("/dev/shm"), bytes)
}

/// Moves into a mount namespace of its own, in which there is a disk of so many bytes at `place`.
///
/// # Errors
/// `EPERM` without the capability.
pub fn small_disk(place: &Path, bytes: u64) -> io::Result<()> {
    // SAFETY: takes flags.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // Else the mount below would show up in everybody's namespace.
    mount("none", "/", None, libc::MS_REC | libc::MS_PRIVATE, "")?;
    let options = format!("size={bytes},mode=1777");
    let place = place.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    mount("tmpfs", place, Some("tmpfs"), 0, &options)
}

fn mount(
    source: &str,
    target: &str,
    kind: Option<&str>,
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    let text = |text: &str| CString::new(text).map_err(io::Error::other);
    let (source, target, options) = (text(source)?, text(target)?, text(options)?);
    let kind = kind.map(text).transpose()?;
    let kind = kind.as_ref().map_or(ptr::null(), |kind| kind.as_ptr());
    // SAFETY: all are texts that end with a zero byte (or null, which the kernel takes for a
    // kind), and outlive the call.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind,
            flags,
            options.as_ptr().cast(),
        )
    })
}

/// Forks a child that holds every open fd of this process and lives until standard input closes.
/// May be called while there are other threads. Returns the child's pid.
///
/// # Errors
/// `EAGAIN` and the like.
pub fn fork_holder() -> io::Result<i32> {
    // SAFETY: the child makes only calls that are safe after a fork of a process with threads
    // (signal-safety(7)): read and _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let mut byte = 0u8;
            loop {
                // SAFETY: `byte` is one writable byte.
                let n = unsafe { libc::read(0, (&raw mut byte).cast(), 1) };
                if n <= 0 {
                    // SAFETY: ends the process at once; nothing of the parent's is run.
                    unsafe { libc::_exit(0) };
                }
            }
        }
        pid => Ok(pid),
    }
}

/// Forks a child that holds every open fd of this process and lives for so long, perhaps longer
/// than its parent. May be called while there are other threads. Returns the child's pid, which
/// nobody reaps before this process ends.
///
/// # Errors
/// `EAGAIN` and the like.
pub fn fork_sleeper(time: Duration) -> io::Result<i32> {
    let time = libc::timespec {
        tv_sec: time.as_secs().try_into().map_err(io::Error::other)?,
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: the child makes only calls that are safe after a fork of a process with threads
    // (signal-safety(7)): nanosleep and _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: `time` outlives the call; a signal that cuts the sleep short does no harm.
            unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
            // SAFETY: ends the process at once; nothing of the parent's is run.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid),
    }
}

/// Tries to make mapped bytes writable, as a hostile reader would.
///
/// # Errors
/// `EACCES` when the mapping's fd is read-only: what a test hopes for.
pub fn make_writable(start: usize, length: usize) -> io::Result<()> {
    let start = ptr::without_provenance_mut::<libc::c_void>(start);
    // SAFETY: changes the protection of pages, not their contents; nothing in this process
    // relies on their being read-only.
    check(unsafe { libc::mprotect(start, length, libc::PROT_READ | libc::PROT_WRITE) })
}

/// Duplicates fds to the numbers from 3 on, open on exec, in place of whatever this process was
/// started with there. To be called when nothing is open that is needed but them and the standard
/// streams.
///
/// # Errors
/// `EMFILE` and the like.
pub fn place_from_3(fds: Vec<OwnedFd>) -> io::Result<()> {
    let first_free = 3 + i32::try_from(fds.len()).map_err(io::Error::other)?;
    // Out of the way of each other.
    let above = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, first_free);
    let above = fds.iter().map(above).collect::<Result<Vec<OwnedFd>, _>>()?;
    drop(fds);
    for (fd, place) in above.iter().zip(3..) {
        // SAFETY: takes numbers. What is closed at `place` is something inherited, which nobody
        // here knows of: the caller needs nothing else, and `above` lies beyond.
        if unsafe { libc::dup2(fd.as_raw_fd(), place) } != place {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Runs `work` in a forked child, and returns what it returned (0 to 255).
///
/// # Errors
/// `EAGAIN` and the like; `Other` when a signal ended the child.
pub fn in_forked_child(work: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: glibc makes its allocator and its standard streams usable in the child of a
    // process with threads (pthread_atfork handlers of its own); `work` waits for no thread of
    // the parent, and starts its own: a lock that was held at the fork could only fail a test.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let code = work();
            // SAFETY: ends the process at once; nothing of the parent's is run.
            unsafe { libc::_exit(code.into()) }
        }
        pid => pid,
    };
    let mut status = 0;
    // SAFETY: `status` is one writable integer, and `pid` is this process's child.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(io::Error::last_os_error());
    }
    if !libc::WIFEXITED(status) {
        return Err(io::Error::other(format!(
            "child ended with status {status:#x}"
        )));
    }
    u8::try_from(libc::WEXITSTATUS(status)).map_err(io::Error::other)
}

/// Opens a terminal of that size: the side of whoever watches it, and the side of the program.
///
/// # Errors
/// What the OS says.
pub fn open_terminal(columns: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both numbers are writable, `size` is whole and outlives the call, and a name and
    // modes are not asked for.
    check(unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            ptr::null_mut(),
            ptr::null(),
            &raw const size,
        )
    })?;
    // SAFETY: the call above opened it for nobody else.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // SAFETY: likewise.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    for end in [&master, &slave] {
        // SAFETY: takes numbers; the fd is open.
        let set = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        check(set)?;
    }
    Ok((master, slave))
}

/// Gives a terminal another size. Whoever runs in it is told only if it is its controlling
/// terminal.
///
/// # Errors
/// What the OS says.
pub fn resize_terminal(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is whole and outlives the call, which only reads it.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Returns a terminal's modes: input, output, control, local.
///
/// # Errors
/// What the OS says.
pub fn terminal_modes(terminal: BorrowedFd<'_>) -> io::Result<[u32; 4]> {
    // SAFETY: numbers and arrays of numbers, for which zero is a value.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `modes` is writable, and the fd is open.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes) })?;
    Ok([modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag])
}
