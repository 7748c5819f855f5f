//! From a key or a name to an open file, and never to one outside of the exported directory.

use super::errors::{status, status_of_handle, status_of_name};
use super::fh::KernelHandle;
use super::{DirFs, stat};
use crate::handle::FileKey;
use crate::vfs::Result;
use proto::nfs3::{Fattr3, Ftype3, Nfsstat3};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// No more levels of directories are looked at. The kernel has no limit; this one ends a loop.
const DEPTH_MAX: usize = 1 << 16;

/// A file that was found: open with `O_PATH`, which does nothing to devices and pipes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) fd: OwnedFd,
    /// As it was when it was found.
    pub(super) attr: Fattr3,
}

impl Node {
    /// The attributes now.
    pub(super) fn stat(&self) -> Result<Fattr3> {
        stat::attributes(self.fd.as_fd(), self.attr.fsid).map_err(status)
    }

    /// Its path for the calls that take no descriptor of this kind.
    pub(super) fn proc_path(&self) -> String {
        proc_path(self.fd.as_fd())
    }

    /// `NFS3ERR_NOTDIR` unless it is one.
    pub(super) fn must_be_dir(&self) -> Result<()> {
        match self.attr.ftype {
            Ftype3::NF3DIR => Ok(()),
            _ => Err(Nfsstat3::NFS3ERR_NOTDIR),
        }
    }

    /// The status of READ, WRITE and COMMIT unless it is a regular file.
    pub(super) fn must_be_file(&self) -> Result<()> {
        match self.attr.ftype {
            Ftype3::NF3REG => Ok(()),
            Ftype3::NF3DIR => Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => Err(Nfsstat3::NFS3ERR_INVAL),
        }
    }
}

/// The link that the kernel keeps for an open file.
fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl DirFs {
    /// The file of a key, or `NFS3ERR_STALE`.
    pub(super) fn node(&self, key: &FileKey) -> Result<Node> {
        let handle = self.kernel_handle(key)?;
        let fd = handle
            .open(self.root.as_fd(), OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(status_of_handle)?;
        self.checked(fd)
    }

    /// The same file again, to read or write it. To be called for regular files and directories only: opening
    /// anything else may have effects.
    pub(super) fn reopen(&self, node: &Node, flags: OFlags) -> Result<OwnedFd> {
        let handle = KernelHandle::of(node.fd.as_fd()).map_err(status)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        handle.open(self.root.as_fd(), flags).map_err(status_of_handle)
    }

    fn kernel_handle(&self, key: &FileKey) -> Result<KernelHandle> {
        match KernelHandle::from_key(key) {
            Some((tag, handle)) if tag == self.tag => Ok(handle),
            // Of another directory that was exported under the same name.
            _ => Err(Nfsstat3::NFS3ERR_STALE),
        }
    }

    /// The key of an open file.
    pub(super) fn key_of(&self, fd: BorrowedFd<'_>) -> Result<FileKey> {
        let handle = KernelHandle::of(fd).map_err(status)?;
        handle.key(self.tag).ok_or(Nfsstat3::NFS3ERR_SERVERFAULT)
    }

    /// A file that was opened by its handle: it must have a name still, and not outside.
    fn checked(&self, fd: OwnedFd) -> Result<Node> {
        let attr = stat::attributes(fd.as_fd(), self.fsid).map_err(status)?;
        let node = Node { fd, attr };
        if attr.nlink > 0 && self.is_inside(&node)? {
            Ok(node)
        } else {
            Err(Nfsstat3::NFS3ERR_STALE)
        }
    }

    /// Whether a file is in the exported directory: somebody may have moved it away.
    ///
    /// Of a directory the kernel always knows the place. Of a file it does only if somebody has looked the file up
    /// since it came into memory, and with several names it is one of them; where it is not known, the handle decides,
    /// which was made inside (as knfsd with `no_subtree_check`).
    fn is_inside(&self, node: &Node) -> Result<bool> {
        let is_dir = node.attr.ftype == Ftype3::NF3DIR;
        if node.attr.fileid == self.root_ino || (!is_dir && node.attr.nlink > 1) {
            return Ok(true);
        }
        match (place(node.fd.as_fd()), place(self.root.as_fd())) {
            (Ok(path), Ok(root)) => {
                let unknown = path == b"/" || path.ends_with(b" (deleted)");
                Ok(below(&path, &root).is_some() || (!is_dir && unknown))
            }
            // Longer than the kernel can tell: step by step.
            _ if is_dir => self.climbs_to_root(node),
            _ => Ok(true),
        }
    }

    fn climbs_to_root(&self, node: &Node) -> Result<bool> {
        let (mut fd, mut ino) = (self.parent_fd(node.fd.as_fd())?, node.attr.fileid);
        for _ in 0..DEPTH_MAX {
            let attr = stat::attributes(fd.as_fd(), self.fsid).map_err(status)?;
            if attr.fileid == self.root_ino {
                return Ok(true);
            }
            if attr.fileid == ino {
                return Ok(false);
            }
            ino = attr.fileid;
            fd = self.parent_fd(fd.as_fd())?;
        }
        Ok(false)
    }

    fn parent_fd(&self, dir: BorrowedFd<'_>) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(dir, c"..", flags, Mode::empty()).map_err(status)
    }

    /// The directory above; the root's is the root.
    pub(super) fn parent(&self, dir: &Node) -> Result<Node> {
        if dir.attr.fileid == self.root_ino {
            return self.node(&self.root_key);
        }
        self.checked(self.parent_fd(dir.fd.as_fd())?)
    }

    /// The file of a name in a directory, itself if it is a symbolic link; `NFS3ERR_NOENT` if there is none.
    ///
    /// The name is one component (`vfs::check_name`), and the kernel is told to stay beneath the directory, to follow no
    /// link and to enter no other file system: what is mounted inside the export is `NFS3ERR_ACCES`.
    pub(super) fn child(&self, dir: &Node, name: &[u8]) -> Result<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stay = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = loop {
            // EAGAIN: a rename went on meanwhile, and the kernel is not sure that it stayed beneath.
            match openat2(dir.fd.as_fd(), name, flags, Mode::empty(), stay) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => break other.map_err(status_of_name)?,
            }
        };
        let attr = stat::attributes(fd.as_fd(), self.fsid).map_err(status)?;
        Ok(Node { fd, attr })
    }

    /// As [`child`](Self::child); none if there is no such name.
    pub(super) fn child_if_any(&self, dir: &Node, name: &[u8]) -> Result<Option<Node>> {
        match self.child(dir, name) {
            Ok(node) => Ok(Some(node)),
            Err(Nfsstat3::NFS3ERR_NOENT) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// One of the file's paths, from the exported directory, if the kernel knows one.
    pub(super) fn path(&self, key: &FileKey) -> Option<Vec<u8>> {
        let node = self.node(key).ok()?;
        let (path, root) = (place(node.fd.as_fd()).ok()?, place(self.root.as_fd()).ok()?);
        match below(&path, &root)? {
            b"" => Some(b"/".to_vec()),
            rest => Some(rest.to_vec()),
        }
    }
}

/// Where an open file is, as the kernel tells it.
fn place(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<u8>> {
    let path = proc_path(fd);
    Ok(readlinkat(rustix::fs::CWD, path, Vec::new())?.into_bytes())
}

/// What of `path` is below `root`: empty, or with a slash in front.
fn below<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let rest = path.strip_prefix(root)?;
    matches!(rest.first(), None | Some(b'/')).then_some(rest)
}

/// The flag for unlinkat.
pub(super) fn removal(is_dir: bool) -> AtFlags {
    if is_dir {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    }
}
