//! The mount as `fuser` and the device ask for it: arguments in, [`Client`] or [`Locks`] asked on the runtime, answers out.

use crate::client::{Caller, Client, Done, Entry};
use crate::dev::{self, Conflict, FileLock, LockHolder, LockKind, MAX_WRITE, Notifier};
use crate::inodes::{Inode, ROOT};
use crate::line::Who;
use crate::locks::Locks;
use crate::nfs::is_device;
use crate::options::LocalLock;
use bytes::Bytes;
use dashmap::DashMap;
use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, Request, TimeOrNow,
};
use nix::errno::Errno;
use nix::libc;
use proto::nfs3::{Fattr3, Ftype3, Nfstime3, Sattr3, SetTime};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The block size that statfs(2) and stat(2) show.
const BLOCK: u32 = 4096;
/// Requests of the background (readahead, written pages) that the kernel sends before it waits.
const BACKGROUND: u16 = 64;

/// How long a process that is exiting waits for what it wrote and locked.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// An open file.
#[derive(Clone)]
struct Open {
    /// Whoever opened it: who reads and writes is nobody in particular where pages are concerned.
    who: Who,
    /// O_SYNC or O_DSYNC.
    safely: bool,
    /// What is written does not go through the kernel's pages.
    direct: bool,
}

/// The mount.
#[derive(Clone)]
pub struct Fs(Arc<Shared>);

struct Shared {
    client: Client,
    locks: Option<Locks>,
    local_lock: LocalLock,
    /// For how long the kernel believes a name.
    names_for: Duration,
    open: DashMap<u64, Open>,
    /// Operations that end when their callers are killed, by the kernel's numbers for them.
    under_way: DashMap<u64, CancellationToken>,
    processes: Processes,
    notifier: Notifier,
    runtime: Handle,
}

/// The kernel's numbers of errors.
fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

fn time(time: Nfstime3) -> SystemTime {
    UNIX_EPOCH + Duration::new(time.seconds.into(), time.nseconds.min(999_999_999))
}

/// What setattr(2) sets. Times before 1970 and after 2106 cannot be said (RFC 1813, section 2.5): they become the nearest
/// that can.
fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::DontChange,
        Some(TimeOrNow::Now) => SetTime::ServerTime,
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            SetTime::ClientTime(Nfstime3 {
                seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
                nseconds: since.subsec_nanos(),
            })
        }
    }
}

fn file_type(ftype: Ftype3) -> FileType {
    match ftype {
        Ftype3::NF3DIR => FileType::Directory,
        Ftype3::NF3BLK => FileType::BlockDevice,
        Ftype3::NF3CHR => FileType::CharDevice,
        Ftype3::NF3LNK => FileType::Symlink,
        Ftype3::NF3SOCK => FileType::Socket,
        Ftype3::NF3FIFO => FileType::NamedPipe,
        _ => FileType::RegularFile,
    }
}

fn file_attr(number: u64, attr: &Fattr3) -> FileAttr {
    let rdev = match is_device(attr.ftype) {
        // As the kernel's new_encode_dev.
        true => {
            let (major, minor) = (attr.rdev.specdata1, attr.rdev.specdata2);
            (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
        }
        false => 0,
    };
    FileAttr {
        ino: INodeNo(number),
        size: attr.size,
        blocks: attr.used.div_ceil(512),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.ftype),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev,
        blksize: MAX_WRITE,
        flags: 0,
    }
}

impl Fs {
    /// A file system for `fuser` and the device. `locks`: none if both kinds of locks stay on this mount.
    pub fn new(
        client: Client,
        locks: Option<Locks>,
        local_lock: LocalLock,
        names_for: Duration,
        notifier: Notifier,
        runtime: Handle,
    ) -> Fs {
        Fs(Arc::new(Shared {
            client,
            locks,
            local_lock,
            names_for,
            open: DashMap::new(),
            under_way: DashMap::new(),
            processes: Processes::default(),
            notifier,
            runtime,
        }))
    }

    /// Runs an operation as a task. Its reply goes out when it is done, and others go on meanwhile. When the caller is
    /// killed it ends where it is: as with a kernel's client the server may have heard of it or not, but will not again.
    fn spawn<F>(&self, request: &Request, operation: impl FnOnce(Fs, Who) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (this, caller, unique) = (self.clone(), caller(request), request.unique().0);
        let abandoned = CancellationToken::new();
        self.0.under_way.insert(unique, abandoned.clone());
        self.0.runtime.spawn(async move {
            let who = this.0.client.who(caller);
            abandoned.run_until_cancelled(operation(this.clone(), who)).await;
            this.0.under_way.remove(&unique);
        });
    }

    /// The same for what is done to its end, whoever dies: the kernel believes that it has been done.
    fn spawn_to_the_end<F>(&self, operation: impl FnOnce(Fs) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.runtime.spawn(operation(self.clone()));
    }

    fn reply_entry(&self, reply: ReplyEntry, found: Done<Entry>) {
        match found {
            Ok(Entry { inode, attr, valid }) => {
                let attr = file_attr(inode.number, &attr);
                reply.entry_with_ttls(&valid, &self.0.names_for, &attr, Generation(inode.generation));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Who only writes is spared the copy into the kernel's pages: those would not outlive the next open, since the file
    /// has changed. If somebody else has it open already, the pages may be mapped, and go on being written to.
    fn opened(&self, who: Who, inode: &Inode, flags: OpenFlags) -> (FileHandle, FopenFlags) {
        let handle = self.0.client.handle();
        let safely = flags.0 & libc::O_DSYNC != 0;
        let direct = flags.acc_mode() == OpenAccMode::O_WRONLY && inode.opens() == 1;
        self.0.open.insert(handle, Open { who, safely, direct });
        let mut how = FopenFlags::empty();
        how.set(FopenFlags::FOPEN_DIRECT_IO, direct);
        (FileHandle(handle), how)
    }

    /// Something was written past the kernel's pages. Those that others got meanwhile are old.
    async fn pages_are_old(&self, inode: &Inode, offset: u64, len: u32) {
        let (Ok(offset), true) = (i64::try_from(offset), len > 0 && inode.opens() > 1) else {
            return;
        };
        let (notifier, number) = (self.0.notifier.clone(), inode.number);
        // It may have to wait for pages that are being read.
        let told = self
            .0
            .runtime
            .spawn_blocking(move || notifier.invalidate(number, offset, len.into()));
        let _ = told.await;
    }

    fn open_as(&self, fh: u64) -> Open {
        self.0.open.get(&fh).map_or(
            Open {
                who: Who::default(),
                safely: false,
                direct: false,
            },
            |open| open.clone(),
        )
    }
}

/// Whether a process is on its way out: it has given up its memory, of which proc_pid_status(5) then says nothing. A
/// flag in /proc/PID/stat says so, too, but reading that waits for a process that is in execve(2), and that one may be
/// waiting for us: what it closes on exec, it closes there.
fn exiting(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.lines().any(|line| line.starts_with("VmSize:")))
}

/// Whose fcntl(2) locks are whose. The kernel has a number for a process and gives it to another when that one is gone.
/// By then its locks have been given back; not if the server was silent, and the exit had to go on without it.
#[derive(Default)]
struct Processes {
    left: DashMap<u64, Left>,
}

/// A number whose process left locks behind.
#[derive(Default)]
struct Left {
    /// How many such processes had the number before the one that has it, or had it last.
    before: u64,
    /// That one is gone as well, or about to be: it has closed a file in its exit.
    gone: bool,
}

impl Processes {
    /// By which number the locks of the process with the kernel's `number` are known.
    fn known_as(&self, number: u64) -> u64 {
        let before = self.left.get(&number).map_or(0, |left| left.before);
        // The kernel's are scrambled addresses: that it has this one too is as likely as to guess 64 bits.
        number ^ before.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The same when a lock is taken. Nobody does that in an exit: if the last one is gone, it is another.
    fn takes(&self, number: u64) -> u64 {
        if let Some(mut left) = self.left.get_mut(&number).filter(|left| left.gone) {
            left.before += 1;
            left.gone = false;
        }
        self.known_as(number)
    }

    /// It goes, and has locks still.
    fn leaves(&self, number: u64) {
        self.left.entry(number).or_default().gone = true;
    }

    /// Who holds a lock that is asked for through the open file `fh`.
    ///
    /// With flock(2) it is the open file, and the kernel has a number for it as well. But it gives that to another as soon
    /// as this one is closed, and only then sends RELEASE, which may be looked at when the other has its lock already, and
    /// would take that away. What OPEN answered is never given twice.
    fn holder(&self, fh: u64, by: LockHolder, kind: LockKind) -> LockHolder {
        let number = match kind {
            _ if by.flock => fh,
            LockKind::Unlock => self.known_as(by.number),
            LockKind::Read | LockKind::Write => self.takes(by.number),
        };
        LockHolder { number, ..by }
    }
}

fn reply_empty(reply: ReplyEmpty, done: Done<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_attr(reply: ReplyAttr, number: u64, got: Done<(Fattr3, Duration)>) {
    match got {
        Ok((attr, valid)) => reply.attr(&valid, &file_attr(number, &attr)),
        Err(error) => reply.error(errno(error)),
    }
}

impl fuser::Filesystem for Fs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_MAX_PAGES;
        // What is not asked for stays in the kernel.
        wanted.set(InitFlags::FUSE_POSIX_LOCKS, !self.0.local_lock.posix);
        wanted.set(InitFlags::FUSE_FLOCK_LOCKS, !self.0.local_lock.flock);
        let _ = config.add_capabilities(wanted & config.capabilities());
        let limit = |error| io::Error::other(format!("the kernel's limit is {error}"));
        config.set_max_write(MAX_WRITE).map_err(limit)?;
        let _ = config.set_max_readahead(MAX_WRITE);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.spawn(request, move |fs, who| async move {
            let found = fs.0.client.lookup(&who, parent.0, &name).await;
            fs.reply_entry(reply, found);
        });
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        self.0.client.inodes().forget(number.0, lookups);
    }

    fn getattr(&self, request: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.spawn(request, move |fs, who| async move {
            reply_attr(reply, number.0, fs.0.client.getattr(&who, number.0).await);
        });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let new = Sattr3 {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: set_time(atime),
            mtime: set_time(mtime),
        };
        self.spawn(request, move |fs, who| async move {
            // ftruncate(2) is allowed to whoever could open the file for writing.
            let who = match fh {
                Some(fh) if size.is_some() => fs.open_as(fh.0).who,
                _ => who,
            };
            reply_attr(reply, number.0, fs.0.client.setattr(&who, number.0, new).await);
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        self.spawn(request, move |fs, who| async move {
            match fs.0.client.readlink(&who, number.0).await {
                Ok(text) => reply.data(&text),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = name.as_bytes().to_vec();
        // As the kernel's new_decode_dev.
        let rdev = ((rdev & 0xfff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xfff00));
        self.spawn(request, move |fs, who| async move {
            let made = fs.0.client.mknod(&who, parent.0, &name, mode, rdev).await;
            fs.reply_entry(reply, made);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.as_bytes().to_vec();
        self.spawn(request, move |fs, who| async move {
            let made = fs.0.client.mkdir(&who, parent.0, &name, mode).await;
            fs.reply_entry(reply, made);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.spawn(request, move |fs, who| async move {
            reply_empty(reply, fs.0.client.unlink(&who, parent.0, &name).await);
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.spawn(request, move |fs, who| async move {
            reply_empty(reply, fs.0.client.rmdir(&who, parent.0, &name).await);
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, text: &Path, reply: ReplyEntry) {
        let (name, text) = (name.as_bytes().to_vec(), text.as_os_str().as_bytes().to_vec());
        self.spawn(request, move |fs, who| async move {
            let made = fs.0.client.symlink(&who, parent.0, &name, &text).await;
            fs.reply_entry(reply, made);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            // RENAME_NOREPLACE, RENAME_EXCHANGE: NFSv3 has no such call.
            return reply.error(errno(Errno::EINVAL));
        }
        let (from, to) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.spawn(request, move |fs, who| async move {
            let renamed =
                fs.0.client
                    .rename(&who, (parent.0, &from), (newparent.0, &to))
                    .await;
            reply_empty(reply, renamed);
        });
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = newname.as_bytes().to_vec();
        self.spawn(request, move |fs, who| async move {
            let linked = fs.0.client.link(&who, number.0, newparent.0, &name).await;
            fs.reply_entry(reply, linked);
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (read, write) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        self.spawn(request, move |fs, who| async move {
            match fs.0.client.open(&who, number.0, read, write).await {
                Ok((inode, unchanged)) => {
                    let (handle, mut how) = fs.opened(who, &inode, flags);
                    how.set(FopenFlags::FOPEN_KEEP_CACHE, unchanged);
                    reply.opened(handle, how);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.as_bytes().to_vec();
        self.spawn(request, move |fs, who| async move {
            let exclusive = flags & libc::O_EXCL != 0;
            match fs.0.client.create(&who, parent.0, &name, mode, exclusive).await {
                Ok(Entry { inode, attr, valid }) => {
                    let attr = file_attr(inode.number, &attr);
                    let (handle, how) = fs.opened(who, &inode, OpenFlags(flags));
                    let valid = valid.min(fs.0.names_for);
                    reply.created(&valid, &attr, Generation(inode.generation), handle, how);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn flush(&self, request: &Request, number: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let exiting = exiting(request.pid());
        self.spawn_to_the_end(move |fs| async move {
            let who = fs.open_as(fh.0).who;
            let (given_back, process) = (fs.clone(), fs.0.processes.known_as(owner.0));
            let flushed = fs.0.runtime.spawn(async move {
                let safe = given_back.0.client.safe(&who, number.0).await;
                // POSIX: closing any descriptor of a file gives up all locks of the process on it.
                if let Some(locks) = given_back
                    .0
                    .locks
                    .as_ref()
                    .filter(|_| !given_back.0.local_lock.posix)
                    && let Ok(inode) = given_back.0.client.inode(number.0)
                {
                    locks.release(&who, &inode.fh, process, false).await;
                }
                safe
            });
            // The kernel lets nobody out of an exit. What a dead process has left behind goes on without it.
            let done = match exiting {
                true => tokio::time::timeout(LAST_FLUSH, flushed)
                    .await
                    .inspect_err(|_| fs.0.processes.leaves(owner.0)),
                false => Ok(flushed.await),
            };
            reply_empty(reply, done.map_or(Ok(()), |done| done.unwrap_or(Err(Errno::EIO))));
        });
    }

    fn release(
        &self,
        _request: &Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        flock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.spawn_to_the_end(move |fs| async move {
            if flock_owner.is_some()
                && let Some(locks) = fs.0.locks.as_ref().filter(|_| !fs.0.local_lock.flock)
                && let Ok(inode) = fs.0.client.inode(number.0)
            {
                let who = fs.open_as(fh.0).who;
                locks.release(&who, &inode.fh, fh.0, true).await;
            }
            let open = fs.open_as(fh.0);
            fs.0.open.remove(&fh.0);
            reply_empty(reply, fs.0.client.close(&open.who, number.0).await);
        });
    }

    fn fsync(&self, request: &Request, number: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.spawn(request, move |fs, _| async move {
            reply_empty(reply, fs.0.client.safe(&fs.open_as(fh.0).who, number.0).await);
        });
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.client.open_dir(number.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.spawn(request, move |fs, who| async move {
            let client = &fs.0.client;
            let listed = client
                .list(&who, fh.0, offset, |entry| {
                    let number = client.inodes().shown(entry.fileid);
                    let kind = entry
                        .attr
                        .map_or(FileType::RegularFile, |attr| file_type(attr.ftype));
                    reply.add(
                        INodeNo(number),
                        entry.cookie,
                        kind,
                        OsStr::from_bytes(&entry.name),
                    )
                })
                .await;
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.spawn(request, move |fs, who| async move {
            let client = &fs.0.client;
            let listed = client
                .list(&who, fh.0, offset, |entry| {
                    let name = OsStr::from_bytes(&entry.name);
                    // The kernel counts no lookup for these two, nor for a number of 0.
                    let uncounted = entry.name == b"." || entry.name == b"..";
                    let found = if uncounted { None } else { client.listed(entry) };
                    match found {
                        Some(Entry { inode, attr, valid }) => {
                            let (generation, valid) =
                                (Generation(inode.generation), valid.min(fs.0.names_for));
                            let attr = file_attr(inode.number, &attr);
                            let full = reply.add(
                                INodeNo(inode.number),
                                entry.cookie,
                                name,
                                &valid,
                                &attr,
                                generation,
                            );
                            if full {
                                client.inodes().forget(inode.number, 1);
                            }
                            full
                        }
                        None => {
                            let mut attr = file_attr(client.inodes().shown(entry.fileid), &unknown(entry));
                            if entry.attr.is_none() {
                                attr.kind = FileType::RegularFile;
                            }
                            reply.add(
                                INodeNo(0),
                                entry.cookie,
                                name,
                                &Duration::ZERO,
                                &attr,
                                Generation(0),
                            )
                        }
                    }
                })
                .await;
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.client.close_dir(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names are on the server's disk before their call is answered (RFC 1813, section 4.8).
        reply.ok();
    }

    fn statfs(&self, request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        self.spawn(request, move |fs, who| async move {
            match fs.0.client.statfs(&who, ROOT).await {
                Ok(stat) => {
                    let blocks = |bytes: u64| bytes / u64::from(BLOCK);
                    let (total, free, ours) = (blocks(stat.tbytes), blocks(stat.fbytes), blocks(stat.abytes));
                    reply.statfs(total, free, ours, stat.tfiles, stat.ffiles, BLOCK, 255, BLOCK);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }
}

/// The attributes of an entry that the server said nothing of: only the number is looked at.
fn unknown(entry: &crate::nfs::DirEntry) -> Fattr3 {
    entry.attr.unwrap_or(Fattr3 {
        ftype: Ftype3::NF3REG,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        size: 0,
        used: 0,
        rdev: Default::default(),
        fsid: 0,
        fileid: entry.fileid,
        atime: Default::default(),
        mtime: Default::default(),
        ctime: Default::default(),
    })
}

impl dev::Direct for Fs {
    async fn read(&self, request: dev::Request, read: dev::Read) -> Result<Vec<Bytes>, fuser::Errno> {
        let open = self.open_as(read.fh);
        let data = self
            .0
            .client
            .read(&open.who, request.nodeid, read.offset, read.size)
            .await;
        data.map_err(errno)
    }

    async fn write(&self, request: dev::Request, write: dev::Write) -> Result<u32, fuser::Errno> {
        let open = self.open_as(write.fh);
        let client = &self.0.client;
        let written = client.write(&open.who, request.nodeid, write.offset, write.data, open.safely);
        let len = written.await.map_err(errno)?;
        if open.direct
            && let Ok(inode) = client.inode(request.nodeid)
        {
            self.pages_are_old(&inode, write.offset, len).await;
        }
        Ok(len)
    }

    async fn getlk(
        &self,
        request: dev::Request,
        fh: u64,
        holder: LockHolder,
        lock: FileLock,
        interrupted: CancellationToken,
    ) -> Result<Conflict, fuser::Errno> {
        let locks = self.0.locks.as_ref().ok_or(fuser::Errno::ENOLCK)?;
        let inode = self.0.client.inode(request.nodeid).map_err(errno)?;
        locks
            .test(
                &self.open_as(fh).who,
                &inode.fh,
                self.0.processes.holder(fh, holder, lock.kind),
                lock,
                &interrupted,
            )
            .await
            .map_err(errno)
    }

    async fn setlk(
        &self,
        request: dev::Request,
        fh: u64,
        holder: LockHolder,
        lock: FileLock,
        wait: bool,
        interrupted: CancellationToken,
    ) -> Result<(), fuser::Errno> {
        let locks = self.0.locks.as_ref().ok_or(fuser::Errno::ENOLCK)?;
        let inode = self.0.client.inode(request.nodeid).map_err(errno)?;
        let holder = self.0.processes.holder(fh, holder, lock.kind);
        // Others are to see what was written under the lock, and we what they wrote under theirs.
        let who = self.open_as(fh).who;
        let safe = self.0.client.safe(&who, request.nodeid).await;
        if lock.kind == LockKind::Unlock {
            return locks.unlock(&who, &inode.fh, holder, lock).await.map_err(errno);
        }
        safe.map_err(errno)?;
        locks
            .lock(&who, &inode.fh, holder, lock, wait, &interrupted)
            .await
            .map_err(errno)?;
        inode.doubt();
        locks.invalidate(request.nodeid).await;
        Ok(())
    }

    fn abandoned(&self, unique: u64) {
        if let Some(operation) = self.0.under_way.get(&unique) {
            operation.cancel();
        }
    }

    fn forgotten(&self, nodeid: u64) {
        self.0.client.inodes().forget(nodeid, 1);
    }

    fn released(&self, nodeid: u64, fh: u64) {
        let this = self.clone();
        self.0.runtime.spawn(async move {
            let open = this.open_as(fh);
            this.0.open.remove(&fh);
            let _ = this.0.client.close(&open.who, nodeid).await;
        });
    }

    fn released_dir(&self, _nodeid: u64, fh: u64) {
        self.0.client.close_dir(fh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_other_holders_even_if_the_kernel_has_one_number_for_them() {
        let by = |flock| LockHolder {
            number: 77,
            flock,
            pid: 1,
        };
        let processes = Processes::default();
        let holder = |fh, flock| processes.holder(fh, by(flock), LockKind::Write);
        assert_ne!(holder(1, true), holder(2, true));
        assert_eq!(holder(1, true), holder(1, true));
        // With fcntl(2) it is the process.
        assert_eq!(holder(1, false), holder(2, false));
    }

    #[test]
    fn a_process_is_another_than_the_one_of_its_number_that_left_locks_behind() {
        let processes = Processes::default();
        let first = processes.takes(77);
        processes.leaves(77);
        // It closes its other files.
        assert_eq!(processes.known_as(77), first);
        processes.leaves(77);
        let second = processes.takes(77);
        assert_ne!(second, first);
        assert_eq!((processes.takes(77), processes.known_as(77)), (second, second));
        processes.leaves(77);
        assert!(![first, second].contains(&processes.takes(77)));
        assert_eq!(processes.takes(78), 78);
    }
}
