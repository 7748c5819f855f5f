//! The FUSE device under a real kernel: needs root and /dev/fuse.
//!
//! What happens to a process needs a process: `child` runs again in one, as the environment says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read as _, Seek, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use fuse_client::dev::{
    Conflict, Device, Direct, FileLock, LockHolder, LockKind, MAX_WRITE, MountOptions, Mounted, Notifier,
    Read, Request, Write,
};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
};
use nix::errno::Errno as Os;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
/// For what must happen, however busy the machine is.
const LONG: Duration = Duration::from_secs(20);

const ROOT: u64 = 1;
/// Locks are granted at once.
const DATA: u64 = 2;
/// A lock that may wait does, until it is interrupted. Reading is a panic.
const LOCKED: u64 = 3;
/// Its LOOKUP is not answered until the test does.
const STUCK: u64 = 4;
/// Its pages stay cached over a close.
const KEPT: u64 = 5;
/// Its reading is not answered.
const SLOW: u64 = 6;
const NAMES: [(&str, u64); 5] = [
    ("data", DATA),
    ("locked", LOCKED),
    ("stuck", STUCK),
    ("kept", KEPT),
    ("slow", SLOW),
];
const OPENED: u64 = 77;

#[derive(Debug, PartialEq)]
enum Event {
    Lock {
        node: u64,
        holder: LockHolder,
        lock: FileLock,
        wait: bool,
    },
    Interrupted {
        killed: bool,
    },
    Flushed {
        owner: u64,
    },
    Released {
        flock_owner: Option<u64>,
    },
    Stuck,
    StuckCreate,
    Slow,
    TakenBack {
        node: u64,
    },
    ClosedBack {
        node: u64,
        fh: u64,
    },
    Destroyed,
}

#[derive(Default)]
struct State {
    files: HashMap<u64, Vec<u8>>,
    reads: usize,
    largest_read: u32,
    writes: Vec<usize>,
    stuck: Vec<ReplyEntry>,
    stuck_creates: Vec<ReplyCreate>,
}

#[derive(Clone)]
struct Memory {
    state: Arc<Mutex<State>>,
    events: mpsc::Sender<Event>,
}

impl Memory {
    fn tell(&self, event: Event) {
        // A test that has seen enough does not listen.
        let _ = self.events.send(event);
    }

    fn attr(&self, node: u64) -> FileAttr {
        let size = self.state.lock().files.get(&node).map_or(0, Vec::len) as u64;
        let size = if node == SLOW || node == LOCKED { 100 } else { size };
        let kind = if node == ROOT {
            FileType::Directory
        } else {
            FileType::RegularFile
        };
        FileAttr {
            ino: INodeNo(node),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Direct for Memory {
    async fn read(&self, request: Request, read: Read) -> Result<Vec<Bytes>, Errno> {
        assert_eq!(read.fh, OPENED);
        assert_ne!(request.nodeid, LOCKED, "a panic on purpose");
        if request.nodeid == SLOW {
            self.tell(Event::Slow);
            std::future::pending::<()>().await;
        }
        let mut state = self.state.lock();
        state.reads += 1;
        state.largest_read = state.largest_read.max(read.size);
        let file = &state.files[&request.nodeid];
        let from = usize::try_from(read.offset).unwrap().min(file.len());
        let to = (from + read.size as usize).min(file.len());
        // In pieces, so that the order of pieces matters.
        Ok(file[from..to]
            .chunks(40_000)
            .map(Bytes::copy_from_slice)
            .collect())
    }

    async fn write(&self, request: Request, write: Write) -> Result<u32, Errno> {
        assert_eq!(write.fh, OPENED);
        let mut state = self.state.lock();
        state.writes.push(write.data.len());
        let file = state.files.get_mut(&request.nodeid).unwrap();
        let from = usize::try_from(write.offset).unwrap();
        let to = from + write.data.len();
        file.resize(file.len().max(to), 0);
        file[from..to].copy_from_slice(&write.data);
        Ok(u32::try_from(write.data.len()).unwrap())
    }

    async fn getlk(
        &self,
        request: Request,
        _fh: u64,
        _holder: LockHolder,
        lock: FileLock,
        _interrupted: CancellationToken,
    ) -> Result<Conflict, Errno> {
        let held = FileLock {
            start: 100,
            end: 199,
            kind: LockKind::Write,
        };
        let conflict = lock.start <= held.end && held.start <= lock.end;
        let lock = if conflict {
            held
        } else {
            FileLock {
                kind: LockKind::Unlock,
                ..lock
            }
        };
        Ok(Conflict {
            lock,
            pid: request.pid,
        })
    }

    async fn setlk(
        &self,
        request: Request,
        _fh: u64,
        holder: LockHolder,
        lock: FileLock,
        wait: bool,
        interrupted: CancellationToken,
    ) -> Result<(), Errno> {
        self.tell(Event::Lock {
            node: request.nodeid,
            holder,
            lock,
            wait,
        });
        if request.nodeid == LOCKED && wait {
            interrupted.cancelled().await;
            self.tell(Event::Interrupted {
                killed: request.killed(),
            });
            return Err(Errno::EINTR);
        }
        Ok(())
    }

    fn forgotten(&self, node: u64) {
        self.tell(Event::TakenBack { node });
    }

    fn released(&self, node: u64, fh: u64) {
        self.tell(Event::ClosedBack { node, fh });
    }

    fn released_dir(&self, node: u64, fh: u64) {
        self.released(node, fh);
    }
}

impl fuser::Filesystem for Memory {
    fn init(&mut self, _req: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.set_max_write(MAX_WRITE).unwrap();
        config
            .add_capabilities(
                InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS | InitFlags::FUSE_PARALLEL_DIROPS,
            )
            .unwrap();
        Ok(())
    }

    fn destroy(&mut self) {
        self.tell(Event::Destroyed);
    }

    fn lookup(&self, _req: &fuser::Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        assert_ne!(name, "panic", "a panic on purpose");
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, STUCK)) => {
                self.state.lock().stuck.push(reply);
                self.tell(Event::Stuck);
            }
            Some((_, node)) => reply.entry(&Duration::ZERO, &self.attr(*node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _req: &fuser::Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.state.lock().stuck_creates.push(reply);
        self.tell(Event::StuckCreate);
    }

    fn getattr(&self, _req: &fuser::Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attr(ino.0));
    }

    fn open(&self, _req: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = if ino.0 == KEPT {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        };
        reply.opened(FileHandle(OPENED), flags);
    }

    fn flush(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.tell(Event::Flushed { owner: owner.0 });
        reply.ok();
    }

    fn release(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        flock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.tell(Event::Released {
            flock_owner: flock_owner.map(|owner| owner.0),
        });
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (n, (name, node)) in (1..).zip(NAMES).skip(usize::try_from(offset).unwrap()) {
            if reply.add(INodeNo(node), n, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// A mount of [`Memory`] in a directory of its own. Fields are dropped in this order.
struct Lab {
    mounted: Option<Mounted>,
    notifier: Notifier,
    memory: Memory,
    events: mpsc::Receiver<Event>,
    runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests mount: they need root"
        );
        let dir = tempfile::tempdir().unwrap();
        let (events, happened) = mpsc::channel();
        let memory = Memory {
            state: Arc::default(),
            events,
        };
        memory
            .state
            .lock()
            .files
            .extend(NAMES.map(|(_, node)| (node, Vec::new())));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = MountOptions {
            fsname: "server:/export".to_owned(),
            ..MountOptions::default()
        };
        let device = Device::mount(dir.path(), &options).unwrap();
        let notifier = device.notifier();
        let mounted = device
            .start(Arc::new(memory.clone()), memory.clone(), runtime.handle().clone())
            .unwrap();
        Lab {
            mounted: Some(mounted),
            notifier,
            memory,
            events: happened,
            runtime,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    /// The next event that `pick` picks.
    fn wait<T>(&self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            let event = self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()));
            if let Some(picked) = pick(event.expect("the event does not happen")) {
                return picked;
            }
        }
    }

    fn expect(&self, expected: &Event) {
        self.wait(|event| (event == *expected).then_some(()));
    }

    fn is_mounted(&self) -> bool {
        is_mounted(self.dir.path())
    }
}

fn is_mounted(dir: &Path) -> bool {
    let dir = format!(" {} ", dir.canonicalize().unwrap_or(dir.to_owned()).display());
    std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .any(|line| line.contains(&dir))
}

/// A process that does something to a file; killed at the latest when the test ends.
struct Child {
    pid: Pid,
    exit: mpsc::Receiver<ExitStatus>,
    says: mpsc::Receiver<String>,
    over: bool,
}

impl Child {
    fn start(what: &str, path: &Path) -> Child {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("NFSLAB_DEVICE_CHILD", what)
            .env("NFSLAB_DEVICE_PATH", path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap());
        let (tell, exit) = mpsc::channel();
        let (say, says) = mpsc::channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        std::thread::spawn(move || {
            let _ = tell.send(process.wait().unwrap());
        });
        Child {
            pid,
            exit,
            says,
            over: false,
        }
    }

    /// To each thread: a signal for the process would go to the main one, which only waits for the test's.
    fn signal(&self, signal: Signal) {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap() {
            let thread: i32 = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
            // SAFETY: no pointers.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, self.pid.as_raw(), thread, signal as i32) };
            assert_eq!(sent, 0);
        }
    }

    /// What it exits with, if it does so in time; the errno of its system call.
    fn exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let status = self.exit.recv_timeout(within).ok();
        self.over |= status.is_some();
        status
    }

    fn said(&self, word: &str) {
        let deadline = Instant::now() + LONG;
        while !self
            .says
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .expect("it does not say so")
            .contains(word)
        {}
    }

    fn dies_of_sigkill_within_a_second(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        kill(self.pid, Signal::SIGKILL).unwrap();
        let status = self.exit(SECOND).expect("it outlives SIGKILL by a second");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.over {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

extern "C" fn nothing(_: libc::c_int) {}

fn handle(signal: Signal) {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.unwrap();
}

fn lock(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn fcntl(file: &File, command: libc::c_int, lock: &mut libc::flock) -> nix::Result<()> {
    // SAFETY: the commands used here take a pointer to such a structure.
    Os::result(unsafe { libc::fcntl(file.as_raw_fd(), command, lock) }).map(drop)
}

fn flock(file: &File, operation: libc::c_int) -> nix::Result<()> {
    // SAFETY: no pointers.
    Os::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut data = Vec::with_capacity(bytes);
    while data.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        data.extend((state >> 8).to_le_bytes());
    }
    data.truncate(bytes);
    data
}

/// Not a test by itself: what the other processes of the tests do.
#[test]
fn child() {
    let Some(what) = std::env::var_os("NFSLAB_DEVICE_CHILD") else {
        return;
    };
    let path = PathBuf::from(std::env::var_os("NFSLAB_DEVICE_PATH").unwrap());
    let errno = |error: std::io::Error| error.raw_os_error().unwrap();
    let code = match what.to_str().unwrap() {
        "setlkw" => {
            handle(Signal::SIGINT);
            fcntl(&open(&path), libc::F_SETLKW, &mut lock(libc::F_WRLCK, 5, 10))
                .err()
                .map_or(0, |e| e as i32)
        }
        "stat" => {
            handle(Signal::SIGALRM);
            path.metadata().err().map_or(0, errno)
        }
        "create" => File::create(&path).err().map_or(0, errno),
        "read" => File::open(&path)
            .unwrap()
            .read(&mut [0; 100])
            .err()
            .map_or(0, errno),
        "serve" => {
            let (events, happened) = mpsc::channel();
            let memory = Memory {
                state: Arc::default(),
                events,
            };
            let runtime = Runtime::new().unwrap();
            let device = Device::mount(&path, &MountOptions::default()).unwrap();
            let _mounted = device
                .start(Arc::new(memory.clone()), memory, runtime.handle().clone())
                .unwrap();
            println!("serving");
            while happened.recv().unwrap() != Event::Stuck {}
            println!("stuck");
            loop {
                std::thread::park();
            }
        }
        what => panic!("{what}"),
    };
    std::process::exit(code);
}

#[test]
fn what_is_negotiated_and_shown() {
    let lab = Lab::new();
    let negotiated = lab.mounted().negotiated();
    assert_eq!(negotiated.max_write, MAX_WRITE);
    assert_eq!(negotiated.max_pages, 256);
    let wanted = InitFlags::FUSE_POSIX_LOCKS
        | InitFlags::FUSE_FLOCK_LOCKS
        | InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_MAX_PAGES;
    assert_eq!(InitFlags::from_bits_retain(negotiated.flags) & wanted, wanted);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let shown = format!("server:/export {} fuse.nfslab rw,", lab.dir.path().display());
    assert!(mounts.contains(&shown), "{mounts}");
    let names: Vec<_> = std::fs::read_dir(lab.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, NAMES.map(|(name, _)| name));
}

#[test]
fn eight_mebibytes_come_through_byte_for_byte() {
    let lab = Lab::new();
    let data = pattern(8 << 20);
    let mut file = open(&lab.path("data"));
    for piece in data.chunks(1 << 20) {
        assert_eq!(file.write(piece).unwrap(), piece.len());
    }
    assert!(lab.memory.state.lock().files[&DATA] == data);
    assert_eq!(lab.memory.state.lock().writes, [1 << 20; 8]);
    // Small ones, at odd places.
    file.seek(std::io::SeekFrom::Start(12_345)).unwrap();
    file.write_all(&data[..777]).unwrap();
    drop(file);
    let mut expected = data.clone();
    expected[12_345..][..777].copy_from_slice(&data[..777]);

    // OPEN without FOPEN_KEEP_CACHE drops the pages that the writes left.
    let mut file = open(&lab.path("data"));
    let mut got = vec![0; 8 << 20];
    for piece in got.chunks_mut(1 << 20) {
        file.read_exact(piece).unwrap();
    }
    assert!(got == expected);
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(lab.memory.state.lock().largest_read, 128 << 10);

    lab.mounted().set_read_ahead(4096).unwrap();
    let mut again = Vec::new();
    open(&lab.path("data")).read_to_end(&mut again).unwrap();
    assert!(again == expected);
    assert_eq!(lab.memory.state.lock().largest_read, 1 << 20);
}

#[test]
fn flock_and_fcntl_are_told_apart() {
    let lab = Lab::new();
    let file = open(&lab.path("data"));
    let next = || {
        lab.wait(|event| match event {
            Event::Lock {
                node,
                holder,
                lock,
                wait,
            } => {
                assert_eq!(node, DATA);
                Some((holder, (lock.start, lock.end, lock.kind), wait))
            }
            _ => None,
        })
    };
    let me = std::process::id();
    let whole = |kind| (0, FileLock::EOF, kind);

    flock(&file, libc::LOCK_EX).unwrap();
    let (by_flock, lock_, wait) = next();
    assert_eq!(
        (lock_, wait, by_flock.flock, by_flock.pid),
        (whole(LockKind::Write), true, true, me)
    );
    flock(&file, libc::LOCK_SH | libc::LOCK_NB).unwrap();
    assert_eq!(next(), (by_flock, whole(LockKind::Read), false));

    fcntl(&file, libc::F_SETLK, &mut lock(libc::F_RDLCK, 10, 20)).unwrap();
    let (by_fcntl, lock_, wait) = next();
    assert_eq!(
        (lock_, wait, by_fcntl.flock, by_fcntl.pid),
        ((10, 29, LockKind::Read), false, false, me)
    );
    assert_ne!(by_fcntl.number, by_flock.number);
    fcntl(&file, libc::F_SETLKW, &mut lock(libc::F_WRLCK, 10, 0)).unwrap();
    assert_eq!(next(), (by_fcntl, (10, FileLock::EOF, LockKind::Write), true));
    fcntl(&file, libc::F_SETLK, &mut lock(libc::F_UNLCK, 12, 1)).unwrap();
    assert_eq!(
        next(),
        (
            LockHolder { pid: 0, ..by_fcntl },
            (12, 12, LockKind::Unlock),
            false
        )
    );

    let mut asked = lock(libc::F_RDLCK, 150, 10);
    fcntl(&file, libc::F_GETLK, &mut asked).unwrap();
    assert_eq!(
        (i32::from(asked.l_type), asked.l_start, asked.l_len),
        (libc::F_WRLCK, 100, 100)
    );
    assert_ne!(asked.l_pid, 0);
    let mut asked = lock(libc::F_RDLCK, 200, 10);
    fcntl(&file, libc::F_GETLK, &mut asked).unwrap();
    assert_eq!(i32::from(asked.l_type), libc::F_UNLCK);

    // Closing: FLUSH says whose fcntl locks go, RELEASE whose flock.
    drop(file);
    lab.expect(&Event::Flushed {
        owner: by_fcntl.number,
    });
    lab.expect(&Event::Released {
        flock_owner: Some(by_flock.number),
    });
    drop(open(&lab.path("data")));
    lab.expect(&Event::Released { flock_owner: None });
}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let lab = Lab::new();
    let waits = |child: &Child| {
        let (holder, lock, wait) = lab.wait(|event| match event {
            Event::Lock {
                holder, lock, wait, ..
            } => Some((holder, lock, wait)),
            _ => None,
        });
        assert_eq!(holder.pid, u32::try_from(child.pid.as_raw()).unwrap());
        assert_eq!(
            (lock.start, lock.end, lock.kind, wait),
            (5, 14, LockKind::Write, true)
        );
    };
    let mut child = Child::start("setlkw", &lab.path("locked"));
    waits(&child);
    child.signal(Signal::SIGINT);
    assert_eq!(
        child.exit(SECOND).expect("it goes on waiting").code(),
        Some(libc::EINTR)
    );
    lab.expect(&Event::Interrupted { killed: false });

    let mut child = Child::start("setlkw", &lab.path("locked"));
    waits(&child);
    child.dies_of_sigkill_within_a_second();
    lab.expect(&Event::Interrupted { killed: true });
    lab.mounted().unmount().unwrap();
}

#[test]
fn only_sigkill_ends_a_stat() {
    let lab = Lab::new();
    let mut child = Child::start("stat", &lab.path("stuck"));
    lab.expect(&Event::Stuck);
    child.signal(Signal::SIGALRM);
    assert_eq!(
        child.exit(Duration::from_millis(700)),
        None,
        "SIGALRM ended a stat"
    );
    // The kernel has sent its one INTERRUPT: this one is seen by looking.
    child.dies_of_sigkill_within_a_second();

    // And without a signal before.
    let mut child = Child::start("stat", &lab.path("stuck"));
    lab.expect(&Event::Stuck);
    child.dies_of_sigkill_within_a_second();

    // A SIGALRM that only comes late does no harm: the answer arrives.
    let mut child = Child::start("stat", &lab.path("stuck"));
    lab.expect(&Event::Stuck);
    child.signal(Signal::SIGALRM);
    let mut replies = std::mem::take(&mut lab.memory.state.lock().stuck);
    replies
        .pop()
        .unwrap()
        .entry(&Duration::ZERO, &lab.memory.attr(STUCK), Generation(0));
    assert_eq!(child.exit(LONG).unwrap().code(), Some(0));

    // What the first two would have counted is given back; a failure counts nothing.
    replies.pop().unwrap().error(Errno::ENOENT);
    replies
        .pop()
        .unwrap()
        .entry(&Duration::ZERO, &lab.memory.attr(STUCK), Generation(0));
    lab.expect(&Event::TakenBack { node: STUCK });
    lab.mounted().unmount().unwrap();
    assert!(!lab.is_mounted());
    assert!(
        !lab.events
            .try_iter()
            .any(|event| matches!(event, Event::TakenBack { .. }))
    );
}

#[test]
fn what_a_killed_caller_created_is_closed() {
    let lab = Lab::new();
    let mut child = Child::start("create", &lab.path("new"));
    lab.expect(&Event::StuckCreate);
    child.dies_of_sigkill_within_a_second();
    let reply = lab.memory.state.lock().stuck_creates.pop().unwrap();
    let attr = lab.memory.attr(42);
    reply.created(
        &Duration::ZERO,
        &attr,
        Generation(0),
        FileHandle(43),
        FopenFlags::empty(),
    );
    lab.expect(&Event::TakenBack { node: 42 });
    lab.expect(&Event::ClosedBack { node: 42, fh: 43 });
    lab.mounted().unmount().unwrap();
}

#[test]
fn a_reader_can_be_killed_and_a_panic_is_an_error() {
    let lab = Lab::new();
    let mut child = Child::start("read", &lab.path("slow"));
    lab.expect(&Event::Slow);
    child.dies_of_sigkill_within_a_second();

    let error = open(&lab.path("locked")).read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

#[test]
fn invalidate_makes_the_kernel_ask_again() {
    let lab = Lab::new();
    lab.memory.state.lock().files.insert(KEPT, b"before".to_vec());
    let read = || std::fs::read_to_string(lab.path("kept")).unwrap();
    let reads = || lab.memory.state.lock().reads;
    assert_eq!(read(), "before");
    let asked = reads();
    lab.memory.state.lock().files.insert(KEPT, b"behind".to_vec());
    assert_eq!(
        (read().as_str(), reads()),
        ("before", asked),
        "not cached: the test shows nothing"
    );
    lab.notifier.invalidate(KEPT, 0, 0).unwrap();
    assert_eq!(read(), "behind");
    assert!(reads() > asked);

    lab.notifier.invalidate_entry(ROOT, OsStr::new("kept")).unwrap();
    lab.notifier.invalidate(4711, 0, 0).unwrap();
    lab.notifier
        .invalidate_entry(ROOT, OsStr::new("never seen"))
        .unwrap();
    lab.mounted().unmount().unwrap();
    lab.runtime.block_on(lab.mounted().ended());
    lab.notifier.invalidate(KEPT, 0, 0).unwrap();
}

#[test]
fn an_unmount_by_others_ends_it() {
    let mut lab = Lab::new();
    let open_file = open(&lab.path("data"));
    assert_eq!(
        lab.mounted().unmount().unwrap_err().raw_os_error(),
        Some(libc::EBUSY)
    );
    drop(open_file);
    // RELEASE comes after close(2), and the mount is busy until then.
    lab.expect(&Event::Released { flock_owner: None });
    assert!(
        Command::new("umount")
            .arg(lab.dir.path())
            .status()
            .unwrap()
            .success()
    );
    lab.runtime
        .block_on(async { tokio::time::timeout(LONG, lab.mounted().ended()).await })
        .unwrap();
    lab.mounted().unmount().unwrap();
    lab.mounted.take().unwrap().join().unwrap();
    lab.expect(&Event::Destroyed);
}

#[test]
fn a_panic_of_the_file_system_ends_the_mount() {
    let mut lab = Lab::new();
    let mut waiting = Child::start("stat", &lab.path("stuck"));
    lab.expect(&Event::Stuck);
    assert!(lab.path("panic").metadata().is_err());
    lab.runtime
        .block_on(async { tokio::time::timeout(LONG, lab.mounted().ended()).await })
        .unwrap();
    assert_ne!(waiting.exit(LONG).unwrap().code(), Some(0));
    assert!(!lab.is_mounted());
    assert!(lab.mounted.take().unwrap().join().is_err());
}

#[test]
fn dropping_unmounts_whoever_is_inside() {
    let mut lab = Lab::new();
    let mut waiting = Child::start("stat", &lab.path("stuck"));
    lab.expect(&Event::Stuck);
    let mut locking = Child::start("setlkw", &lab.path("locked"));
    lab.wait(|event| matches!(event, Event::Lock { .. }).then_some(()));
    lab.mounted = None;
    assert!(!lab.is_mounted());
    lab.expect(&Event::Interrupted { killed: false });
    assert_ne!(waiting.exit(LONG).unwrap().code(), Some(0));
    assert_ne!(locking.exit(LONG).unwrap().code(), Some(0));
}

#[test]
fn a_device_that_is_never_started_unmounts() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::mount(dir.path(), &MountOptions::default()).unwrap();
    assert!(is_mounted(dir.path()));
    drop(device);
    assert!(!is_mounted(dir.path()));
}

#[test]
fn sigkill_of_the_server_ends_its_callers() {
    let dir = tempfile::tempdir().unwrap();
    /// Unmounts what the killed server left.
    struct Leftover<'a>(&'a Path);
    impl Drop for Leftover<'_> {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    let _leftover = Leftover(dir.path());
    let mut server = Child::start("serve", dir.path());
    server.said("serving");
    let mut caller = Child::start("stat", &dir.path().join("stuck"));
    server.said("stuck");
    server.dies_of_sigkill_within_a_second();
    let code = caller.exit(SECOND).expect("it waits for a dead server").code();
    assert!(
        code == Some(libc::ENOTCONN) || code == Some(libc::ECONNABORTED),
        "{code:?}"
    );
    let error = std::fs::metadata(dir.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
}
