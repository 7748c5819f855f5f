//! What is asked past `fuser`.

use std::future::Future;

use bytes::Bytes;
use fuser::Errno;
use tokio_util::sync::CancellationToken;

/// What the kernel asks that does not go through `fuser`: data, since each byte would be copied twice more, and locks,
/// since `fuser` 0.18 does not say which of them are flock(2)'s and answers INTERRUPT with ENOSYS.
///
/// Every call is a task on the runtime that [`super::Device::start`] was given. A future that panics or is dropped with
/// its runtime answers EIO. A future is not dropped when its caller is killed: the kernel gets EINTR, the future ends
/// in its own time, and what it says is not heard.
pub trait Direct: Send + Sync + 'static {
    /// READ: the bytes at `read.offset`. Fewer than `read.size` mean the end of file, since the kernel fills the rest
    /// of its pages with zeros (with FOPEN_DIRECT_IO they are a short read(2)); what is too much is cut off.
    fn read(&self, request: Request, read: Read) -> impl Future<Output = Result<Vec<Bytes>, Errno>> + Send;

    /// WRITE: how many bytes were taken, all of them unless the file is open with FOPEN_DIRECT_IO.
    ///
    /// `write.data` may be a slice of the device's buffer of 1 MiB, which is free again when all slices are gone.
    fn write(&self, request: Request, write: Write) -> impl Future<Output = Result<u32, Errno>> + Send;

    /// GETLK (fcntl's F_GETLK): a lock that would be in the way of `lock`, or one of kind [`LockKind::Unlock`].
    ///
    /// The kernel translates the `pid` that it is told from the mounter's pid namespace to the caller's: one that is
    /// no process of this machine comes out as 0.
    fn getlk(
        &self,
        request: Request,
        fh: u64,
        holder: LockHolder,
        lock: FileLock,
        interrupted: CancellationToken,
    ) -> impl Future<Output = Result<Conflict, Errno>> + Send;

    /// SETLK and SETLKW (`wait`): to take, change or give up a lock.
    ///
    /// Without `wait` a lock that is held answers EAGAIN. `interrupted` is cancelled when the caller has a signal
    /// pending, fatal ([`Request::killed`]) or not, and when the mount has ended; the future then answers soon: EINTR,
    /// or what came of the call if that is known by now. After EINTR the kernel takes it that the lock is not held. It
    /// becomes EINTR of the system call or, with SA_RESTART, a new SETLKW.
    ///
    /// flock's locks are given up by RELEASE, whose `lock_owner` is then `Some` in [`fuser::Filesystem::release`]
    /// (FUSE_RELEASE_FLOCK_UNLOCK); fcntl's by FLUSH: all of `lock_owner`'s on that node.
    fn setlk(
        &self,
        request: Request,
        fh: u64,
        holder: LockHolder,
        lock: FileLock,
        wait: bool,
        interrupted: CancellationToken,
    ) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Nobody waits for the answer to `unique` any more: its caller has been killed. What is done for it may end. Must
    /// not block.
    fn abandoned(&self, unique: u64) {
        let _ = unique;
    }

    /// An answer that counted one lookup of `nodeid` came after its caller had been killed: the kernel never heard of
    /// it and will not FORGET it. The same as a FORGET with `nlookup` 1. Must not block.
    fn forgotten(&self, nodeid: u64);

    /// An OPEN or CREATE succeeded after its caller had been killed: no RELEASE will come. Must not block.
    fn released(&self, nodeid: u64, fh: u64);

    /// As [`Direct::released`], for an OPENDIR.
    fn released_dir(&self, nodeid: u64, fh: u64);
}

/// Who asks, and about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kernel's number for the request.
    pub unique: u64,
    /// The node, as a LOOKUP named it; 1 is the root.
    pub nodeid: u64,
    /// The caller's fsuid.
    pub uid: u32,
    /// The caller's fsgid.
    pub gid: u32,
    /// The calling *thread's* id in the mounter's pid namespace; 0 for readahead and for callers outside it.
    pub pid: u32,
}

impl Request {
    /// Whether the calling thread is about to die: it has SIGKILL pending, its own or made of another fatal signal.
    pub fn killed(&self) -> bool {
        killed(self.pid)
    }
}

/// What READ wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// As OPEN answered.
    pub fh: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes: no more than `max_pages` pages.
    pub size: u32,
    /// Whose locks allow it, if anyone's (mandatory locking).
    pub lock_owner: Option<u64>,
    /// The open file's flags, O_…
    pub flags: u32,
}

/// What WRITE wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// As OPEN answered; for pages written back, that of any open file of the node.
    pub fh: u64,
    /// In bytes.
    pub offset: u64,
    /// No more than `max_write` bytes.
    pub data: Bytes,
    /// Pages are written back (mmap): uid, gid and pid are nobody's in particular.
    pub cached: bool,
    /// Whose locks allow it, if anyone's.
    pub lock_owner: Option<u64>,
    /// Set-user-id and set-group-id are to be cleared (only with FUSE_HANDLE_KILLPRIV_V2).
    pub kill_suid_sgid: bool,
    /// The open file's flags, O_…
    pub flags: u32,
}

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockHolder {
    /// A scrambled kernel address: of the process' table of files (fcntl) or of the open file (flock, OFD locks).
    pub number: u64,
    /// The lock is flock(2)'s. The same `number` may appear in both kinds; they have nothing to do with each other.
    pub flock: bool,
    /// The calling process (not thread) in the mounter's pid namespace; 0 in an unlock.
    pub pid: u32,
}

/// A range and what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// The first byte.
    pub start: u64,
    /// The last byte, included; [`FileLock::EOF`] is "to the end of the file, however far". flock covers 0 to EOF.
    pub end: u64,
    /// What is wanted or held.
    pub kind: LockKind,
}

impl FileLock {
    /// The kernel's OFFSET_MAX.
    pub const EOF: u64 = i64::MAX as u64;
}

/// F_RDLCK, F_WRLCK, F_UNLCK; LOCK_SH, LOCK_EX, LOCK_UN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None.
    Unlock,
}

impl LockKind {
    pub(super) fn from_wire(kind: u32) -> Option<LockKind> {
        match kind {
            0 => Some(LockKind::Read),
            1 => Some(LockKind::Write),
            2 => Some(LockKind::Unlock),
            _ => None,
        }
    }

    pub(super) fn to_wire(self) -> u32 {
        match self {
            LockKind::Read => 0,
            LockKind::Write => 1,
            LockKind::Unlock => 2,
        }
    }
}

/// What F_GETLK found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The lock in the way; `kind` Unlock: none is.
    pub lock: FileLock,
    /// Its holder's process, 0 if it is not of this machine.
    pub pid: u32,
}

/// Whether the thread `tid` has SIGKILL pending. A fatal signal without a core dump (an unhandled SIGINT, SIGTERM)
/// becomes one for every thread of the process (kernel/signal.c, complete_signal); one with a core dump (SIGQUIT) does
/// not, and such a process does not die in a system call of any file system either. `false` for a thread that is gone.
pub(super) fn killed(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    // Works for a thread too, though /proc lists leaders only; takes no lock that its own system call may hold.
    std::fs::read_to_string(format!("/proc/{tid}/status")).is_ok_and(|status| sigkill_pending(&status))
}

fn sigkill_pending(status: &str) -> bool {
    const SIGKILL_BIT: u64 = 1 << (nix::libc::SIGKILL - 1);
    status.lines().any(|line| {
        line.strip_prefix("SigPnd:")
            .or_else(|| line.strip_prefix("ShdPnd:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & SIGKILL_BIT != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigkill_is_bit_nine_of_either_pending_mask() {
        let status = |own: &str, shared: &str| format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        let none = "0000000000000000";
        assert!(!sigkill_pending(&status(none, "0000000000002000"))); // SIGALRM
        assert!(sigkill_pending(&status("0000000000000100", none)));
        assert!(sigkill_pending(&status(none, "0000000000002100")));
        assert!(!sigkill_pending("SigBlk:\t0000000000000100\n"));
        assert!(!killed(std::process::id()) && !killed(0) && !killed(u32::MAX));
    }
}
