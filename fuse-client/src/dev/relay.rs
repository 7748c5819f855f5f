//! Between the kernel and those who answer it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, TryGetError};
use nix::errno::Errno as Os;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::buffers::Buffers;
use super::direct::{Direct, FileLock, LockHolder, LockKind, Read, Request, Write, killed};
use super::kernel::Kernel;
use super::wire::{self, Given, InHeader, LkIn, ReadIn, given};

/// What a message between us and `fuser` has at most, in bytes. The largest are extended attributes (64 KiB) and
/// listings ([`LISTING_MAX`]).
pub(super) const MESSAGE_MAX: usize = 256 << 10;
/// The kernel asks for as large a listing as getdents64(2)'s buffer, up to 1 MiB; it is content with less.
const LISTING_MAX: u32 = 128 << 10;
/// How many nodes one BATCH_FORGET to `fuser` names. The kernel fills the whole buffer for writes: 65 thousand.
const FORGETS_MAX: usize = 4096;
/// A request this small is copied instead of keeping a buffer of 1 MiB for it.
const COPIED: usize = 32 << 10;
/// The kernel tells of the first signal only. Whether a later one killed the caller has to be looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Our own request to `fuser`. The kernel counts from 2 in steps of 2.
const DESTROY_UNIQUE: u64 = u64::MAX - 1;

/// A request that has not been answered by whoever is to answer it.
#[derive(Debug)]
struct Pending {
    opcode: u32,
    nodeid: u64,
    /// The calling thread.
    tid: u32,
    /// The kernel has been told EINTR; the answer that comes is for nobody.
    given_up: bool,
    /// A task looks whether the caller has been killed.
    watched: bool,
    /// A lock's.
    interrupted: Option<CancellationToken>,
}

pub(super) struct Relay<D> {
    kernel: Arc<Kernel>,
    /// Our end of the pair whose other end is `fuser`'s /dev/fuse.
    fuser: OwnedFd,
    direct: Arc<D>,
    runtime: Handle,
    /// By `unique`.
    pending: Mutex<HashMap<u64, Pending>>,
    ended: CancellationToken,
}

impl<D: Direct> Relay<D> {
    pub(super) fn new(
        kernel: Arc<Kernel>,
        fuser: OwnedFd,
        direct: Arc<D>,
        runtime: Handle,
        ended: CancellationToken,
    ) -> Relay<D> {
        Relay {
            kernel,
            fuser,
            direct,
            runtime,
            pending: Mutex::default(),
            ended,
        }
    }

    /// Reads requests and hands them on until the mount has ended. There is one such thread, so that an INTERRUPT is
    /// never read before its target. `abort` ends the mount if it is not the kernel that did.
    pub(super) fn requests(self: &Arc<Self>, max_write: u32, abort: impl FnOnce()) {
        let size = max_write as usize + 4096;
        let mut buffers = Buffers::new(size);
        loop {
            match self.kernel.read(buffers.empty()) {
                Ok(()) => {}
                Err(Os::ENODEV | Os::ECONNABORTED) => break,
                Err(error) => {
                    tracing::error!(%error, "reading from /dev/fuse");
                    abort();
                    break;
                }
            }
            if let Err(error) = self.request(&mut buffers) {
                // Not a header, so that there is no number to answer to. The kernel does not do that.
                tracing::error!(%error, "a request that cannot be read");
            }
        }
        self.ended.cancel();
        for pending in self.pending.lock().values() {
            if let Some(interrupted) = &pending.interrupted {
                interrupted.cancel();
            }
        }
        // `fuser` ends when it is told to; the kernel sends DESTROY for block devices only.
        let destroy = InHeader {
            opcode: wire::FUSE_DESTROY,
            unique: DESTROY_UNIQUE,
            nodeid: 0,
            uid: 0,
            gid: 0,
            pid: 0,
        };
        if let Err(error) = send(
            self.fuser.as_raw_fd(),
            &destroy.message(&[]),
            MsgFlags::MSG_NOSIGNAL,
        ) {
            tracing::debug!(%error, "fuser had ended before");
        }
    }

    fn request(self: &Arc<Self>, buffers: &mut Buffers) -> Result<(), TryGetError> {
        let (header, body) = InHeader::parse(buffers.filled())?;
        let understood = match header.opcode {
            wire::FUSE_READ => self.read(&header, body),
            wire::FUSE_WRITE => self.write(&header, buffers),
            wire::FUSE_GETLK | wire::FUSE_SETLK | wire::FUSE_SETLKW => self.lock(&header, body),
            wire::FUSE_INTERRUPT => {
                let mut body = body;
                return bytes::Buf::try_get_u64_ne(&mut body).map(|target| self.interrupt(target));
            }
            // Nobody retrieves.
            wire::FUSE_NOTIFY_REPLY => return Ok(()),
            wire::FUSE_FORGET => {
                self.to_fuser(None, buffers.filled());
                return Ok(());
            }
            wire::FUSE_BATCH_FORGET => {
                self.forgets(&header, body);
                return Ok(());
            }
            wire::FUSE_READDIR | wire::FUSE_READDIRPLUS => {
                limit_listing(buffers.filled());
                self.begin(&header, None);
                self.to_fuser(Some(&header), buffers.filled());
                Ok(())
            }
            _ => {
                self.begin(&header, None);
                self.to_fuser(Some(&header), buffers.filled());
                Ok(())
            }
        };
        if let Err(error) = understood {
            tracing::error!(opcode = header.opcode, %error, "a request that cannot be read");
            self.settle(header.unique);
            self.kernel.refuse(header.unique, libc::EIO);
        }
        Ok(())
    }

    fn read(self: &Arc<Self>, header: &InHeader, body: &[u8]) -> Result<(), TryGetError> {
        let wire = ReadIn::parse(body)?;
        let read = Read {
            fh: wire.fh,
            offset: wire.offset,
            size: wire.size,
            lock_owner: (wire.read_flags & wire::FUSE_READ_LOCKOWNER != 0).then_some(wire.lock_owner),
            flags: wire.flags,
        };
        let owed = self.owe(header, None);
        let (direct, request) = (self.direct.clone(), request(header));
        self.runtime.spawn(async move {
            let answer = direct.read(request, read).await;
            owed.pay(answer.map(|mut pieces| {
                cut(&mut pieces, wire.size as usize);
                pieces
            }));
        });
        Ok(())
    }

    fn write(self: &Arc<Self>, header: &InHeader, buffers: &mut Buffers) -> Result<(), TryGetError> {
        let message = if buffers.filled().len() <= COPIED {
            Bytes::copy_from_slice(buffers.filled())
        } else {
            buffers.lend()
        };
        // `fuse_write_in` begins like `fuse_read_in` and has as many bytes.
        let wire = ReadIn::parse(message.get(wire::IN_HEADER..).unwrap_or_default())?;
        let (from, size) = (wire::IN_HEADER + wire::WRITE_IN, wire.size as usize);
        let available = message.len().saturating_sub(from);
        if available < size {
            return Err(TryGetError {
                requested: size,
                available,
            });
        }
        let flag = |flag: u32| wire.read_flags & flag != 0;
        let write = Write {
            fh: wire.fh,
            offset: wire.offset,
            data: message.slice(from..from + size),
            cached: flag(wire::FUSE_WRITE_CACHE),
            lock_owner: flag(wire::FUSE_WRITE_LOCKOWNER).then_some(wire.lock_owner),
            kill_suid_sgid: flag(wire::FUSE_WRITE_KILL_SUIDGID),
            flags: wire.flags,
        };
        drop(message);
        let owed = self.owe(header, None);
        let (direct, request) = (self.direct.clone(), request(header));
        self.runtime.spawn(async move {
            let answer = direct.write(request, write).await;
            owed.pay(answer.map(|taken| {
                let mut out = Vec::with_capacity(8);
                out.put_u32_ne(taken.min(wire.size));
                out.put_u32_ne(0);
                vec![out.into()]
            }));
        });
        Ok(())
    }

    fn lock(self: &Arc<Self>, header: &InHeader, body: &[u8]) -> Result<(), TryGetError> {
        let wire = LkIn::parse(body)?;
        let interrupted = CancellationToken::new();
        let owed = self.owe(header, Some(interrupted.clone()));
        let Some(kind) = LockKind::from_wire(wire.kind) else {
            owed.pay(Err(fuser::Errno::EINVAL));
            return Ok(());
        };
        let holder = LockHolder {
            number: wire.owner,
            flock: wire.lk_flags & wire::FUSE_LK_FLOCK != 0,
            pid: wire.pid,
        };
        let lock = FileLock {
            start: wire.start,
            end: wire.end,
            kind,
        };
        let (direct, request) = (self.direct.clone(), request(header));
        if header.opcode == wire::FUSE_GETLK {
            self.runtime.spawn(async move {
                let answer = direct.getlk(request, wire.fh, holder, lock, interrupted).await;
                owed.pay(answer.map(|conflict| {
                    let mut out = Vec::with_capacity(24);
                    out.put_u64_ne(conflict.lock.start);
                    // The kernel calls a larger one EIO.
                    out.put_u64_ne(conflict.lock.end.min(FileLock::EOF));
                    out.put_u32_ne(conflict.lock.kind.to_wire());
                    out.put_u32_ne(conflict.pid);
                    vec![out.into()]
                }));
            });
        } else {
            let wait = header.opcode == wire::FUSE_SETLKW;
            self.runtime.spawn(async move {
                let answer = direct
                    .setlk(request, wire.fh, holder, lock, wait, interrupted)
                    .await;
                owed.pay(answer.map(|()| Vec::new()));
            });
        }
        Ok(())
    }

    /// A signal came for the caller of `target`.
    fn interrupt(self: &Arc<Self>, target: u64) {
        let mut pending = self.pending.lock();
        // With one reading thread the target has been read. If it is not known it has been answered, or is just being
        // so: the kernel does not wait for an answer to this. (EAGAIN would ask it to say it again, ENOSYS never to
        // interrupt again.)
        let Some(pending) = pending.get_mut(&target) else {
            return;
        };
        if let Some(interrupted) = &pending.interrupted {
            interrupted.cancel();
        } else if pending.tid != 0 && !pending.watched && !pending.given_up {
            pending.watched = true;
            let (relay, tid) = (self.clone(), pending.tid);
            self.runtime.spawn(async move { relay.watch(target, tid).await });
        }
    }

    /// Gives `target` up when its caller has been killed. Any other signal is no reason: stat(2) never ends with EINTR.
    async fn watch(&self, target: u64, tid: u32) {
        loop {
            if killed(tid) {
                let given_up = match self.pending.lock().get_mut(&target) {
                    Some(pending) => {
                        pending.given_up = true;
                        true
                    }
                    None => false,
                };
                if given_up {
                    tracing::debug!(target, tid, "given up: the caller has been killed");
                    self.kernel.refuse(target, libc::EINTR);
                    self.direct.abandoned(target);
                }
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.ended.cancelled() => return,
            }
            if !self.pending.lock().contains_key(&target) {
                return;
            }
        }
    }

    /// Forwards BATCH_FORGET in parts that fit.
    fn forgets(&self, header: &InHeader, body: &[u8]) {
        // count and padding; the count is that of what follows.
        let Some((_, nodes)) = body.split_at_checked(8) else {
            return;
        };
        for part in nodes.chunks(FORGETS_MAX * wire::FORGET_ONE) {
            let mut body = Vec::with_capacity(8 + part.len());
            body.put_u32_ne(u32::try_from(part.len() / wire::FORGET_ONE).unwrap_or(0));
            body.put_u32_ne(0);
            body.put_slice(part);
            self.to_fuser(None, &header.message(&body));
        }
    }

    /// `header`: of a request that needs an answer.
    fn to_fuser(&self, header: Option<&InHeader>, message: &[u8]) {
        if let Err(error) = send_all(&self.fuser, message) {
            tracing::error!(%error, length = message.len(), "a request does not reach fuser");
            if let Some(header) = header
                && self.settle(header.unique).is_some()
            {
                self.kernel.refuse(header.unique, libc::EIO);
            }
        }
    }

    /// Takes `fuser`'s answers to the kernel until it has answered the last DESTROY or is gone.
    pub(super) fn answers(&self) {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let n = match recv(self.fuser.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Ok(0) => return,
                Ok(n) => n,
                Err(Os::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "reading fuser's answers");
                    return;
                }
            };
            let message = buffer.get(..n.min(MESSAGE_MAX)).unwrap_or_default();
            match wire::parse_out(message) {
                Ok((_, DESTROY_UNIQUE, _)) => return,
                // A notification.
                Ok((_, 0, _)) => self.kernel.forward(0, message),
                Ok((error, unique, body)) => match self.settle(unique) {
                    Some(pending) if pending.given_up => {
                        if error == 0 {
                            self.take_back(&pending, body);
                        }
                    }
                    Some(_) if n > MESSAGE_MAX => {
                        tracing::error!(length = n, "an answer of fuser's is too long");
                        self.kernel.refuse(unique, libc::EIO);
                    }
                    Some(_) => self.kernel.forward(unique, message),
                    None => tracing::error!(unique, "fuser answers what nobody asked"),
                },
                Err(error) => tracing::error!(%error, "an answer of fuser's that cannot be read"),
            }
        }
    }

    /// The kernel never hears of this success: what it would count is given back.
    fn take_back(&self, pending: &Pending, body: &[u8]) {
        for given in given(pending.opcode, pending.nodeid, body) {
            match given {
                Given::Node(node) => self.direct.forgotten(node),
                Given::File(node, fh) => self.direct.released(node, fh),
                Given::Directory(node, fh) => self.direct.released_dir(node, fh),
            }
        }
    }

    /// From now on an INTERRUPT finds the request.
    fn begin(&self, header: &InHeader, interrupted: Option<CancellationToken>) {
        let pending = Pending {
            opcode: header.opcode,
            nodeid: header.nodeid,
            tid: header.pid,
            given_up: false,
            watched: false,
            interrupted,
        };
        match self.pending.lock().entry(header.unique) {
            Entry::Vacant(place) => {
                place.insert(pending);
            }
            Entry::Occupied(_) => tracing::error!(unique = header.unique, "the kernel asks the same twice"),
        }
    }

    /// The request is about to be answered; None: it has been.
    fn settle(&self, unique: u64) -> Option<Pending> {
        self.pending.lock().remove(&unique)
    }

    fn owe(self: &Arc<Self>, header: &InHeader, interrupted: Option<CancellationToken>) -> Owed<D> {
        self.begin(header, interrupted);
        Owed {
            relay: self.clone(),
            unique: header.unique,
        }
    }
}

/// An answer to be given. Dropped without (a panic, the end of the runtime) it is EIO: else the caller would hang.
struct Owed<D: Direct> {
    relay: Arc<Relay<D>>,
    unique: u64,
}

impl<D: Direct> Owed<D> {
    fn pay(self, answer: Result<Vec<Bytes>, fuser::Errno>) {
        if self
            .relay
            .settle(self.unique)
            .is_some_and(|pending| !pending.given_up)
        {
            match answer {
                Ok(pieces) => self.relay.kernel.answer(self.unique, &pieces),
                Err(errno) => self.relay.kernel.refuse(self.unique, errno.code()),
            }
        }
    }
}

impl<D: Direct> Drop for Owed<D> {
    fn drop(&mut self) {
        if self
            .relay
            .settle(self.unique)
            .is_some_and(|pending| !pending.given_up)
        {
            self.relay.kernel.refuse(self.unique, libc::EIO);
        }
    }
}

fn request(header: &InHeader) -> Request {
    let InHeader {
        unique,
        nodeid,
        uid,
        gid,
        pid,
        ..
    } = *header;
    Request {
        unique,
        nodeid,
        uid,
        gid,
        pid,
    }
}

/// Cuts `pieces` down to `size` bytes: the kernel would call a longer READ answer EIO.
fn cut(pieces: &mut Vec<Bytes>, size: usize) {
    let mut left = size;
    for piece in pieces.iter_mut() {
        piece.truncate(left);
        left -= piece.len();
    }
    pieces.retain(|piece| !piece.is_empty());
}

/// See [`LISTING_MAX`].
fn limit_listing(message: &mut [u8]) {
    if let Some(size) = message.get_mut(wire::READDIR_SIZE_AT..wire::READDIR_SIZE_AT + 4) {
        let asked = size.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
        let asked = if cfg!(target_endian = "big") {
            asked.swap_bytes()
        } else {
            asked
        };
        size.copy_from_slice(&asked.min(LISTING_MAX).to_ne_bytes());
    }
}

/// Sends one message over the pair, waiting for room.
pub(super) fn send_all(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    loop {
        match send(socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Os::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_answer_is_cut_to_what_was_asked() {
        let pieces = || {
            vec![
                Bytes::from_static(b"abc"),
                Bytes::new(),
                Bytes::from_static(b"defg"),
            ]
        };
        for size in 0..9 {
            let mut cut_pieces = pieces();
            cut(&mut cut_pieces, size);
            assert_eq!(cut_pieces.concat(), b"abcdefg"[..size.min(7)]);
        }
    }

    #[test]
    fn a_listing_is_asked_for_in_pieces_that_fit() {
        let header = InHeader {
            opcode: wire::FUSE_READDIRPLUS,
            unique: 2,
            nodeid: 1,
            uid: 0,
            gid: 0,
            pid: 0,
        };
        for (asked, got) in [
            (4096u32, 4096u32),
            (1 << 20, LISTING_MAX),
            (u32::MAX, LISTING_MAX),
        ] {
            let mut body = [7u8; 40];
            body[16..20].copy_from_slice(&asked.to_ne_bytes());
            let mut message = header.message(&body);
            limit_listing(&mut message);
            let read = ReadIn::parse(&message[wire::IN_HEADER..]).unwrap();
            assert_eq!((read.size, read.offset), (got, u64::from_ne_bytes([7; 8])));
        }
    }
}
