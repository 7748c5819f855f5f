//! How fast the device is by itself: mounts one file of 64 GiB on the directory given, `zeros`, whose reads are zeros and
//! whose writes go nowhere, until it is unmounted.
//!
//! ```text
//! cargo run --release -p nfslab-fuse-client --example nothing -- /mnt &
//! dd if=/mnt/zeros of=/dev/null bs=1M count=8192
//! dd if=/dev/zero of=/mnt/zeros bs=1M count=8192 conv=notrunc
//! ```

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use fuse_client::dev::{
    Conflict, Device, Direct, FileLock, LockHolder, LockKind, MAX_WRITE, MountOptions, Read, Request, Write,
};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, KernelConfig, LockOwner, ReplyAttr,
    ReplyEmpty, ReplyEntry,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

struct Nothing(Bytes);

impl Direct for Nothing {
    async fn read(&self, _request: Request, read: Read) -> Result<Vec<Bytes>, Errno> {
        Ok(vec![self.0.slice(..read.size as usize)])
    }

    async fn write(&self, _request: Request, write: Write) -> Result<u32, Errno> {
        Ok(u32::try_from(write.data.len()).unwrap_or(u32::MAX))
    }

    async fn getlk(
        &self,
        _request: Request,
        _fh: u64,
        _holder: LockHolder,
        lock: FileLock,
        _interrupted: CancellationToken,
    ) -> Result<Conflict, Errno> {
        Ok(Conflict {
            lock: FileLock {
                kind: LockKind::Unlock,
                ..lock
            },
            pid: 0,
        })
    }

    async fn setlk(
        &self,
        _request: Request,
        _fh: u64,
        _holder: LockHolder,
        _lock: FileLock,
        _wait: bool,
        _interrupted: CancellationToken,
    ) -> Result<(), Errno> {
        Ok(())
    }

    fn forgotten(&self, _nodeid: u64) {}
    fn released(&self, _nodeid: u64, _fh: u64) {}
    fn released_dir(&self, _nodeid: u64, _fh: u64) {}
}

struct OneFile;

const TTL: Duration = Duration::from_secs(1);

fn attr(ino: INodeNo) -> FileAttr {
    FileAttr {
        ino,
        size: 64 << 30,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if ino.0 == 1 {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl fuser::Filesystem for OneFile {
    fn init(&mut self, _req: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let most = config.set_max_readahead(MAX_WRITE).err();
        eprintln!("max_readahead offered by the kernel: {most:?} (None: at least 1 MiB)");
        config
            .set_max_write(MAX_WRITE)
            .map(drop)
            .map_err(|_| std::io::ErrorKind::InvalidInput.into())
    }

    fn lookup(&self, _req: &fuser::Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "zeros" {
            reply.entry(&TTL, &attr(INodeNo(2)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &fuser::Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
    }

    fn flush(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or(anyhow::anyhow!("where to mount?"))?;
    let options = MountOptions {
        fsname: "nothing".to_owned(),
        ..MountOptions::default()
    };
    let zeros = Bytes::from(vec![0; MAX_WRITE as usize]);
    let mounted =
        Device::mount(&dir, &options)?.start(Arc::new(Nothing(zeros)), OneFile, Handle::current())?;
    eprintln!("{:?}", mounted.negotiated());
    tokio::select! {
        () = mounted.ended() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
