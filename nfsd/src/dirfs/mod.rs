//! The store on a real directory.
//!
//! Every file is found by the kernel's own handle (`open_by_handle_at`), so a handle that a client keeps survives a
//! restart of the server and every rename, and is stale once its file is gone, even if another one has the name or the
//! inode number. For that the process needs `CAP_DAC_READ_SEARCH`, and to give files to their owners `CAP_CHOWN` and
//! `CAP_FOWNER`: in short, root. Who may do what is decided by [`crate::perm`] on the attributes, as for memfs; the
//! kernel, which sees root, forbids nothing.
//!
//! # It stays inside
//!
//! - A key carries a tag of the exported directory: one from another directory under the same name is stale. Keys of
//!   clients are verified before ([`crate::handle`]), so only files that were met inside have one at all.
//! - A name is one component, opened with `openat2` beneath its directory, no link followed, no mount point entered.
//! - A directory that was moved away is stale, and everything below it. A file that was moved away is stale as far as the
//!   kernel knows where it is (see `node`).
//!
//! # What it cannot promise
//!
//! - Attributes before and after are taken under a lock of ours: between two calls of clients nothing can come, but a local
//!   program can.
//! - Permissions are checked under that lock, before the change, with the same restriction.
//! - Times are those of the kernel's clock, not [`Cx::now`]; before Linux 6.13 two changes within one tick (1 to 10 ms)
//!   have the same ctime.
//! - The verifier of an exclusive CREATE is kept with the file until its first SETATTR, and in memory for the last
//!   `limits::VERIFIERS` files. On a file system without `trusted` attributes, or without `CAP_SYS_ADMIN`, in memory
//!   only: a CREATE that is repeated after a restart is then told `NFS3ERR_EXIST`.
//!
//! Where to read on: `node` (finding files), `stat`, `data`, `names`, `rename`, `list`; `fh` has the system calls.

mod data;
mod errors;
mod fh;
mod list;
mod locks;
mod names;
mod node;
mod rename;
mod stat;

use crate::cx::Cx;
use crate::handle::FileKey;
use crate::vfs::{
    self, DirPosition, DirSink, FILE_SIZE_MAX, Found, FsLimits, FsSpace, Made, NAME_MAX, NewNode, ReadData,
    Result, Vfs, Written,
};
use bytes::Bytes;
use errors::status;
use fh::KernelHandle;
use locks::{Held, Locks};
use names::Verifiers;
use node::Node;
use parking_lot::Mutex;
use proto::nfs3::{CreateHow3, Fattr3, Ftype3, Link3Wcc, Nfstime3, Rename3Wcc, Sattr3, StableHow, WccData};
use rustix::fs::{Mode, OFlags, fstatfs, fstatvfs, open};
use rustix::io::Errno;
use siphasher::sip::SipHasher24;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Limits of this store's memory.
pub mod limits {
    /// Verifiers of exclusive CREATEs that are remembered.
    pub const VERIFIERS: usize = 4096;
}

/// Why a directory cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It cannot be opened: it does not exist, or is not a directory.
    #[error("cannot open it as a directory: {0}")]
    Open(std::io::Error),
    /// The process may not open files by their handles.
    #[error(
        "this process may not open files by their handles: exporting a directory takes root \
         (CAP_DAC_READ_SEARCH), outside of any user namespace; a tree in memory (mem) does not"
    )]
    Privilege,
    /// The file system has no handles, or ones that are too long.
    #[error("its file system has no file handles that could be used ({0}); ext4, xfs, btrfs and tmpfs have")]
    Handles(std::io::Error),
    /// There is no /proc.
    #[error("/proc is not mounted, by which open files are reached: {0}")]
    Proc(std::io::Error),
}

/// A real directory. See the module's head.
#[derive(Debug)]
pub struct DirFs {
    root: OwnedFd,
    root_key: FileKey,
    root_ino: u64,
    tag: u64,
    fsid: u64,
    limits: FsLimits,
    locks: Locks,
    verifiers: Mutex<Verifiers>,
}

impl DirFs {
    /// Exports `path`, with this [`Vfs::fsid`].
    ///
    /// # Errors
    /// If it is no directory, or the process or its file system cannot do what is needed.
    pub fn open(path: &Path, fsid: u64) -> std::result::Result<DirFs, DirError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(|e| DirError::Open(e.into()))?;
        let handle = KernelHandle::of(root.as_fd()).map_err(|e| DirError::Handles(e.into()))?;
        match handle.open(root.as_fd(), OFlags::PATH) {
            Ok(_) => {}
            Err(Errno::PERM) => return Err(DirError::Privilege),
            Err(error) => return Err(DirError::Handles(error.into())),
        }
        let attr = stat::attributes(root.as_fd(), fsid).map_err(|e| DirError::Open(e.into()))?;
        let tag = tag(&handle, attr.fileid);
        let node = Node { fd: root, attr };
        std::fs::metadata(node.proc_path()).map_err(DirError::Proc)?;
        Ok(DirFs {
            root_key: handle.key(tag).ok_or(DirError::Handles(Errno::OVERFLOW.into()))?,
            root_ino: attr.fileid,
            tag,
            fsid,
            limits: limits_of(&node.fd),
            root: node.fd,
            locks: Locks::default(),
            verifiers: Mutex::default(),
        })
    }

    /// The lock of one file.
    fn hold(&self, node: &Node) -> Held<'_> {
        if node.attr.ftype == Ftype3::NF3DIR {
            self.locks.dir(node.attr.fileid)
        } else {
            self.locks.file(node.attr.fileid)
        }
    }
}

/// Tells exported directories apart. Not secret: the handle's code covers it.
fn tag(root: &KernelHandle, ino: u64) -> u64 {
    let plain = root.key(ino);
    SipHasher24::new().hash(plain.as_ref().map_or(&[], FileKey::as_bytes))
}

/// What the file system cannot be asked, by its kind (statfs(2); the figures are those of Linux 6.1's sources:
/// `fs/ext4/ext4.h`, `fs/btrfs/ctree.h`).
fn limits_of(root: &OwnedFd) -> FsLimits {
    const EXT4: u64 = 0xef53;
    const BTRFS: u64 = 0x9123_683e;
    let (kind, block) = fstatfs(root).map_or((0, 4096), |s| (s.f_type as u64, s.f_bsize as u64));
    let (file_size_max, link_max) = match kind {
        // Block numbers of a file have 32 bits.
        EXT4 => (u64::from(u32::MAX) * block, 65_000),
        BTRFS => (FILE_SIZE_MAX, 65_535),
        _ => (FILE_SIZE_MAX, i32::MAX as u32),
    };
    FsLimits {
        file_size_max,
        link_max,
        name_max: NAME_MAX as u32,
        time_delta: Nfstime3 {
            seconds: 0,
            nseconds: 1,
        },
    }
}

impl Vfs for DirFs {
    fn may_block(&self) -> bool {
        true
    }

    fn fsid(&self) -> u64 {
        self.fsid
    }

    fn root(&self) -> FileKey {
        self.root_key
    }

    fn limits(&self) -> FsLimits {
        self.limits
    }

    fn getattr(&self, _: &Cx<'_>, file: &FileKey) -> Result<Fattr3> {
        Ok(self.node(file)?.attr)
    }

    fn setattr(&self, cx: &Cx<'_>, file: &FileKey, new: &Sattr3, guard: Option<Nfstime3>) -> Result<WccData> {
        self.set_attributes(cx, file, new, guard)
    }

    fn lookup(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<Found> {
        self.find(cx, dir, name)
    }

    fn readlink(&self, _: &Cx<'_>, file: &FileKey) -> Result<(Bytes, Fattr3)> {
        self.read_symlink(file)
    }

    fn read(&self, cx: &Cx<'_>, file: &FileKey, offset: u64, count: u32) -> Result<ReadData> {
        self.read_data(cx, file, offset, count)
    }

    fn write(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        offset: u64,
        data: &Bytes,
        stable: StableHow,
    ) -> Result<Written> {
        self.write_data(cx, file, offset, data, stable)
    }

    fn commit(&self, cx: &Cx<'_>, file: &FileKey, _offset: u64, _count: u32) -> Result<WccData> {
        self.commit_data(cx, file)
    }

    fn create(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8], how: &CreateHow3) -> Result<Made> {
        self.create_file(cx, dir, name, how)
    }

    fn make(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        node: &NewNode<'_>,
        attributes: &Sattr3,
    ) -> Result<Made> {
        self.make_node(cx, dir, name, node, attributes)
    }

    fn remove(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<WccData> {
        vfs::check_name(name, vfs::NameUse::Remove)?;
        self.take_away(cx, dir, name, false)
    }

    fn rmdir(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<WccData> {
        vfs::check_name(name, vfs::NameUse::Rmdir)?;
        self.take_away(cx, dir, name, true)
    }

    fn rename(
        &self,
        cx: &Cx<'_>,
        from_dir: &FileKey,
        from_name: &[u8],
        to_dir: &FileKey,
        to_name: &[u8],
    ) -> Result<Rename3Wcc> {
        self.rename_entry(cx, (from_dir, from_name), (to_dir, to_name))
    }

    fn link(&self, cx: &Cx<'_>, file: &FileKey, dir: &FileKey, name: &[u8]) -> Result<Link3Wcc> {
        self.add_link(cx, file, dir, name)
    }

    fn readdir(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        from: DirPosition,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool> {
        self.list(cx, dir, from, plus, sink)
    }

    fn space(&self, cx: &Cx<'_>, file: &FileKey) -> Result<FsSpace> {
        self.node(file)?;
        let stat = fstatvfs(&self.root).map_err(status)?;
        let available = if cx.caller.is_root() {
            stat.f_bfree
        } else {
            stat.f_bavail
        };
        Ok(FsSpace {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bfree.saturating_mul(stat.f_frsize),
            available_bytes: available.saturating_mul(stat.f_frsize),
            total_files: stat.f_files,
            free_files: stat.f_ffree,
            available_files: if cx.caller.is_root() {
                stat.f_ffree
            } else {
                stat.f_favail
            },
        })
    }

    fn path_of(&self, file: &FileKey) -> Option<Vec<u8>> {
        self.path(file)
    }
}

#[cfg(test)]
mod tests;
