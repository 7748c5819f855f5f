//! Names are found, come and go: LOOKUP, CREATE, MKDIR, SYMLINK, MKNOD, LINK, REMOVE, RMDIR.
//!
//! Each that changes something holds the directory's lock from the first look to the last.

use super::DirFs;
use super::errors::status;
use super::limits::VERIFIERS;
use super::node::{Node, removal};
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{self, Found, Made, NameUse, NewNode, Result, SYMLINK_MAX};
use proto::nfs3::{
    CreateHow3, Fattr3, Ftype3, Link3Wcc, NFS3_CREATEVERFSIZE, Nfsstat3, Sattr3, Specdata3, WccData,
};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, fsetxattr, getxattr, linkat, makedev, mkdirat, mknodat,
    openat, removexattr, symlinkat, unlinkat,
};
use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::os::fd::AsFd;

/// Most of a device's major and minor number: `dev_t` of Linux has 12 and 20 bits.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

type Verifier = [u8; NFS3_CREATEVERFSIZE];

/// Where the verifier of an exclusive CREATE is kept with the file until the first SETATTR, which clients send after it:
/// an attribute that only the administrator sees. A CREATE that is repeated after a restart so finds its file.
///
/// knfsd hides the verifier in the file's times, where other programs wonder.
const VERIFIER: &CStr = c"trusted.nfslab.verifier";

/// The verifiers of the latest exclusive CREATEs, for copies that come after the SETATTR, and for file systems and
/// processes that cannot have [`VERIFIER`].
#[derive(Debug, Default)]
pub(super) struct Verifiers {
    by_file: HashMap<FileKey, Verifier>,
    order: VecDeque<FileKey>,
}

impl Verifiers {
    fn remember(&mut self, file: FileKey, verifier: Verifier) {
        if self.order.len() >= VERIFIERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_file.remove(&oldest);
        }
        self.order.push_back(file);
        self.by_file.insert(file, verifier);
    }

    fn made(&self, file: &FileKey, verifier: &Verifier) -> bool {
        self.by_file.get(file) == Some(verifier)
    }
}

impl DirFs {
    /// LOOKUP.
    pub(super) fn find(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<Found> {
        vfs::check_name(name, NameUse::Find)?;
        let dir = self.node(dir)?;
        search(cx, &dir)?;
        let dir_attr = dir.attr;
        let found = match name {
            b"." => dir,
            b".." => self.parent(&dir)?,
            _ => self.child(&dir, name)?,
        };
        Ok(Found {
            file: self.key_of(found.fd.as_fd())?,
            attr: found.attr,
            dir_attr,
        })
    }

    /// A directory that is about to change, its lock, and its attributes since it is held.
    fn directory(&self, dir: &FileKey) -> Result<(Node, super::Held<'_>)> {
        let mut dir = self.node(dir)?;
        dir.must_be_dir()?;
        let held = self.hold(&dir);
        dir.attr = dir.stat()?;
        Ok((dir, held))
    }

    /// CREATE.
    pub(super) fn create_file(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        how: &CreateHow3,
    ) -> Result<Made> {
        vfs::check_name(name, NameUse::Make)?;
        let (dir, _held) = self.directory(dir)?;
        search(cx, &dir)?;
        if let Some(existing) = self.child_if_any(&dir, name)? {
            return self.reuse(cx, &dir, &existing, how);
        }
        let nothing = Sattr3::default();
        let (attributes, verifier) = match how {
            CreateHow3::Unchecked(attributes) | CreateHow3::Guarded(attributes) => (attributes, None),
            CreateHow3::Exclusive(verifier) => (&nothing, Some(*verifier)),
        };
        let made = self.add(cx, &dir, name, Ftype3::NF3REG, attributes, || {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&dir.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
            if let Some(verifier) = &verifier {
                let _ = fsetxattr(&file, VERIFIER, verifier, XattrFlags::CREATE);
            }
            Ok(())
        })?;
        if let Some(verifier) = verifier {
            self.verifiers.lock().remember(made.file, verifier);
        }
        Ok(made)
    }

    /// CREATE of a name that exists (RFC 1813, section 3.3.8), as memfs.
    fn reuse(&self, cx: &Cx<'_>, dir: &Node, existing: &Node, how: &CreateHow3) -> Result<Made> {
        const EXIST: Nfsstat3 = Nfsstat3::NFS3ERR_EXIST;
        if existing.attr.ftype != Ftype3::NF3REG {
            return Err(EXIST);
        }
        let file = self.key_of(existing.fd.as_fd())?;
        let _held = self.hold(existing);
        match how {
            CreateHow3::Unchecked(Sattr3 { size: Some(size), .. }) => {
                let new = Sattr3 {
                    size: Some(*size),
                    ..Sattr3::default()
                };
                let change = perm::plan_setattr(&cx.caller, &existing.stat()?, &new, cx.now())?;
                self.apply(existing, &change, &new)?;
                self.settle(existing)?;
            }
            CreateHow3::Unchecked(_) => {}
            CreateHow3::Exclusive(verifier)
                if self.verifiers.lock().made(&file, verifier)
                    || kept_verifier(existing) == Some(*verifier) => {}
            CreateHow3::Guarded(_) | CreateHow3::Exclusive(_) => return Err(EXIST),
        }
        Ok(Made {
            file,
            attr: existing.stat()?,
            dir_wcc: vfs::wcc(vfs::wcc_attr(&dir.attr), &dir.attr),
        })
    }

    /// MKDIR, SYMLINK, MKNOD.
    pub(super) fn make_node(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        new: &NewNode<'_>,
        attributes: &Sattr3,
    ) -> Result<Made> {
        vfs::check_name(name, NameUse::Make)?;
        check_new(new)?;
        let (dir, _held) = self.directory(dir)?;
        search(cx, &dir)?;
        if self.child_if_any(&dir, name)?.is_some() {
            return Err(Nfsstat3::NFS3ERR_EXIST);
        }
        let private = Mode::RUSR | Mode::WUSR;
        self.add(cx, &dir, name, new.ftype(), attributes, || match new {
            NewNode::Directory => mkdirat(&dir.fd, name, private | Mode::XUSR),
            NewNode::Symlink(text) => symlinkat(*text, &dir.fd, name),
            NewNode::Device(ftype, rdev) => {
                let dev = makedev(rdev.specdata1, rdev.specdata2);
                mknodat(&dir.fd, name, file_type(*ftype), private, dev)
            }
            NewNode::Pipe(ftype) => mknodat(&dir.fd, name, file_type(*ftype), private, 0),
        })
    }

    /// Makes a file under a name that is free, gives it to whom it belongs, and takes it away again if that fails. Until
    /// then only its owner, root, may use it.
    fn add(
        &self,
        cx: &Cx<'_>,
        dir: &Node,
        name: &[u8],
        ftype: Ftype3,
        attributes: &Sattr3,
        make: impl FnOnce() -> rustix::io::Result<()>,
    ) -> Result<Made> {
        perm::may_add(&cx.caller, &dir.attr)?;
        let identity = perm::identity_of_new(&cx.caller, &dir.attr, ftype, attributes);
        let mut change = perm::change_of_new(ftype, attributes, cx.now())?;
        (change.mode, change.uid, change.gid) = (Some(identity.mode), Some(identity.uid), Some(identity.gid));
        make().map_err(status)?;
        let finish = || {
            let node = self.child(dir, name)?;
            if node.attr.ftype != ftype {
                // A local program was quicker: what is there now is not ours.
                return Err(Nfsstat3::NFS3ERR_EXIST);
            }
            self.apply(&node, &change, attributes)?;
            self.settle(&node)?;
            self.settle(dir)?;
            Ok(Made {
                file: self.key_of(node.fd.as_fd())?,
                attr: node.stat()?,
                dir_wcc: vfs::wcc(vfs::wcc_attr(&dir.attr), &dir.stat()?),
            })
        };
        finish().inspect_err(|&error| {
            if error != Nfsstat3::NFS3ERR_EXIST {
                let _ = unlinkat(&dir.fd, name, removal(ftype == Ftype3::NF3DIR));
            }
        })
    }

    /// LINK. To a directory: `NFS3ERR_ISDIR`, as memfs.
    pub(super) fn add_link(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        dir: &FileKey,
        name: &[u8],
    ) -> Result<Link3Wcc> {
        vfs::check_name(name, NameUse::Make)?;
        let file = self.node(file)?;
        if file.attr.ftype == Ftype3::NF3DIR {
            return Err(Nfsstat3::NFS3ERR_ISDIR);
        }
        let (dir, _held) = self.directory(dir)?;
        search(cx, &dir)?;
        if self.child_if_any(&dir, name)?.is_some() {
            return Err(Nfsstat3::NFS3ERR_EXIST);
        }
        perm::may_add(&cx.caller, &dir.attr)?;
        linkat(&file.fd, c"", &dir.fd, name, AtFlags::EMPTY_PATH).map_err(status)?;
        self.settle(&dir)?;
        Ok(Link3Wcc {
            file_attributes: Some(file.stat()?),
            linkdir_wcc: vfs::wcc(vfs::wcc_attr(&dir.attr), &dir.stat()?),
        })
    }

    /// REMOVE, and RMDIR if `directory`. REMOVE of a directory is `NFS3ERR_ISDIR`, as memfs.
    pub(super) fn take_away(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        directory: bool,
    ) -> Result<WccData> {
        let (dir, _held) = self.directory(dir)?;
        search(cx, &dir)?;
        let victim = self.child(&dir, name)?;
        match (directory, victim.attr.ftype == Ftype3::NF3DIR) {
            (true, false) => return Err(Nfsstat3::NFS3ERR_NOTDIR),
            (false, true) => return Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => {}
        }
        perm::may_take_away(&cx.caller, &dir.attr, &victim.attr)?;
        unlinkat(&dir.fd, name, removal(directory)).map_err(status)?;
        self.settle(&dir)?;
        Ok(vfs::wcc(vfs::wcc_attr(&dir.attr), &dir.stat()?))
    }
}

/// The verifier that is kept with a file.
fn kept_verifier(node: &Node) -> Option<Verifier> {
    let mut verifier = Verifier::default();
    let len = getxattr(node.proc_path(), VERIFIER, &mut verifier).ok()?;
    (len == verifier.len()).then_some(verifier)
}

/// The file has got its attributes: its verifier need not be kept with it any longer.
pub(super) fn drop_verifier(node: &Node) {
    if node.attr.ftype == Ftype3::NF3REG {
        let _ = removexattr(node.proc_path(), VERIFIER);
    }
}

/// The directory must be one, and searchable, before anything about its names is told.
pub(super) fn search(cx: &Cx<'_>, dir: &Node) -> Result<()> {
    dir.must_be_dir()?;
    perm::require(&cx.caller, &dir.attr, perm::EXECUTE)
}

/// A link's text: as Linux, neither empty nor longer than a path, and without NUL. A device's numbers: what Linux can
/// keep.
fn check_new(new: &NewNode<'_>) -> Result<()> {
    match new {
        NewNode::Symlink([]) => Err(Nfsstat3::NFS3ERR_INVAL),
        NewNode::Symlink(text) if text.len() > SYMLINK_MAX => Err(Nfsstat3::NFS3ERR_NAMETOOLONG),
        NewNode::Symlink(text) if text.contains(&0) => Err(Nfsstat3::NFS3ERR_INVAL),
        NewNode::Device(_, Specdata3 { specdata1, specdata2 })
            if *specdata1 > MAJOR_MAX || *specdata2 > MINOR_MAX =>
        {
            Err(Nfsstat3::NFS3ERR_INVAL)
        }
        _ => Ok(()),
    }
}

fn file_type(ftype: Ftype3) -> FileType {
    match ftype {
        Ftype3::NF3CHR => FileType::CharacterDevice,
        Ftype3::NF3BLK => FileType::BlockDevice,
        Ftype3::NF3SOCK => FileType::Socket,
        Ftype3::NF3FIFO => FileType::Fifo,
        _ => FileType::Unknown,
    }
}

/// Whether two attributes are one file's.
pub(super) fn is_same(a: &Fattr3, b: &Fattr3) -> bool {
    a.fileid == b.fileid
}
