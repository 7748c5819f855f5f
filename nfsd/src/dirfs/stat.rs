//! Attributes: from statx, and back by chown, chmod, truncate and utimensat.

use super::DirFs;
use super::errors::status;
use super::names::drop_verifier;
use super::node::Node;
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm::{self, Change};
use crate::vfs::{self, Result};
use proto::nfs3::{Fattr3, Ftype3, Nfsstat3, Nfstime3, Sattr3, SetTime, Specdata3, WccData};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, StatxFlags, StatxTimestamp, Timespec, Timestamps, Uid, chmod,
    chownat, fsync, ftruncate, statx, utimensat,
};
use rustix::fs::{UTIME_NOW, UTIME_OMIT};
use std::os::fd::BorrowedFd;

/// Bytes of the unit in which stat counts what a file takes.
const SECTOR: u64 = 512;

/// The attributes of an open file.
pub(super) fn attributes(fd: BorrowedFd<'_>, fsid: u64) -> rustix::io::Result<Fattr3> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let stat = statx(fd, c"", flags, StatxFlags::BASIC_STATS)?;
    Ok(Fattr3 {
        ftype: match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Ftype3::NF3DIR,
            FileType::Symlink => Ftype3::NF3LNK,
            FileType::BlockDevice => Ftype3::NF3BLK,
            FileType::CharacterDevice => Ftype3::NF3CHR,
            FileType::Socket => Ftype3::NF3SOCK,
            FileType::Fifo => Ftype3::NF3FIFO,
            _ => Ftype3::NF3REG,
        },
        mode: u32::from(stat.stx_mode) & perm::MODE_BITS,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: stat.stx_size,
        used: stat.stx_blocks * SECTOR,
        rdev: Specdata3 {
            specdata1: stat.stx_rdev_major,
            specdata2: stat.stx_rdev_minor,
        },
        fsid,
        fileid: stat.stx_ino,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
    })
}

/// `nfstime3` counts from 1970 to 2106; what lies outside becomes the nearer end.
fn time(t: StatxTimestamp) -> Nfstime3 {
    Nfstime3 {
        seconds: t.tv_sec.clamp(0, u32::MAX.into()) as u32,
        nseconds: t.tv_nsec,
    }
}

/// A time for utimensat. The server's time is the kernel's clock, which also sets the times of every WRITE: by two
/// clocks a file could seem older after a change.
fn timespec(set: SetTime) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match set {
        SetTime::DontChange => special(UTIME_OMIT),
        SetTime::ServerTime => special(UTIME_NOW),
        SetTime::ClientTime(t) => Timespec {
            tv_sec: t.seconds.into(),
            tv_nsec: t.nseconds.into(),
        },
    }
}

impl DirFs {
    /// SETATTR.
    pub(super) fn set_attributes(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        new: &Sattr3,
        guard: Option<Nfstime3>,
    ) -> Result<WccData> {
        let node = self.node(file)?;
        let _held = self.hold(&node);
        let before = node.stat()?;
        if guard.is_some_and(|ctime| ctime != before.ctime) {
            return Err(Nfsstat3::NFS3ERR_NOT_SYNC);
        }
        let change = perm::plan_setattr(&cx.caller, &before, new, cx.now())?;
        self.apply(&node, &change, new)?;
        drop_verifier(&node);
        let after = node.stat()?;
        self.settle(&node)?;
        Ok(vfs::wcc(vfs::wcc_attr(&before), &after))
    }

    /// Does what a plan says, what may fail for want of room first. `times` says how times are set; the time of a new
    /// size is the kernel's affair.
    pub(super) fn apply(&self, node: &Node, change: &Change, times: &Sattr3) -> Result<()> {
        if let Some(size) = change.size {
            ftruncate(self.reopen(node, OFlags::WRONLY)?, size).map_err(status)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            self.chown(node, change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode {
            self.chmod(node, mode)?;
        }
        if times.atime != SetTime::DontChange || times.mtime != SetTime::DontChange {
            let times = Timestamps {
                last_access: timespec(times.atime),
                last_modification: timespec(times.mtime),
            };
            utimensat(&node.fd, c"", &times, AtFlags::EMPTY_PATH).map_err(status)?;
        }
        Ok(())
    }

    /// Sets owner and group.
    pub(super) fn chown(&self, node: &Node, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        // -1 would mean "leave it".
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Nfsstat3::NFS3ERR_INVAL);
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(&node.fd, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(status)
    }

    /// Sets the mode; a symbolic link has none that could be set.
    pub(super) fn chmod(&self, node: &Node, mode: u32) -> Result<()> {
        if node.attr.ftype == Ftype3::NF3LNK {
            return Ok(());
        }
        chmod(node.proc_path(), Mode::from_raw_mode(mode)).map_err(status)
    }

    /// Brings a change of attributes or entries to stable storage, as RFC 1813 wants it before the reply (section
    /// 4.8). Of symbolic links, devices and pipes there is nothing that could be told to; their directory is.
    pub(super) fn settle(&self, node: &Node) -> Result<()> {
        if !matches!(node.attr.ftype, Ftype3::NF3DIR | Ftype3::NF3REG) {
            return Ok(());
        }
        fsync(self.reopen(node, OFlags::RDONLY)?).map_err(status)
    }
}
