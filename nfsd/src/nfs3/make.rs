//! CREATE, MKDIR, SYMLINK, MKNOD.

use super::{Nfs3, Opened, put};
use crate::cx::Cx;
use crate::vfs::{Made, NewNode, Result};
use proto::nfs3::{
    Create3Args, Create3Ok, Create3Res, Ftype3, Mkdir3Args, Mknod3Args, MknodData3, Nfsstat3, Sattr3,
    Symlink3Args, WccData,
};
use rpc::xdr::Writer;

impl Nfs3 {
    /// CREATE (RFC 1813, section 3.3.8). Writes a `CREATE3res`.
    pub fn create(&self, cx: &Cx<'_>, args: &Create3Args<'_>, w: &mut Writer) -> Nfsstat3 {
        self.make(cx, &args.where_.dir, w, |dir| {
            dir.store()
                .create(&dir.cx(), dir.file(), &args.where_.name, &args.how)
        })
    }

    /// MKDIR (RFC 1813, section 3.3.9). Writes a `MKDIR3res`.
    pub fn mkdir(&self, cx: &Cx<'_>, args: &Mkdir3Args<'_>, w: &mut Writer) -> Nfsstat3 {
        self.make(cx, &args.where_.dir, w, |dir| {
            let node = NewNode::Directory;
            dir.store()
                .make(&dir.cx(), dir.file(), &args.where_.name, &node, &args.attributes)
        })
    }

    /// SYMLINK (RFC 1813, section 3.3.10). Writes a `SYMLINK3res`.
    pub fn symlink(&self, cx: &Cx<'_>, args: &Symlink3Args<'_>, w: &mut Writer) -> Nfsstat3 {
        self.make(cx, &args.where_.dir, w, |dir| {
            let node = NewNode::Symlink(&args.symlink_data);
            let attributes = &args.symlink_attributes;
            dir.store()
                .make(&dir.cx(), dir.file(), &args.where_.name, &node, attributes)
        })
    }

    /// MKNOD (RFC 1813, section 3.3.11). Writes a `MKNOD3res`. Devices are for root, as in POSIX; a type that
    /// MKNOD does not make is `NFS3ERR_BADTYPE`.
    pub fn mknod(&self, cx: &Cx<'_>, args: &Mknod3Args<'_>, w: &mut Writer) -> Nfsstat3 {
        self.make(cx, &args.where_.dir, w, |dir| {
            let (node, attributes) = node_of(&args.what)?;
            if matches!(node, NewNode::Device(..)) && !dir.cx().caller.is_root() {
                return Err(Nfsstat3::NFS3ERR_PERM);
            }
            dir.store()
                .make(&dir.cx(), dir.file(), &args.where_.name, &node, attributes)
        })
    }

    /// What the four have in common: where, and the reply.
    fn make(
        &self,
        cx: &Cx<'_>,
        dir: &[u8],
        w: &mut Writer,
        make: impl FnOnce(&Opened<'_>) -> Result<Made>,
    ) -> Nfsstat3 {
        let dir = match self.open(cx, dir) {
            Ok(dir) => dir,
            Err(status) => return put(w, &Create3Res::Err(status, WccData::default())),
        };
        match dir.writable().and_then(|()| make(&dir)) {
            Ok(made) => {
                let handle = self.exports.seal(dir.target.export, &made.file);
                let ok = Create3Ok {
                    obj: Some(handle.as_bytes().into()),
                    obj_attributes: Some(made.attr),
                    dir_wcc: made.dir_wcc,
                };
                put(w, &Create3Res::Ok(ok))
            }
            Err(status) => put(w, &Create3Res::Err(status, dir.wcc())),
        }
    }
}

fn node_of(what: &MknodData3) -> Result<(NewNode<'static>, &Sattr3)> {
    match what {
        MknodData3::Device(ftype @ (Ftype3::NF3CHR | Ftype3::NF3BLK), attributes, rdev) => {
            Ok((NewNode::Device(*ftype, *rdev), attributes))
        }
        MknodData3::Pipe(ftype @ (Ftype3::NF3SOCK | Ftype3::NF3FIFO), attributes) => {
            Ok((NewNode::Pipe(*ftype), attributes))
        }
        _ => Err(Nfsstat3::NFS3ERR_BADTYPE),
    }
}
