//! READ, WRITE, COMMIT, READLINK.

use super::DirFs;
use super::errors::status;
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{self, Pieces, ReadData, Result, Written};
use bytes::Bytes;
use proto::nfs3::{Fattr3, Ftype3, Nfsstat3, StableHow, WccData};
use rustix::buffer::spare_capacity;
use rustix::fs::{OFlags, fdatasync, fsync, readlinkat};
use rustix::io::{Errno, pread, pwrite};
use std::os::fd::{AsFd, BorrowedFd};

impl DirFs {
    /// READLINK. As memfs it asks for no permission.
    pub(super) fn read_symlink(&self, file: &FileKey) -> Result<(Bytes, Fattr3)> {
        let node = self.node(file)?;
        if node.attr.ftype != Ftype3::NF3LNK {
            return Err(Nfsstat3::NFS3ERR_INVAL);
        }
        let text = readlinkat(&node.fd, c"", Vec::new()).map_err(status)?;
        Ok((text.into_bytes().into(), node.stat()?))
    }

    /// READ.
    pub(super) fn read_data(&self, cx: &Cx<'_>, file: &FileKey, offset: u64, count: u32) -> Result<ReadData> {
        let node = self.node(file)?;
        node.must_be_file()?;
        perm::may_read(&cx.caller, &node.attr)?;
        // What is not there needs no buffer.
        let there = node.attr.size.saturating_sub(offset);
        let wanted = u64::from(count).min(there) as usize;
        let mut data = Vec::with_capacity(wanted);
        if wanted > 0 {
            let open = self.reopen(&node, OFlags::RDONLY)?;
            read_up_to(open.as_fd(), offset, wanted, &mut data).map_err(status)?;
        }
        let attr = node.stat()?;
        let count = data.len() as u32;
        let mut pieces = Pieces::new();
        if !data.is_empty() {
            pieces.push(data.into());
        }
        Ok(ReadData {
            attr,
            count,
            eof: offset.saturating_add(u64::from(count)) >= attr.size,
            data: pieces,
        })
    }

    /// WRITE. What finds no room is not written, and `count` says so; if nothing does, `NFS3ERR_NOSPC`.
    pub(super) fn write_data(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        offset: u64,
        data: &Bytes,
        stable: StableHow,
    ) -> Result<Written> {
        let node = self.node(file)?;
        node.must_be_file()?;
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.limits.file_size_max) {
            return Err(Nfsstat3::NFS3ERR_FBIG);
        }
        let held = self.hold(&node);
        let before = node.stat()?;
        perm::may_write(&cx.caller, &before)?;
        let open = self.reopen(&node, OFlags::WRONLY)?;
        let count = write_all(open.as_fd(), offset, data).map_err(status)?;
        let mode = perm::mode_after_write(&cx.caller, &before);
        if count > 0 && mode != before.mode {
            self.chmod(&node, mode)?;
        }
        let after = node.stat()?;
        // The disk may take its time; others need not wait for it.
        drop(held);
        match stable {
            StableHow::UNSTABLE => {}
            StableHow::DATA_SYNC => fdatasync(&open).map_err(status)?,
            _ => fsync(&open).map_err(status)?,
        }
        Ok(Written {
            wcc: vfs::wcc(vfs::wcc_attr(&before), &after),
            count: count as u32,
            committed: stable,
        })
    }

    /// COMMIT: the whole file, whatever range is asked for.
    pub(super) fn commit_data(&self, cx: &Cx<'_>, file: &FileKey) -> Result<WccData> {
        let node = self.node(file)?;
        node.must_be_file()?;
        perm::may_write(&cx.caller, &node.attr)?;
        fdatasync(self.reopen(&node, OFlags::WRONLY)?).map_err(status)?;
        // It changes nothing, so one look is both before and after.
        let attr = node.stat()?;
        Ok(vfs::wcc(vfs::wcc_attr(&attr), &attr))
    }
}

/// Reads `wanted` bytes, or to the end of the file.
fn read_up_to(fd: BorrowedFd<'_>, offset: u64, wanted: usize, data: &mut Vec<u8>) -> rustix::io::Result<()> {
    while data.len() < wanted {
        let at = offset + data.len() as u64;
        match pread(fd, spare_capacity(data), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(wanted);
    Ok(())
}

/// Writes everything, or what could be written before an error; the error if that is nothing.
fn write_all(fd: BorrowedFd<'_>, offset: u64, data: &[u8]) -> rustix::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match pwrite(fd, rest, offset + done as u64) {
            Ok(0) => return if done > 0 { Ok(done) } else { Err(Errno::NOSPC) },
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}
