//! The operations of a mount, as the kernel asks for them: files by number, callers by their ids.

use crate::data::all;
use crate::inodes::{Inode, Inodes};
use crate::line::Who;
use crate::nfs::{DirEntry, Fh, Found, Nfs};
use crate::options::Options;
use crate::target::Mounted;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use dashmap::DashMap;
use nix::errno::Errno;
use parking_lot::Mutex;
use proto::nfs3::{
    CreateHow3, Fattr3, Fsstat3Ok, Ftype3, MknodData3, NFS3_COOKIEVERFSIZE, NFS3_CREATEVERFSIZE, Nfsstat3,
    PostOpAttr, Sattr3, SetTime, access,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The largest transfer, in bytes: what the kernel asks of FUSE at most.
pub const LARGEST: u32 = 1 << 20;
/// How long the groups of a process are believed.
const GROUPS_FOR: Duration = Duration::from_secs(1);
/// Most processes whose groups are remembered.
const MOST_PROCESSES: usize = 1024;

/// What an operation came to.
pub type Done<T> = std::result::Result<T, Errno>;

/// Who asks, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Thread, by which further groups are found.
    pub pid: u32,
}

/// A file as the kernel is told of it.
#[derive(Clone)]
pub struct Entry {
    /// The file.
    pub inode: Arc<Inode>,
    /// Its attributes.
    pub attr: Fattr3,
    /// For how long they hold.
    pub valid: Duration,
}

/// An open directory: what was fetched and not yet asked for.
pub struct OpenDir {
    inode: Arc<Inode>,
    ahead: tokio::sync::Mutex<Ahead>,
}

#[derive(Default)]
struct Ahead {
    /// Behind which cookie `entries` begin.
    cookie: u64,
    entries: VecDeque<DirEntry>,
    verf: [u8; NFS3_COOKIEVERFSIZE],
    eof: bool,
}

/// A mounted export.
pub struct Client {
    nfs: Nfs,
    inodes: Inodes,
    options: Options,
    rsize: u32,
    dirsize: u32,
    dirs: DashMap<u64, Arc<OpenDir>>,
    next_handle: AtomicU64,
    groups: Mutex<Groups>,
}

type Groups = std::collections::BTreeMap<u32, (Instant, Arc<[u32]>)>;

impl Client {
    /// For an export that was mounted.
    ///
    /// # Errors
    /// The root's attributes cannot be had.
    pub async fn new(mounted: &Mounted, options: &Options) -> Result<Client> {
        let (who, nfs) = (Who::default(), mounted.nfs.clone());
        let info = nfs
            .fsinfo(&who, &mounted.root)
            .await
            .context("FSINFO of the export")?;
        let attr = nfs
            .getattr(&who, &mounted.root)
            .await
            .context("the attributes of the export")?;
        let size = |asked: Option<u32>, preferred: u32, most: u32| {
            asked.unwrap_or(preferred).min(most).clamp(512, LARGEST)
        };
        let wsize = size(options.wsize, info.wtpref, info.wtmax);
        Ok(Client {
            inodes: Inodes::new(nfs.clone(), mounted.root.clone(), attr, wsize, options.caching),
            nfs,
            options: options.clone(),
            rsize: size(options.rsize, info.rtpref, info.rtmax),
            dirsize: info.dtpref.clamp(4096, 64 << 10),
            dirs: DashMap::new(),
            next_handle: AtomicU64::new(1),
            groups: Mutex::default(),
        })
    }

    /// The files that the kernel knows.
    pub fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    /// The file of a number.
    ///
    /// # Errors
    /// ESTALE: the kernel should not know it.
    pub fn inode(&self, number: u64) -> Done<Arc<Inode>> {
        self.inodes.get(number).ok_or(Errno::ESTALE)
    }

    /// The identity of a caller.
    pub fn who(&self, caller: Caller) -> Who {
        Who {
            uid: caller.uid,
            gid: caller.gid,
            groups: self.groups(caller.pid),
        }
    }

    fn groups(&self, pid: u32) -> Arc<[u32]> {
        let mut known = self.groups.lock();
        if let Some((since, groups)) = known.get(&pid)
            && since.elapsed() < GROUPS_FOR
        {
            return groups.clone();
        }
        if known.len() >= MOST_PROCESSES {
            known.clear();
        }
        let groups: Arc<[u32]> = groups_of(pid).into();
        known.insert(pid, (Instant::now(), groups.clone()));
        groups
    }

    /// A handle for something that is opened.
    pub fn handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Relaxed)
    }

    fn entry(&self, inode: Arc<Inode>) -> Entry {
        let (attr, valid) = inode.fresh().unwrap_or((inode.last_attr(), Duration::ZERO));
        Entry { inode, attr, valid }
    }

    fn seen(&self, inode: &Inode, attr: PostOpAttr) {
        match attr {
            Some(attr) => {
                inode.update(attr, &self.options.caching);
            }
            None => inode.doubt(),
        }
    }

    /// What a server left out of its answer is asked for.
    async fn found(&self, who: &Who, dir: &Inode, name: &[u8], found: Found) -> Done<Entry> {
        self.seen(dir, found.dir);
        let fh = match found.fh {
            Some(fh) => fh,
            None => {
                let found = self.nfs.lookup(who, &dir.fh, name).await.map_err(|e| e.errno())?;
                found.fh.ok_or(Errno::EIO)?
            }
        };
        let attr = match found.attr {
            Some(attr) => attr,
            None => self.nfs.getattr(who, &fh).await.map_err(|e| e.errno())?,
        };
        Ok(self.entry(self.inodes.found(fh, attr)))
    }

    /// LOOKUP.
    pub async fn lookup(&self, who: &Who, parent: u64, name: &[u8]) -> Done<Entry> {
        let dir = self.inode(parent)?;
        let found = self.nfs.lookup(who, &dir.fh, name).await.map_err(|e| e.errno())?;
        self.found(who, &dir, name, found).await
    }

    /// GETATTR, of the server once it has what was written: the kernel asks when it no longer believes what it was told,
    /// or has reason to doubt it (it has renamed the file, say).
    pub async fn getattr(&self, who: &Who, number: u64) -> Done<(Fattr3, Duration)> {
        let inode = self.inode(number)?;
        inode.written.drained().await;
        let attr = self.nfs.getattr(who, &inode.fh).await.map_err(|e| e.errno())?;
        let valid = inode.update(attr, &self.options.caching);
        Ok((attr, valid))
    }

    /// SETATTR.
    pub async fn setattr(&self, who: &Who, number: u64, new: Sattr3) -> Done<(Fattr3, Duration)> {
        let inode = self.inode(number)?;
        match new.size {
            // What is written again later must not make it longer again.
            Some(_) => inode.written.safe(who).await?,
            None => inode.written.drained().await,
        }
        let attr = self
            .nfs
            .setattr(who, &inode.fh, new)
            .await
            .map_err(|e| e.errno())?;
        match attr {
            Some(attr) => Ok((attr, inode.update(attr, &self.options.caching))),
            None => self.getattr(who, number).await,
        }
    }

    /// READLINK.
    pub async fn readlink(&self, who: &Who, number: u64) -> Done<Vec<u8>> {
        let inode = self.inode(number)?;
        self.nfs.readlink(who, &inode.fh).await.map_err(|e| e.errno())
    }

    /// What a new file is to be. The group is left to the server: the directory's, or the caller's.
    fn fresh_file(mode: u32) -> Sattr3 {
        Sattr3 {
            mode: Some(mode & 0o7777),
            ..Sattr3::default()
        }
    }

    /// MKDIR.
    pub async fn mkdir(&self, who: &Who, parent: u64, name: &[u8], mode: u32) -> Done<Entry> {
        let dir = self.inode(parent)?;
        let made = self.nfs.mkdir(who, &dir.fh, name, Self::fresh_file(mode)).await;
        self.found(who, &dir, name, made.map_err(|e| e.errno())?).await
    }

    /// SYMLINK.
    pub async fn symlink(&self, who: &Who, parent: u64, name: &[u8], text: &[u8]) -> Done<Entry> {
        let dir = self.inode(parent)?;
        let made = self
            .nfs
            .symlink(who, &dir.fh, name, text, Self::fresh_file(0o777))
            .await;
        self.found(who, &dir, name, made.map_err(|e| e.errno())?).await
    }

    /// MKNOD; a regular file is made by CREATE.
    pub async fn mknod(
        &self,
        who: &Who,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: (u32, u32),
    ) -> Done<Entry> {
        let dir = self.inode(parent)?;
        let new = Self::fresh_file(mode);
        let device = proto::nfs3::Specdata3 {
            specdata1: rdev.0,
            specdata2: rdev.1,
        };
        let what = match mode & libc_mode::S_IFMT {
            libc_mode::S_IFREG => {
                let made = self
                    .nfs
                    .create(who, &dir.fh, name, CreateHow3::Guarded(new))
                    .await;
                return self.found(who, &dir, name, made.map_err(|e| e.errno())?).await;
            }
            libc_mode::S_IFCHR => MknodData3::Device(Ftype3::NF3CHR, new, device),
            libc_mode::S_IFBLK => MknodData3::Device(Ftype3::NF3BLK, new, device),
            libc_mode::S_IFIFO => MknodData3::Pipe(Ftype3::NF3FIFO, new),
            libc_mode::S_IFSOCK => MknodData3::Pipe(Ftype3::NF3SOCK, new),
            _ => return Err(Errno::EINVAL),
        };
        let made = self.nfs.mknod(who, &dir.fh, name, what).await;
        self.found(who, &dir, name, made.map_err(|e| e.errno())?).await
    }

    /// CREATE and open. With `exclusive` it is made once however often the call arrives (RFC 1813, section 3.3.8), and
    /// gets its mode afterwards.
    pub async fn create(
        &self,
        who: &Who,
        parent: u64,
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Done<Entry> {
        let dir = self.inode(parent)?;
        let new = Self::fresh_file(mode);
        let how = match exclusive {
            true => CreateHow3::Exclusive(self.create_verf()),
            false => CreateHow3::Unchecked(new),
        };
        let mut made = match self.nfs.create(who, &dir.fh, name, how).await {
            Err(error) if exclusive && error.is(Nfsstat3::NFS3ERR_NOTSUPP) => {
                self.nfs
                    .create(who, &dir.fh, name, CreateHow3::Guarded(new))
                    .await
            }
            made => made,
        }
        .map_err(|e| e.errno())?;
        if exclusive && let Some(fh) = &made.fh {
            // The server may have kept the verifier in the times.
            let set = Sattr3 {
                atime: SetTime::ServerTime,
                mtime: SetTime::ServerTime,
                ..new
            };
            made.attr = self.nfs.setattr(who, fh, set).await.map_err(|e| e.errno())?;
        }
        let entry = self.found(who, &dir, name, made).await?;
        entry.inode.open(&entry.attr);
        Ok(entry)
    }

    /// Different for every file that this client has ever made.
    fn create_verf(&self) -> [u8; NFS3_CREATEVERFSIZE] {
        let state = std::collections::hash_map::RandomState::new();
        std::hash::BuildHasher::hash_one(&state, self.handle()).to_be_bytes()
    }

    /// LINK.
    pub async fn link(&self, who: &Who, number: u64, parent: u64, name: &[u8]) -> Done<Entry> {
        let (inode, dir) = (self.inode(number)?, self.inode(parent)?);
        let linked = self.nfs.link(who, &inode.fh, (&dir.fh, name)).await;
        let (attr, dir_attr) = linked.map_err(|e| e.errno())?;
        let found = Found {
            fh: Some(inode.fh.clone()),
            attr,
            dir: dir_attr,
        };
        self.found(who, &dir, name, found).await
    }

    /// REMOVE. A file that is open is renamed instead, and removed when it is closed: NFSv3 knows no open files.
    pub async fn unlink(&self, who: &Who, parent: u64, name: &[u8]) -> Done<()> {
        let dir = self.inode(parent)?;
        if self.rename_silly(who, &dir, name).await? {
            return Ok(());
        }
        let attr = self.nfs.remove(who, &dir.fh, name).await.map_err(|e| e.errno())?;
        self.seen(&dir, attr);
        Ok(())
    }

    /// If somebody has the file of that name open, it gets another name.
    async fn rename_silly(&self, who: &Who, dir: &Inode, name: &[u8]) -> Done<bool> {
        let found = match self.nfs.lookup(who, &dir.fh, name).await {
            Ok(found) => found,
            Err(error) if error.is(Nfsstat3::NFS3ERR_NOENT) => return Ok(false),
            Err(error) => return Err(error.errno()),
        };
        let (Some(fh), Some(attr)) = (found.fh, found.attr) else {
            return Ok(false);
        };
        let Some(inode) = self.inodes.get(self.inodes.shown(attr.fileid)) else {
            return Ok(false);
        };
        inode.update(attr, &self.options.caching);
        if inode.fh != fh || !inode.is_open() || attr.ftype == Ftype3::NF3DIR {
            inode.doubt();
            return Ok(false);
        }
        let silly = format!(".nfs{:016x}{:08x}", attr.fileid, self.handle()).into_bytes();
        let renamed = self.nfs.rename(who, (&dir.fh, name), (&dir.fh, &silly)).await;
        let (attr, _) = renamed.map_err(|e| e.errno())?;
        self.seen(dir, attr);
        inode.doubt();
        inode.renamed_silly(dir.fh.clone(), silly);
        Ok(true)
    }

    /// RMDIR.
    pub async fn rmdir(&self, who: &Who, parent: u64, name: &[u8]) -> Done<()> {
        let dir = self.inode(parent)?;
        let attr = self.nfs.rmdir(who, &dir.fh, name).await.map_err(|e| e.errno())?;
        self.seen(&dir, attr);
        Ok(())
    }

    /// RENAME.
    pub async fn rename(&self, who: &Who, from: (u64, &[u8]), to: (u64, &[u8])) -> Done<()> {
        let (from_dir, to_dir) = (self.inode(from.0)?, self.inode(to.0)?);
        if from != to
            && self
                .target_is_another(who, (&from_dir, from.1), (&to_dir, to.1))
                .await
        {
            self.rename_silly(who, &to_dir, to.1).await?;
        }
        let renamed = self
            .nfs
            .rename(who, (&from_dir.fh, from.1), (&to_dir.fh, to.1))
            .await;
        let (from_attr, to_attr) = renamed.map_err(|e| e.errno())?;
        self.seen(&from_dir, from_attr);
        self.seen(&to_dir, to_attr);
        Ok(())
    }

    /// Two names of one file are left alone by RENAME, so the second is no victim.
    async fn target_is_another(&self, who: &Who, from: (&Inode, &[u8]), to: (&Inode, &[u8])) -> bool {
        let old = self.nfs.lookup(who, &from.0.fh, from.1);
        let victim = self.nfs.lookup(who, &to.0.fh, to.1);
        match tokio::join!(old, victim) {
            (Ok(old), Ok(victim)) => old.fh != victim.fh,
            _ => false,
        }
    }

    /// A file is opened. True if its data are still those that the kernel has. (Close-to-open consistency.)
    ///
    /// # Errors
    /// EACCES if the server says that the caller may not.
    pub async fn open(&self, who: &Who, number: u64, read: bool, write: bool) -> Done<(Arc<Inode>, bool)> {
        let inode = self.inode(number)?;
        inode.written.drained().await;
        let wanted =
            if read { access::READ } else { 0 } | if write { access::MODIFY | access::EXTEND } else { 0 };
        // To execute a file one must be able to read it: the kernel says O_RDONLY for both.
        let asked = wanted | access::EXECUTE;
        let (attr, may) = match self.options.close_to_open {
            true => {
                let (may, attr) = self
                    .nfs
                    .access(who, &inode.fh, asked)
                    .await
                    .map_err(|e| e.errno())?;
                let attr = match attr {
                    Some(attr) => attr,
                    None => self.nfs.getattr(who, &inode.fh).await.map_err(|e| e.errno())?,
                };
                inode.update(attr, &self.options.caching);
                (attr, may)
            }
            false => (self.getattr(who, number).await?.0, wanted),
        };
        let executes = read && !write && may & access::EXECUTE != 0;
        // The owner may always: knfsd lets them, so that a file can be made read-only and still be written.
        if may & wanted != wanted && !executes && attr.uid != who.uid {
            return Err(Errno::EACCES);
        }
        let unchanged = inode.open(&attr);
        Ok((inode, unchanged))
    }

    /// Everything that was written is safe: fsync(2), close(2).
    pub async fn safe(&self, who: &Who, number: u64) -> Done<()> {
        let inode = self.inode(number)?;
        let safe = inode.written.safe(who).await;
        if let Some(attr) = inode.written.attr() {
            inode.update(attr, &self.options.caching);
        }
        safe
    }

    /// A file is closed for the last time by one who had opened it.
    pub async fn close(&self, who: &Who, number: u64) -> Done<()> {
        let inode = self.inode(number)?;
        let safe = inode.written.safe(who).await;
        if let Some((dir, name)) = inode.close() {
            self.remove_silly(&dir, &name).await;
        }
        safe
    }

    async fn remove_silly(&self, dir: &Fh, name: &[u8]) {
        // As whoever closes it last, Linux would; the one who may is whoever could remove it. Root is the best guess of a
        // mount that root made.
        if let Err(error) = self.nfs.remove(&Who::default(), dir, name).await {
            tracing::warn!("{} is left behind: {error}", String::from_utf8_lossy(name));
        }
    }

    /// READ: in pieces of `rsize`, side by side.
    pub async fn read(&self, who: &Who, number: u64, offset: u64, size: u32) -> Done<Vec<Bytes>> {
        let inode = self.inode(number)?;
        let end = offset.saturating_add(size.into());
        inode.written.drained_at(offset..end).await;
        let step = u64::from(self.rsize);
        let starts = (0..u64::from(size).div_ceil(step)).map(|n| offset + n * step);
        let pieces = starts.map(|start| self.read_piece(who, &inode, start, end.min(start + step)));
        let mut data = Vec::new();
        for piece in all(pieces).await {
            let (bytes, eof) = piece?;
            data.extend(bytes);
            if eof {
                break;
            }
        }
        Ok(data)
    }

    /// One piece, asked for again where the server gave less.
    async fn read_piece(&self, who: &Who, inode: &Inode, start: u64, end: u64) -> Done<(Vec<Bytes>, bool)> {
        let (mut at, mut data) = (start, Vec::new());
        while at < end {
            let read = self
                .nfs
                .read(who, &inode.fh, at, (end - at) as u32)
                .await
                .map_err(|e| e.errno())?;
            at += read.data.len() as u64;
            let nothing = read.data.is_empty();
            data.push(read.data);
            if read.eof || nothing {
                return Ok((data, true));
            }
        }
        Ok((data, false))
    }

    /// WRITE. `safely`: not before the server has it on its disk.
    pub async fn write(&self, who: &Who, number: u64, offset: u64, data: Bytes, safely: bool) -> Done<u32> {
        let inode = self.inode(number)?;
        let len = data.len() as u32;
        match safely || self.options.sync {
            true => {
                inode.written.safe(who).await?;
                let written = inode.written.write_safely(who, offset, data).await;
                written.map_err(|e| e.errno())?;
            }
            false => inode.written.write(who, offset, data).await?,
        }
        inode.doubt();
        Ok(len)
    }

    /// OPENDIR.
    pub fn open_dir(&self, number: u64) -> Done<u64> {
        let inode = self.inode(number)?;
        let handle = self.handle();
        let dir = OpenDir {
            inode,
            ahead: tokio::sync::Mutex::default(),
        };
        self.dirs.insert(handle, Arc::new(dir));
        Ok(handle)
    }

    /// RELEASEDIR.
    pub fn close_dir(&self, handle: u64) {
        self.dirs.remove(&handle);
    }

    /// Entries behind `cookie`, given to `take` one by one until it says that it is full.
    pub async fn list(
        &self,
        who: &Who,
        handle: u64,
        cookie: u64,
        mut take: impl FnMut(&DirEntry) -> bool + Send,
    ) -> Done<()> {
        let dir = self
            .dirs
            .get(&handle)
            .map(|dir| dir.clone())
            .ok_or(Errno::EBADF)?;
        let mut ahead = dir.ahead.lock().await;
        if ahead.cookie != cookie {
            // seekdir(3), or the beginning again.
            let verf = if cookie == 0 {
                Default::default()
            } else {
                ahead.verf
            };
            *ahead = Ahead {
                cookie,
                verf,
                ..Ahead::default()
            };
        }
        loop {
            while let Some(entry) = ahead.entries.front() {
                if take(entry) {
                    return Ok(());
                }
                ahead.cookie = entry.cookie;
                ahead.entries.pop_front();
            }
            if ahead.eof {
                return Ok(());
            }
            let asked = self
                .nfs
                .readdirplus(who, &dir.inode.fh, ahead.cookie, ahead.verf, self.dirsize);
            let part = asked.await.map_err(|e| e.errno())?;
            if let Some(attr) = part.attr {
                dir.inode.update(attr, &self.options.caching);
            }
            if part.entries.is_empty() && !part.eof {
                return Err(Errno::EIO);
            }
            ahead.verf = part.verf;
            ahead.eof = part.eof;
            ahead.entries = part.entries.into();
        }
    }

    /// An entry of a listing as the kernel is told of it, if the server said enough.
    pub fn listed(&self, entry: &DirEntry) -> Option<Entry> {
        let (fh, attr) = (entry.fh.clone()?, entry.attr?);
        Some(self.entry(self.inodes.found(fh, attr)))
    }

    /// FSSTAT.
    pub async fn statfs(&self, who: &Who, number: u64) -> Done<Fsstat3Ok> {
        let inode = self.inode(number)?;
        self.nfs.fsstat(who, &inode.fh).await.map_err(|e| e.errno())
    }
}

/// The file types of <sys/stat.h>, as FUSE sends them.
mod libc_mode {
    pub const S_IFMT: u32 = 0o170_000;
    pub const S_IFSOCK: u32 = 0o140_000;
    pub const S_IFREG: u32 = 0o100_000;
    pub const S_IFBLK: u32 = 0o060_000;
    pub const S_IFCHR: u32 = 0o020_000;
    pub const S_IFIFO: u32 = 0o010_000;
}

/// The further groups of a process, from /proc; none if it is gone or in another namespace.
fn groups_of(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default()
        .split_whitespace()
        .filter_map(|gid| gid.parse().ok())
        .collect()
}
