//! The in-memory store.
//!
//! A table leads from inode numbers to inodes; each inode has a lock of its own, so two connections meet only
//! where they touch the same file. Numbers are never used again, and a generation that belongs to the instance
//! goes into every key: what a client kept from an earlier instance is stale, never another file.
//!
//! # Lock order
//!
//! 1. the `moving` mutex: held by a RENAME between two directories, for as long as it runs. It keeps the shape
//!    of the tree fixed, so that "is an ancestor of" means something;
//! 2. inodes from the root downwards: a directory before anything in it. A RENAME between two directories
//!    locks an ancestor before its descendant and two unrelated ones in any order, which only one operation
//!    at a time does (the mutex);
//! 3. files that are not directories, one at a time;
//! 4. the table's shards, for the length of one lookup or insertion.
//!
//! Why this cannot deadlock: without the mutex every operation waits downwards only. The holder of the mutex
//! may hold A and wait for B, neither above the other; whoever holds B waits, if at all, for something below
//! B, and A is not there. Where to read on: `inode`, `dir`, `content`, then `rename`.
//!
//! # What it does not have
//!
//! No stable storage: COMMIT has nothing to do, and everything is gone with the process. A file whose last
//! name goes is gone at once: a file that is still open is the client's affair (it renames it to `.nfsXXXX`).

mod attr;
mod content;
mod dir;
mod inode;
mod names;
mod rename;
mod space;

use crate::cx::Cx;
use crate::handle::FileKey;
use crate::vfs::{
    self, DirPosition, DirSink, FILE_SIZE_MAX, Found, FsLimits, FsSpace, Made, NAME_MAX, NewNode, ReadData,
    Result, Vfs, Written,
};
use bytes::Bytes;
use dashmap::DashMap;
use dir::Directory;
use inode::{Body, Inode, Seen, State};
use parking_lot::Mutex;
use proto::nfs3::{
    CreateHow3, Fattr3, Ftype3, Link3Wcc, Nfsstat3, Nfstime3, Rename3Wcc, Sattr3, Specdata3, StableHow,
    WccData,
};
use space::Space;
use std::cell::RefCell;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Most hard links to one file.
pub const LINK_MAX: u32 = 65_000;
const ROOT_INO: u64 = 1;

/// How a [`MemFs`] is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemConfig {
    /// See [`Vfs::fsid`].
    pub fsid: u64,
    /// Goes into every key. Give each instance its own (the time of the start will do), and handles from an
    /// earlier instance are stale.
    pub generation: u64,
    /// Limit of file data, symbolic links and directory entries, in bytes.
    pub max_bytes: u64,
    /// Limit of files of all types.
    pub max_files: u64,
    /// What is answered when either is reached: `NFS3ERR_NOSPC` or `NFS3ERR_DQUOT`.
    pub when_full: Nfsstat3,
    /// Mode of the root directory.
    pub root_mode: u32,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Its group.
    pub root_gid: u32,
    /// Its times.
    pub now: Nfstime3,
}

impl Default for MemConfig {
    /// 4 GiB, 1 Mi files, a root directory that everyone may use as `/tmp`.
    fn default() -> Self {
        MemConfig {
            fsid: 1,
            generation: 1,
            max_bytes: 4 << 30,
            max_files: 1 << 20,
            when_full: Nfsstat3::NFS3ERR_NOSPC,
            root_mode: 0o1777,
            root_uid: 0,
            root_gid: 0,
            now: Nfstime3::default(),
        }
    }
}

/// Inode numbers count up; multiplied they fill the table's shards evenly.
#[derive(Debug, Default, Clone, Copy)]
struct InoHasher(u64);

impl Hasher for InoHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        // 2^64 divided by the golden ratio; the fold brings the well-mixed upper half down.
        let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = n ^ (n >> 32);
    }
}

thread_local! {
    /// The file whose attributes were asked for last in this thread. They are asked for more often than anything,
    /// mostly those of the same file again, and to find it and to look at it costs three locks that all threads write
    /// to. A file that is gone says so itself, and has no data any more.
    static LATEST: RefCell<Option<Latest>> = const { RefCell::new(None) };
}

struct Latest {
    /// The number of its store.
    store: u64,
    inode: Arc<Inode>,
    seen: Option<Seen>,
}

type Table = DashMap<u64, Arc<Inode>, BuildHasherDefault<InoHasher>>;

/// The in-memory store. See the module's head for its locks.
#[derive(Debug)]
pub struct MemFs {
    /// Which of all stores of this process.
    number: u64,
    fsid: u64,
    generation: u64,
    table: Table,
    next_ino: AtomicU64,
    space: Space,
    moving: Mutex<()>,
    /// How often a file that was there has got another name, or lost one. Counted when it has.
    paths_changed: AtomicU64,
}

impl MemFs {
    /// An empty tree.
    pub fn new(config: &MemConfig) -> MemFs {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let fs = MemFs {
            number: NEXT.fetch_add(1, Relaxed),
            fsid: config.fsid,
            generation: config.generation,
            table: Table::default(),
            next_ino: AtomicU64::new(ROOT_INO + 1),
            space: Space::new(config.max_bytes, config.max_files, config.when_full),
            moving: Mutex::new(()),
            paths_changed: AtomicU64::new(0),
        };
        let root = Inode::new(State {
            attr: Fattr3 {
                ftype: Ftype3::NF3DIR,
                mode: config.root_mode,
                nlink: 2,
                uid: config.root_uid,
                gid: config.root_gid,
                size: 0,
                used: 0,
                rdev: Specdata3::default(),
                fsid: config.fsid,
                fileid: ROOT_INO,
                atime: config.now,
                mtime: config.now,
                ctime: config.now,
            },
            body: Body::Directory(Box::new(Directory::new())),
            place: None,
            create_verf: None,
        });
        fs.table.insert(ROOT_INO, Arc::new(root));
        fs
    }

    fn key(&self, ino: u64) -> FileKey {
        FileKey::pair(ino, self.generation)
    }

    /// The inode of a key, or `NFS3ERR_STALE`.
    fn inode(&self, file: &FileKey) -> Result<Arc<Inode>> {
        self.by_ino(self.ino(file)?)
    }

    fn ino(&self, file: &FileKey) -> Result<u64> {
        match file.as_pair() {
            Some((ino, generation)) if generation == self.generation => Ok(ino),
            _ => Err(Nfsstat3::NFS3ERR_STALE),
        }
    }

    fn path_changed(&self) {
        self.paths_changed.fetch_add(1, Release);
    }

    fn by_ino(&self, ino: u64) -> Result<Arc<Inode>> {
        match self.table.get(&ino) {
            Some(inode) => Ok(inode.clone()),
            None => Err(Nfsstat3::NFS3ERR_STALE),
        }
    }

    /// A directory's own number and those above it, up to the root. Takes one lock at a time.
    fn ancestors(&self, dir: &Inode) -> Result<Vec<u64>> {
        let mut line = vec![dir.ino];
        let mut place = dir.read()?.place.clone();
        while let Some(above) = place {
            line.push(above.dir);
            place = self.by_ino(above.dir)?.read()?.place.clone();
        }
        Ok(line)
    }
}

impl Drop for MemFs {
    /// Entries own their files, so a deep tree would be freed by recursion, and overflow the stack. Emptying
    /// every directory first leaves all files to the table.
    fn drop(&mut self) {
        for inode in self.table.iter() {
            if let Ok(mut state) = inode.write()
                && let Ok(dir) = state.body.dir_mut()
            {
                *dir = Directory::new();
            }
        }
    }
}

impl Vfs for MemFs {
    fn fsid(&self) -> u64 {
        self.fsid
    }

    fn root(&self) -> FileKey {
        self.key(ROOT_INO)
    }

    fn limits(&self) -> FsLimits {
        FsLimits {
            file_size_max: FILE_SIZE_MAX,
            link_max: LINK_MAX,
            name_max: NAME_MAX as u32,
            time_delta: Nfstime3 {
                seconds: 0,
                nseconds: 1,
            },
        }
    }

    fn getattr(&self, _: &Cx<'_>, file: &FileKey) -> Result<Fattr3> {
        let ino = self.ino(file)?;
        LATEST.with_borrow_mut(|latest| {
            let known = match latest {
                Some(known) if known.store == self.number && known.inode.ino == ino => known,
                _ => latest.insert(Latest {
                    store: self.number,
                    inode: self.by_ino(ino)?,
                    seen: None,
                }),
            };
            known.inode.attr_again(&mut known.seen)
        })
    }

    fn setattr(&self, cx: &Cx<'_>, file: &FileKey, new: &Sattr3, guard: Option<Nfstime3>) -> Result<WccData> {
        self.set_attributes(cx, file, new, guard)
    }

    fn lookup(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<Found> {
        self.find(cx, dir, name)
    }

    fn readlink(&self, cx: &Cx<'_>, file: &FileKey) -> Result<(Bytes, Fattr3)> {
        self.read_symlink(cx, file)
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

    fn space(&self, _: &Cx<'_>, file: &FileKey) -> Result<FsSpace> {
        self.inode(file)?;
        Ok(self.space.report())
    }

    fn path_of(&self, file: &FileKey) -> Option<Vec<u8>> {
        self.path(file)
    }

    fn paths_changed(&self) -> Option<u64> {
        Some(self.paths_changed.load(Acquire))
    }
}

#[cfg(test)]
mod tests;
