//! What a store must be able to do, in the terms of RFC 1813.
//!
//! A store keeps files and directories and finds them by a [`FileKey`] of its own making. The operations are
//! those of section 3.3 less what is the same for every store: handles, squashing, read-only exports, reply
//! sizes and encoding are the callers' work ([`crate::nfs3`], [`crate::export`]).
//!
//! # Rules for a store
//!
//! - Ask [`crate::perm`] who may do what, with the attributes that hold at that instant.
//! - Take [`WccData`] atomically with the change that it brackets, or leave `before` empty.
//! - Take the time from [`Cx::now`]; never read a clock.
//! - An error changes nothing.
//! - Say so with [`Vfs::may_block`] if an operation can wait for a disk: the caller then runs it on a thread
//!   made for waiting.

use crate::cx::Cx;
use crate::handle::FileKey;
use bytes::Bytes;
use proto::nfs3::{
    CreateHow3, Fattr3, Ftype3, Link3Wcc, Nfsstat3, Nfstime3, Rename3Wcc, Sattr3, Specdata3, StableHow,
    WccAttr, WccData,
};
use smallvec::SmallVec;

/// Result of an operation: a value or the status that the client is told.
pub type Result<T> = std::result::Result<T, Nfsstat3>;

/// The longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// The longest text of a symbolic link, in bytes: `PATH_MAX` of Linux without its NUL.
pub const SYMLINK_MAX: usize = 4095;
/// The largest file, in bytes: offsets are signed 64-bit numbers to every POSIX client.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// Pieces of file data, sent as they lie.
pub type Pieces = SmallVec<[Bytes; 2]>;

/// A file that was looked up.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its key.
    pub file: FileKey,
    /// Its attributes.
    pub attr: Fattr3,
    /// The directory's.
    pub dir_attr: Fattr3,
}

/// A file that was made, or found by an unchecked or repeated exclusive CREATE.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Its key.
    pub file: FileKey,
    /// Its attributes.
    pub attr: Fattr3,
    /// The directory before and after.
    pub dir_wcc: WccData,
}

/// What READ found.
#[derive(Debug, Clone)]
pub struct ReadData {
    /// The file's attributes.
    pub attr: Fattr3,
    /// Bytes in `data`.
    pub count: u32,
    /// Whether they reach the end of the file.
    pub eof: bool,
    /// The bytes.
    pub data: Pieces,
}

/// What WRITE did.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// The file before and after.
    pub wcc: WccData,
    /// Bytes written; fewer than given only if the rest found no room.
    pub count: u32,
    /// How safe they are; at least what was asked for.
    pub committed: StableHow,
}

/// What MKDIR, SYMLINK and MKNOD make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewNode<'a> {
    /// An empty directory.
    Directory,
    /// A symbolic link with this text.
    Symlink(&'a [u8]),
    /// A device: `NF3CHR` or `NF3BLK`.
    Device(Ftype3, Specdata3),
    /// `NF3SOCK` or `NF3FIFO`.
    Pipe(Ftype3),
}

impl NewNode<'_> {
    /// Its type.
    pub fn ftype(&self) -> Ftype3 {
        match self {
            NewNode::Directory => Ftype3::NF3DIR,
            NewNode::Symlink(_) => Ftype3::NF3LNK,
            NewNode::Device(ftype, _) | NewNode::Pipe(ftype) => *ftype,
        }
    }
}

/// Where a READDIR goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirPosition {
    /// The cookie of the last entry that the client has; 0 at first.
    pub cookie: u64,
    /// The verifier that came with it; 0 from a client that keeps none.
    pub verifier: u64,
}

/// One directory entry.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Its file's number.
    pub fileid: u64,
    /// Its name.
    pub name: &'a [u8],
    /// Where to go on behind it.
    pub cookie: u64,
    /// For READDIRPLUS: the file's key and attributes, if they could be had.
    pub plus: Option<(FileKey, Fattr3)>,
}

/// Takes a directory's entries as the store comes to them. It is called under the directory's lock: it
/// must be quick and must not call back into the store.
pub trait DirSink {
    /// Called once, before any entry.
    fn start(&mut self, dir_attr: &Fattr3, verifier: u64);
    /// One entry; false if it did not fit, and then it is the last call.
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool;
}

/// Space, as FSSTAT tells it (RFC 1813, section 3.3.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsSpace {
    /// Size in bytes.
    pub total_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Free bytes for this caller.
    pub available_bytes: u64,
    /// Inodes.
    pub total_files: u64,
    /// Free inodes.
    pub free_files: u64,
    /// Free inodes for this caller.
    pub available_files: u64,
}

/// A store's fixed limits, as FSINFO and PATHCONF tell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsLimits {
    /// Largest file in bytes.
    pub file_size_max: u64,
    /// Most hard links to a file.
    pub link_max: u32,
    /// Longest name in bytes.
    pub name_max: u32,
    /// Steps in which times are kept.
    pub time_delta: Nfstime3,
}

/// A store. Keys reach it only if it made them: handles are verified before.
///
/// Each method says what it answers beyond the statuses that any of them may: `NFS3ERR_STALE` (the file is
/// gone), `NFS3ERR_ACCES` and `NFS3ERR_PERM` (the rules of [`crate::perm`]), `NFS3ERR_IO`.
pub trait Vfs: Send + Sync {
    /// Whether operations may wait for a disk.
    fn may_block(&self) -> bool {
        false
    }

    /// The number that goes into every [`Fattr3::fsid`]. Two stores of one server must differ: a Linux
    /// client takes equal ones for the same file system.
    fn fsid(&self) -> u64;

    /// The root directory.
    fn root(&self) -> FileKey;

    /// The fixed limits.
    fn limits(&self) -> FsLimits;

    /// GETATTR (RFC 1813, section 3.3.1). No permission is needed.
    fn getattr(&self, cx: &Cx<'_>, file: &FileKey) -> Result<Fattr3>;

    /// SETATTR (3.3.2). `NFS3ERR_NOT_SYNC` if the guard is not the file's ctime.
    fn setattr(&self, cx: &Cx<'_>, file: &FileKey, new: &Sattr3, guard: Option<Nfstime3>) -> Result<WccData>;

    /// LOOKUP (3.3.3), of "." and ".." too; ".." of the root is the root.
    fn lookup(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<Found>;

    /// READLINK (3.3.5). `NFS3ERR_INVAL` if it is not a symbolic link.
    fn readlink(&self, cx: &Cx<'_>, file: &FileKey) -> Result<(Bytes, Fattr3)>;

    /// READ (3.3.6). Beyond the end: no data and `eof`.
    fn read(&self, cx: &Cx<'_>, file: &FileKey, offset: u64, count: u32) -> Result<ReadData>;

    /// WRITE (3.3.7). The store may keep `data` or a part of it.
    fn write(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        offset: u64,
        data: &Bytes,
        stable: StableHow,
    ) -> Result<Written>;

    /// COMMIT (3.3.21); a `count` of 0 is to the end.
    fn commit(&self, cx: &Cx<'_>, file: &FileKey, offset: u64, count: u32) -> Result<WccData>;

    /// CREATE (3.3.8).
    fn create(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8], how: &CreateHow3) -> Result<Made>;

    /// MKDIR, SYMLINK and MKNOD (3.3.9 to 3.3.11).
    fn make(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        node: &NewNode<'_>,
        attributes: &Sattr3,
    ) -> Result<Made>;

    /// REMOVE (3.3.12): anything but a directory.
    fn remove(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<WccData>;

    /// RMDIR (3.3.13): an empty directory.
    fn rmdir(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<WccData>;

    /// RENAME (3.3.14), atomic to every observer.
    fn rename(
        &self,
        cx: &Cx<'_>,
        from_dir: &FileKey,
        from_name: &[u8],
        to_dir: &FileKey,
        to_name: &[u8],
    ) -> Result<Rename3Wcc>;

    /// LINK (3.3.15).
    fn link(&self, cx: &Cx<'_>, file: &FileKey, dir: &FileKey, name: &[u8]) -> Result<Link3Wcc>;

    /// READDIR and READDIRPLUS (3.3.16, 3.3.17): the entries behind `from`, "." and ".." among them. Returns
    /// whether the last one was taken. An entry that stays while the directory changes is given exactly once.
    fn readdir(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        from: DirPosition,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool>;

    /// FSSTAT (3.3.18).
    fn space(&self, cx: &Cx<'_>, file: &FileKey) -> Result<FsSpace>;

    /// A path from the store's root, for people to read: one of the file's names, or none if it has none
    /// any more or the store cannot tell.
    fn path_of(&self, _file: &FileKey) -> Option<Vec<u8>> {
        None
    }

    /// As long as this stays the same, so does every [`path_of`](Self::path_of); none if the store does not know when
    /// they change.
    fn paths_changed(&self) -> Option<u64> {
        None
    }
}

/// What an operation wants to do with a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameUse {
    /// LOOKUP.
    Find,
    /// CREATE, MKDIR, SYMLINK, MKNOD, LINK.
    Make,
    /// REMOVE.
    Remove,
    /// RMDIR.
    Rmdir,
    /// RENAME, either name.
    Rename,
}

/// Whether `name` may be used like this (RFC 1813, section 3.2 and the procedures').
///
/// - Empty: `NFS3ERR_ACCES`, by 3.2.
/// - With '/' or NUL: `NFS3ERR_ACCES`, what 3.2 gives for characters that the server cannot take.
/// - Over [`NAME_MAX`]: `NFS3ERR_NAMETOOLONG`, as PATHCONF promises with `no_trunc`.
/// - "." and ".." exist everywhere, so making them is `NFS3ERR_EXIST`. RENAME of either is
///   `NFS3ERR_INVAL` (3.3.14), RMDIR of "." `NFS3ERR_INVAL` and of ".." `NFS3ERR_EXIST` (3.3.13). For REMOVE
///   the RFC says nothing: `NFS3ERR_ACCES`, as Linux knfsd.
pub fn check_name(name: &[u8], name_use: NameUse) -> Result<()> {
    match name {
        [] => return Err(Nfsstat3::NFS3ERR_ACCES),
        b"." | b".." => {
            return match name_use {
                NameUse::Find => Ok(()),
                NameUse::Make => Err(Nfsstat3::NFS3ERR_EXIST),
                NameUse::Remove => Err(Nfsstat3::NFS3ERR_ACCES),
                NameUse::Rmdir if name == b".." => Err(Nfsstat3::NFS3ERR_EXIST),
                NameUse::Rmdir | NameUse::Rename => Err(Nfsstat3::NFS3ERR_INVAL),
            };
        }
        _ => {}
    }
    if name.len() > NAME_MAX {
        return Err(Nfsstat3::NFS3ERR_NAMETOOLONG);
    }
    if name.iter().any(|&b| b == b'/' || b == 0) {
        return Err(Nfsstat3::NFS3ERR_ACCES);
    }
    Ok(())
}

/// The part of the attributes that is sent as "before".
pub fn wcc_attr(attr: &Fattr3) -> WccAttr {
    WccAttr {
        size: attr.size,
        mtime: attr.mtime,
        ctime: attr.ctime,
    }
}

/// Before and after.
pub fn wcc(before: WccAttr, after: &Fattr3) -> WccData {
    WccData {
        before: Some(before),
        after: Some(*after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &[u8], name_use| check_name(name, name_use).err();
        use NameUse::*;
        use Nfsstat3 as S;
        for name_use in [Find, Make, Remove, Rmdir, Rename] {
            assert_eq!(check(b"", name_use), Some(S::NFS3ERR_ACCES));
            assert_eq!(check(b"a/b", name_use), Some(S::NFS3ERR_ACCES));
            assert_eq!(check(b"a\0", name_use), Some(S::NFS3ERR_ACCES));
            assert_eq!(check(&[b'x'; 256], name_use), Some(S::NFS3ERR_NAMETOOLONG));
            assert_eq!(check(&[b'x'; 255], name_use), None);
            assert_eq!(check(&[0xff, 1, b'\n', b'\\'], name_use), None);
            assert_eq!(check(b"...", name_use), None);
        }
        assert_eq!([check(b".", Find), check(b"..", Find)], [None, None]);
        assert_eq!(check(b".", Make), Some(S::NFS3ERR_EXIST));
        assert_eq!(check(b"..", Rename), Some(S::NFS3ERR_INVAL));
        assert_eq!(check(b".", Rmdir), Some(S::NFS3ERR_INVAL));
        assert_eq!(check(b"..", Rmdir), Some(S::NFS3ERR_EXIST));
        assert_eq!(check(b"..", Remove), Some(S::NFS3ERR_ACCES));
    }
}
