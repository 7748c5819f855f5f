//! READDIR and READDIRPLUS: the kernel's own entries, with its own positions as cookies.
//!
//! Those positions stay valid while the directory changes, on every file system that knfsd can export: it does the same
//! (ext4: a hash of the name; tmpfs, xfs, btrfs: a number that the entry keeps).

use super::DirFs;
use super::errors::status;
use super::node::Node;
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{DirEntry, DirPosition, DirSink, Result};
use proto::nfs3::{Fattr3, Nfsstat3};
use rustix::fs::{OFlags, RawDir, SeekFrom, seek};
use std::os::fd::AsFd;

/// Bytes of entries that are asked for at once; an entry has at most 280.
const BUFFER: usize = 32 << 10;

impl DirFs {
    /// READDIR and READDIRPLUS. Without the right to search the directory there are no handles and attributes in it.
    pub(super) fn list(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        from: DirPosition,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool> {
        let dir = self.node(dir)?;
        dir.must_be_dir()?;
        perm::require(&cx.caller, &dir.attr, perm::READ)?;
        let plus = plus && perm::permits(&cx.caller, &dir.attr, perm::EXECUTE);
        let verifier = self.cookie_verifier(dir.attr.fileid);
        let open = self.reopen(&dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if from.cookie != 0 {
            // Quirk(linux 5.10): as in memfs, a cookie may come with a verifier of zeros.
            let foreign = from.verifier != 0 && from.verifier != verifier;
            if foreign || from.cookie > i64::MAX as u64 {
                return Err(Nfsstat3::NFS3ERR_BAD_COOKIE);
            }
            seek(&open, SeekFrom::Start(from.cookie)).map_err(|_| Nfsstat3::NFS3ERR_BAD_COOKIE)?;
        }
        sink.start(&dir.attr, verifier);
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut entries = RawDir::new(&open, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(status)?;
            let name = entry.file_name().to_bytes();
            // The root's ".." is itself: what is above is nobody's business.
            let above_root = name == b".." && dir.attr.fileid == self.root_ino;
            let taken = sink.entry(&DirEntry {
                fileid: if above_root { self.root_ino } else { entry.ino() },
                name,
                cookie: entry.next_entry_cookie(),
                plus: if plus { self.plus(&dir, name) } else { None },
            });
            if !taken {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Key and attributes of an entry; none of one that has just gone, or that something is mounted on.
    fn plus(&self, dir: &Node, name: &[u8]) -> Option<(FileKey, Fattr3)> {
        let node = match name {
            b"." => return Some((self.key_of(dir.fd.as_fd()).ok()?, dir.attr)),
            b".." => self.parent(dir).ok()?,
            _ => self.child(dir, name).ok()?,
        };
        Some((self.key_of(node.fd.as_fd()).ok()?, node.attr))
    }

    /// Belongs to one directory, for ever. Not 0, which clients send that have none.
    fn cookie_verifier(&self, ino: u64) -> u64 {
        (self.tag ^ ino.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
    }
}
