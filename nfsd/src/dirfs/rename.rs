//! RENAME (RFC 1813, section 3.3.14): one `rename` of the kernel, which is atomic to every observer. The rules about who
//! may are ours, those about the shape of the tree the kernel's.

use super::DirFs;
use super::errors::status;
use super::names::{is_same, search};
use super::node::Node;
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{self, NameUse, Result};
use proto::nfs3::{Ftype3, Nfsstat3, Rename3Wcc};
use rustix::fs::renameat;

/// One end of a RENAME.
struct End<'a> {
    dir: Node,
    name: &'a [u8],
}

impl DirFs {
    /// RENAME.
    pub(super) fn rename_entry(
        &self,
        cx: &Cx<'_>,
        (from_dir, from_name): (&FileKey, &[u8]),
        (to_dir, to_name): (&FileKey, &[u8]),
    ) -> Result<Rename3Wcc> {
        vfs::check_name(from_name, NameUse::Rename)?;
        vfs::check_name(to_name, NameUse::Rename)?;
        let mut from = End {
            dir: self.node(from_dir)?,
            name: from_name,
        };
        let mut to = End {
            dir: self.node(to_dir)?,
            name: to_name,
        };
        from.dir.must_be_dir()?;
        to.dir.must_be_dir()?;
        let _held = self.locks.two_dirs(from.dir.attr.fileid, to.dir.attr.fileid);
        from.dir.attr = from.dir.stat()?;
        to.dir.attr = to.dir.stat()?;
        let before = (vfs::wcc_attr(&from.dir.attr), vfs::wcc_attr(&to.dir.attr));
        if self.may_rename(cx, &from, &to)? {
            renameat(&from.dir.fd, from.name, &to.dir.fd, to.name).map_err(status)?;
            self.settle(&from.dir)?;
            if !is_same(&from.dir.attr, &to.dir.attr) {
                self.settle(&to.dir)?;
            }
        }
        Ok(Rename3Wcc {
            fromdir_wcc: vfs::wcc(before.0, &from.dir.stat()?),
            todir_wcc: vfs::wcc(before.1, &to.dir.stat()?),
        })
    }

    /// The rights. False if both names are one file's already: then RENAME does nothing and succeeds, as POSIX wants it.
    fn may_rename(&self, cx: &Cx<'_>, from: &End<'_>, to: &End<'_>) -> Result<bool> {
        search(cx, &from.dir)?;
        search(cx, &to.dir)?;
        let source = self.child(&from.dir, from.name)?;
        let target = self.child_if_any(&to.dir, to.name)?;
        if target.as_ref().is_some_and(|t| is_same(&t.attr, &source.attr)) {
            return Ok(false);
        }
        let is_dir = |node: &Node| node.attr.ftype == Ftype3::NF3DIR;
        perm::may_take_away(&cx.caller, &from.dir.attr, &source.attr)?;
        if is_dir(&source) && !is_same(&from.dir.attr, &to.dir.attr) {
            // Its ".." changes.
            perm::require(&cx.caller, &source.attr, perm::WRITE)?;
        }
        perm::may_add(&cx.caller, &to.dir.attr)?;
        let Some(target) = target else { return Ok(true) };
        match (is_dir(&source), is_dir(&target)) {
            (true, false) => Err(Nfsstat3::NFS3ERR_NOTDIR),
            (false, true) => Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => perm::may_take_away(&cx.caller, &to.dir.attr, &target.attr).map(|()| true),
        }
    }
}
