//! The FUSE device: between the kernel and [`fuser`].
//!
//! ```text
//!            /dev/fuse              SOCK_SEQPACKET
//!   kernel ←───────────→ this file ←──────────────→ fuser::Session → fuser::Filesystem
//!                            ↑
//!                            └ READ, WRITE, locks → Direct
//! ```
//!
//! It does what `fuser` 0.18 cannot: data without further copies, flock told from fcntl, and interrupts. A caller that
//! is killed is let go (EINTR) whoever has its request; a caller that only has a signal pending is not, except from a
//! lock. The answer that comes later is dropped, and what it would have given the kernel is handed back
//! ([`Direct::forgotten`], [`Direct::released`]).
//!
//! What cannot be let go, seen on Linux 6.18: FLUSH of a process that is already exiting, since the kernel interrupts
//! no exit; and who waits for a page that a READ without an answer has locked, if not killably: open(2) without
//! FOPEN_KEEP_CACHE does (fuse_open, invalidate_inode_pages2). Readahead is a request of nobody: killing its reader
//! sets the reader free, not the pages. So [`Direct::read`] should come to an end, be it with an error.
//!
//! When this process dies, by whatever, the kernel ends all calls with an error at once; the mount point then says
//! ENOTCONN until it is unmounted. No process must inherit the descriptor (it has O_CLOEXEC).

mod buffers;
mod direct;
mod kernel;
mod relay;
mod wire;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recv, setsockopt, socketpair, sockopt,
};
use nix::unistd::{getgid, getuid};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use direct::{Conflict, Direct, FileLock, LockHolder, LockKind, Read, Request, Write};
use kernel::Kernel;
use relay::{MESSAGE_MAX, Relay, send_all};
pub use wire::Negotiated;
use wire::{FUSE_INIT, InHeader, parse_out};

/// What one READ or WRITE carries at most, in bytes: 256 pages, more than which Linux does not allow unless
/// fs.fuse.max_pages_limit is raised. To be set in [`fuser::Filesystem::init`]: `fuser` asks for 16 MiB by itself, and
/// every buffer here has that size.
pub const MAX_WRITE: u32 = 1 << 20;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// What /proc/mounts shows as the source: `host:/export`. Empty, which the kernel refuses, becomes `nfslab`.
    pub fsname: String,
    /// Other users than the mounter's may look in. Without, even root may not.
    pub allow_other: bool,
    /// The kernel checks modes by itself and asks no ACCESS.
    pub default_permissions: bool,
    /// MS_RDONLY.
    pub read_only: bool,
    /// MS_NOSUID.
    pub nosuid: bool,
    /// MS_NODEV.
    pub nodev: bool,
    /// MS_NOEXEC.
    pub noexec: bool,
    /// MS_NOATIME.
    pub noatime: bool,
}

/// A mount that nobody serves yet: who looks into it waits. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Device {
    mount: Held,
}

impl Device {
    /// Mounts on the directory `dir`, as type `fuse.nfslab`.
    ///
    /// # Errors
    ///
    /// EPERM without CAP_SYS_ADMIN, ENOENT without /dev/fuse or `dir`, ENOTDIR.
    pub fn mount(dir: &Path, options: &MountOptions) -> io::Result<Device> {
        let point = fs::canonicalize(dir)?;
        if !fs::metadata(&point)?.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        let kernel = Kernel::open()?;
        let mut data = format!(
            "fd={},rootmode=40000,user_id={},group_id={}",
            kernel.raw(),
            getuid().as_raw(),
            getgid().as_raw()
        );
        for (set, name) in [
            (options.allow_other, ",allow_other"),
            (options.default_permissions, ",default_permissions"),
        ] {
            if set {
                data.push_str(name);
            }
        }
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_RDONLY, options.read_only);
        flags.set(MsFlags::MS_NOSUID, options.nosuid);
        flags.set(MsFlags::MS_NODEV, options.nodev);
        flags.set(MsFlags::MS_NOEXEC, options.noexec);
        flags.set(MsFlags::MS_NOATIME, options.noatime);
        let fsname = if options.fsname.is_empty() {
            "nfslab"
        } else {
            &options.fsname
        };
        mount(
            Some(fsname),
            &point,
            Some("fuse.nfslab"),
            flags,
            Some(data.as_str()),
        )?;
        let mount = Mount {
            point,
            kernel: Arc::new(kernel),
            ended: CancellationToken::new(),
        };
        Ok(Device {
            mount: Held(Arc::new(mount)),
        })
    }

    /// To tell the kernel of changes. May be had before [`Device::start`], for the file system to keep.
    pub fn notifier(&self) -> Notifier {
        Notifier(self.mount.0.kernel.clone())
    }

    /// Serves the mount: `filesystem` through `fuser`, on a thread of its own, the rest by `direct` on `runtime`.
    ///
    /// Returns when `filesystem` has been initialized. Its methods must not block: there is one thread for them, and
    /// when a few hundred requests wait for it all others do too.
    ///
    /// # Errors
    ///
    /// What [`fuser::Filesystem::init`] says, and of threads and sockets. The mount is then gone.
    pub fn start<D: Direct, F: fuser::Filesystem>(
        self,
        direct: Arc<D>,
        filesystem: F,
        runtime: Handle,
    ) -> io::Result<Mounted> {
        let mount = self.mount;
        let (ours, fusers) = pair()?;
        let (tell, told) = mpsc::sync_channel(1);
        let of_session = mount.0.clone();
        let session = thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                // The kernel has checked who may look in.
                let all = fuser::SessionACL::All;
                match fuser::Session::from_fd(filesystem, fusers, all, fuser::Config::default()) {
                    Ok(session) => {
                        let _ = tell.send(Ok(()));
                        let result = session.run();
                        if let Err(error) = &result {
                            tracing::error!(%error, "the file system's thread has ended");
                        }
                        // Nobody answers any more: better no mount than callers that hang.
                        of_session.abort();
                        result
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        Ok(())
                    }
                }
            })?;
        // `from_fd` waits for INIT and answers it before it returns.
        let negotiated = handshake(&mount.0.kernel, &ours);
        told.recv()
            .unwrap_or_else(|_| Err(io::Error::other("the file system panicked in init")))?;
        let negotiated = negotiated?;
        let relay = Arc::new(Relay::new(
            mount.0.kernel.clone(),
            ours,
            direct,
            runtime,
            mount.0.ended.clone(),
        ));
        let for_answers = relay.clone();
        let of_requests = mount.0.clone();
        thread::Builder::new()
            .name("fuse-answers".to_owned())
            .spawn(move || for_answers.answers())?;
        thread::Builder::new()
            .name("fuse-requests".to_owned())
            .spawn(move || relay.requests(negotiated.max_write, || of_requests.abort()))?;
        Ok(Mounted {
            mount,
            negotiated,
            session,
        })
    }
}

/// A mount that is served. Dropped, it is unmounted by force: callers get an error, mapped pages that are not yet
/// written are lost. [`Mounted::unmount`] is the gentle way.
#[derive(Debug)]
pub struct Mounted {
    mount: Held,
    negotiated: Negotiated,
    session: JoinHandle<io::Result<()>>,
}

impl Mounted {
    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.mount.0.point
    }

    /// What the kernel and the file system agreed on.
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// To tell the kernel of changes.
    pub fn notifier(&self) -> Notifier {
        Notifier(self.mount.0.kernel.clone())
    }

    /// How far the kernel reads ahead in a file that is read in order, in KiB; 128 unless said. INIT's `max_readahead`
    /// can only make it less, so it is said where an administrator would, in /sys/class/bdi. What one READ asks for
    /// is still no more than `max_pages`.
    ///
    /// # Errors
    ///
    /// Without root, without /sys, and ENOENT if the mount has gone.
    pub fn set_read_ahead(&self, kib: u32) -> io::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let device = device_number(&mounts, self.point()).ok_or(Errno::ENOENT)?;
        fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
    }

    /// Unmounts as umount(8) does; nothing if that has happened. Mapped pages are written first, which waits for
    /// [`Direct::write`]: not to be called on the only thread of the runtime that runs it.
    ///
    /// # Errors
    ///
    /// EBUSY: a process has a file or a working directory there. [`Mounted::detach`] or dropping does not care.
    pub fn unmount(&self) -> io::Result<()> {
        self.mount.0.unmount(MntFlags::empty())
    }

    /// Takes the mount out of the tree of names at once; it is served, and [`Mounted::ended`] waits, until the last
    /// file in it is closed (MNT_DETACH). Otherwise as [`Mounted::unmount`].
    pub fn detach(&self) -> io::Result<()> {
        self.mount.0.unmount(MntFlags::MNT_DETACH)
    }

    /// Waits until the kernel has ended the mount: by us, by umount(8), or because the file system gave up.
    pub async fn ended(&self) {
        self.mount.0.ended.cancelled().await;
    }

    /// Unmounts by force, as dropping does, and waits until the file system's `destroy` has returned. Blocks.
    ///
    /// # Errors
    ///
    /// What ended `fuser`'s session before its time.
    pub fn join(self) -> io::Result<()> {
        let Mounted { mount, session, .. } = self;
        drop(mount);
        session
            .join()
            .map_err(|_| io::Error::other("the file system panicked"))?
    }
}

/// Tells the kernel of changes that it did not make. Keeps the connection open, not the mount.
#[derive(Clone, Debug)]
pub struct Notifier(Arc<Kernel>);

impl Notifier {
    /// FUSE_NOTIFY_INVAL_INODE: forget the node's attributes and its cached pages from `offset` on, `len` bytes; a
    /// `len` of 0 is to the end, a negative `offset` spares the pages. Dirty mapped pages are written first.
    ///
    /// Blocks while a page is locked, as it is by a READ or a write-back under way: a thread that should answer one of
    /// those would wait for itself. Call it from `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// None if the kernel does not know the node or the mount has ended.
    pub fn invalidate(&self, nodeid: u64, offset: i64, len: i64) -> io::Result<()> {
        self.0.invalidate(nodeid, offset, len)
    }

    /// FUSE_NOTIFY_INVAL_ENTRY: forget what `name` in the directory `parent` is, and the directory's attributes.
    ///
    /// Blocks while the kernel holds the directory locked, as it does during LOOKUP, CREATE, UNLINK and the like:
    /// call it from `spawn_blocking`, never before those are answered.
    ///
    /// # Errors
    ///
    /// ENAMETOOLONG. None if the kernel does not know the name or the mount has ended.
    pub fn invalidate_entry(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        self.0.invalidate_entry(parent, name)
    }
}

/// What there is as long as one is mounted.
#[derive(Debug)]
struct Mount {
    /// Absolute.
    point: PathBuf,
    kernel: Arc<Kernel>,
    ended: CancellationToken,
}

impl Mount {
    fn unmount(&self, flags: MntFlags) -> io::Result<()> {
        if self.ended.is_cancelled() {
            // Whatever is mounted there now is not ours.
            return Ok(());
        }
        Ok(umount2(&self.point, flags | MntFlags::UMOUNT_NOFOLLOW)?)
    }

    /// MNT_FORCE ends the connection before anything is waited for; MNT_DETACH does not mind open files.
    fn abort(&self) {
        match self.unmount(MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
            // EINVAL: another unmount came first.
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {}
            Err(error) => tracing::warn!(%error, point = %self.point.display(), "unmounting"),
        }
    }
}

/// Unmounts when dropped.
#[derive(Debug)]
struct Held(Arc<Mount>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The device number (`0:53`) of what is mounted on `point`, by /proc/self/mountinfo: stat(2) would ask ourselves.
fn device_number<'a>(mountinfo: &'a str, point: &Path) -> Option<&'a str> {
    // As the kernel writes it (proc_pid_mountinfo(5)).
    let mut escaped = point.to_str()?.replace('\\', "\\134");
    for (special, code) in [(' ', "\\040"), ('\t', "\\011"), ('\n', "\\012")] {
        escaped = escaped.replace(special, code);
    }
    let mut found = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        if let (Some(device), Some(at)) = (fields.nth(2), fields.nth(1))
            && at == escaped
        {
            // The last is on top.
            found = Some(device);
        }
    }
    found
}

/// A pair of sockets that keep messages apart as /dev/fuse does, with room for [`MESSAGE_MAX`].
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, fusers) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    for end in [&ours, &fusers] {
        // As root whatever net.core.wmem_max says. The kernel doubles it.
        let forced = setsockopt(end, sockopt::SndBufForce, &MESSAGE_MAX);
        forced.or_else(|_| setsockopt(end, sockopt::SndBuf, &MESSAGE_MAX))?;
        if getsockopt(end, sockopt::SndBuf)? <= MESSAGE_MAX {
            return Err(io::Error::other(format!(
                "net.core.wmem_max is too small: messages have up to {MESSAGE_MAX} bytes"
            )));
        }
    }
    Ok((ours, fusers))
}

/// Takes INIT to `fuser` and its answer back, both as they are.
fn handshake(kernel: &Kernel, fuser: &OwnedFd) -> io::Result<Negotiated> {
    let mut request = BytesMut::with_capacity(MAX_WRITE as usize + 4096);
    kernel.read(&mut request)?;
    let unreadable = |_| io::Error::new(io::ErrorKind::InvalidData, "INIT is too short");
    let (header, _) = InHeader::parse(&request).map_err(unreadable)?;
    if header.opcode != FUSE_INIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel did not begin with INIT",
        ));
    }
    send_all(fuser, &request)?;
    let mut answer = vec![0; MESSAGE_MAX];
    let n = loop {
        match recv(fuser.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            n => break n?,
        }
    };
    let answer = answer.get(..n).unwrap_or_default();
    let (error, unique, body) = parse_out(answer).map_err(unreadable)?;
    kernel.forward(unique, answer);
    match error {
        0 => Negotiated::parse(body).map_err(unreadable),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_of_a_point_is_found() {
        let mountinfo = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                         60 25 0:50 / /mnt/a\\040b rw,relatime shared:1 - fuse.nfslab a:/b rw\n\
                         61 60 0:51 / /mnt/a\\040b rw,relatime - fuse.nfslab a:/b rw\n";
        assert_eq!(device_number(mountinfo, Path::new("/mnt/a b")), Some("0:51"));
        assert_eq!(device_number(mountinfo, Path::new("/")), Some("8:1"));
        assert_eq!(device_number(mountinfo, Path::new("/mnt")), None);
    }
}
