//! The kernel's own file handles: `name_to_handle_at` and `open_by_handle_at`.
//!
//! A handle names an inode and its generation on one file system. It survives every rename and every restart, and
//! dies with the inode: a number that is used again has another generation. rustix has neither call, so this is
//! the one place of the store with unsafe code.

use crate::handle::{FileKey, KEY_MAX};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes of the tag that a key begins with.
const TAG_LEN: usize = 8;
/// The longest kernel handle that finds room in a key, in bytes. ext4 and xfs need 8 to 16, tmpfs 12, btrfs 20.
const HANDLE_MAX: usize = KEY_MAX - TAG_LEN - 1;

/// `struct file_handle`, with room for as many bytes as a key can hold.
#[repr(C)]
struct Raw {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: [u8; HANDLE_MAX],
}

/// A kernel handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelHandle {
    kind: u8,
    len: u8,
    bytes: [u8; HANDLE_MAX],
}

impl KernelHandle {
    /// Of an open file; a descriptor opened with `O_PATH` will do.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the file system has no handles. `EOVERFLOW`: they are longer than a key.
    pub(super) fn of(file: BorrowedFd<'_>) -> Result<KernelHandle> {
        let mut raw = Raw {
            handle_bytes: HANDLE_MAX as libc::c_uint,
            handle_type: 0,
            f_handle: [0; HANDLE_MAX],
        };
        let mut mount_id = 0;
        // SAFETY: `raw` begins as file_handle does and has room for the handle_bytes it tells; the path is a C
        // string; both pointers live through the call, and the kernel keeps none.
        let done = unsafe {
            libc::name_to_handle_at(
                file.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        };
        if done != 0 {
            return Err(last_error());
        }
        match (u8::try_from(raw.handle_type), u8::try_from(raw.handle_bytes)) {
            (Ok(kind), Ok(len)) if usize::from(len) <= HANDLE_MAX => Ok(KernelHandle {
                kind,
                len,
                bytes: raw.f_handle,
            }),
            _ => Err(Errno::OVERFLOW),
        }
    }

    /// Opens the file on the file system that `mount` is in.
    ///
    /// # Errors
    /// `ESTALE`: it is gone. `EPERM`: the process lacks `CAP_DAC_READ_SEARCH`.
    pub(super) fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let mut raw = Raw {
            handle_bytes: self.len.into(),
            handle_type: self.kind.into(),
            f_handle: self.bytes,
        };
        let flags = (flags | OFlags::CLOEXEC).bits() as libc::c_int;
        // SAFETY: `raw` begins as file_handle does, handle_bytes is at most the length of its array, and it lives
        // through the call.
        let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) };
        if fd < 0 {
            return Err(last_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A key: the tag of the directory that it was found in, and the handle.
    pub(super) fn key(&self, tag: u64) -> Option<FileKey> {
        let mut bytes = Vec::with_capacity(KEY_MAX);
        bytes.extend_from_slice(&tag.to_be_bytes());
        bytes.push(self.kind);
        bytes.extend_from_slice(self.bytes.get(..usize::from(self.len))?);
        FileKey::new(&bytes)
    }

    /// What [`key`](Self::key) was made of.
    pub(super) fn from_key(key: &FileKey) -> Option<(u64, KernelHandle)> {
        let (tag, rest) = key.as_bytes().split_first_chunk::<TAG_LEN>()?;
        let (&kind, handle) = rest.split_first()?;
        let mut bytes = [0; HANDLE_MAX];
        bytes.get_mut(..handle.len())?.copy_from_slice(handle);
        let len = u8::try_from(handle.len()).ok()?;
        Some((u64::from_be_bytes(*tag), KernelHandle { kind, len, bytes }))
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
