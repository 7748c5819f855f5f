//! The file descriptor of /dev/fuse.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use bytes::{BufMut, Bytes, BytesMut};
use nix::errno::Errno;
use nix::libc;
use nix::sys::uio::writev;

use super::wire::{FUSE_NOTIFY_INVAL_ENTRY, FUSE_NOTIFY_INVAL_INODE, OUT_HEADER, out_header};

/// UIO_MAXIOV: more pieces in one writev(2) are EINVAL.
const IOV_MAX: usize = 1024;
/// The kernel takes `error` from -511 to 0 only and refuses all else, without ending the request.
const ERRNO_END: i32 = 512;

/// One mount's connection. When the last descriptor of it closes, as at the end of the process by whatever death, the
/// kernel aborts the connection: all callers get an error and later ones ENOTCONN.
#[derive(Debug)]
pub(super) struct Kernel {
    fd: OwnedFd,
}

impl Kernel {
    /// Opens /dev/fuse, not to be inherited by programs that are started (std sets O_CLOEXEC): a child that keeps it
    /// would keep all callers waiting after our death.
    pub(super) fn open() -> io::Result<Kernel> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        Ok(Kernel { fd: file.into() })
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Waits for a request and appends it to `buffer`, whose spare room must hold the largest one.
    ///
    /// # Errors
    ///
    /// ENODEV and ECONNABORTED: the mount has ended. EINVAL: the buffer is smaller than the kernel may need.
    pub(super) fn read(&self, buffer: &mut BytesMut) -> Result<(), Errno> {
        loop {
            let room = buffer.spare_capacity_mut();
            // SAFETY: the pointer and the length are those of `room`, which nobody else holds.
            let n = unsafe { libc::read(self.fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
            match Errno::result(n) {
                Ok(n) => {
                    let n = usize::try_from(n).unwrap_or(0);
                    // SAFETY: the kernel has written the first `n` bytes of the spare room.
                    unsafe { buffer.advance_mut(n) };
                    return Ok(());
                }
                // ENOENT: the request was taken back while it was copied.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A whole message as `fuser` made it.
    pub(super) fn forward(&self, unique: u64, message: &[u8]) {
        self.send(unique, &[IoSlice::new(message)]);
    }

    /// The answer to `unique`: a header and `pieces`.
    pub(super) fn answer(&self, unique: u64, pieces: &[Bytes]) {
        let len = OUT_HEADER + pieces.iter().map(Bytes::len).sum::<usize>();
        let header = out_header(len, 0, unique);
        if pieces.len() < IOV_MAX {
            let mut slices = Vec::with_capacity(1 + pieces.len());
            slices.push(IoSlice::new(&header));
            slices.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
            self.send(unique, &slices);
        } else {
            let all = pieces.concat();
            self.send(unique, &[IoSlice::new(&header), IoSlice::new(&all)]);
        }
    }

    /// The answer to `unique`: it failed with `errno`, positive.
    pub(super) fn refuse(&self, unique: u64, errno: i32) {
        let errno = if (1..ERRNO_END).contains(&errno) {
            errno
        } else {
            libc::EIO
        };
        let header = out_header(OUT_HEADER, -errno, unique);
        if let Err(error) = writev(&self.fd, &[IoSlice::new(&header)])
            && !is_gone(error)
        {
            tracing::error!(unique, %error, "the kernel refused an error");
        }
    }

    fn send(&self, unique: u64, slices: &[IoSlice<'_>]) {
        match writev(&self.fd, slices) {
            Ok(_) => {}
            Err(error) if is_gone(error) => {}
            Err(error) => {
                // After some errors the request is still open (a bad header), after others it is not (too long), and
                // then this one is ENOENT.
                tracing::error!(unique, %error, "the kernel refused an answer");
                self.refuse(unique, libc::EIO);
            }
        }
    }

    fn notify(&self, code: i32, body: &[u8]) -> io::Result<()> {
        let header = out_header(OUT_HEADER + body.len(), code, 0);
        match writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(body)]) {
            Ok(_) => Ok(()),
            Err(error) if is_gone(error) || error == Errno::ENOTDIR => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// See [`super::Notifier::invalidate`].
    pub(super) fn invalidate(&self, nodeid: u64, offset: i64, len: i64) -> io::Result<()> {
        let mut body = Vec::with_capacity(24);
        body.put_u64_ne(nodeid);
        body.put_i64_ne(offset);
        body.put_i64_ne(len);
        self.notify(FUSE_NOTIFY_INVAL_INODE, &body)
    }

    /// See [`super::Notifier::invalidate_entry`].
    pub(super) fn invalidate_entry(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        let namelen = u32::try_from(name.len()).map_err(|_| Errno::ENAMETOOLONG)?;
        let mut body = Vec::with_capacity(16 + name.len() + 1);
        body.put_u64_ne(parent);
        body.put_u32_ne(namelen);
        body.put_u32_ne(0);
        body.put_slice(name.as_bytes());
        body.put_u8(0);
        self.notify(FUSE_NOTIFY_INVAL_ENTRY, &body)
    }
}

/// Nobody waits for it any more: the request, the node or the mount is gone.
fn is_gone(error: Errno) -> bool {
    matches!(
        error,
        Errno::ENOENT | Errno::ENODEV | Errno::EPERM | Errno::ECONNABORTED | Errno::ENOTCONN
    )
}
