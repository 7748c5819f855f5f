//! GETATTR, SETATTR, LOOKUP, ACCESS, READLINK.

use super::{Nfs3, put};
use crate::cx::Cx;
use crate::perm;
use proto::nfs3::{
    Access3Args, Access3Ok, Access3Res, Diropargs3, Fattr3, Getattr3Res, Lookup3Ok, Lookup3Res, NfsFh3,
    Nfspath3, Nfsstat3, PostOpAttr, Readlink3Ok, Readlink3Res, Res3, Setattr3Args, Setattr3Res, WccData,
    access,
};
use rpc::xdr::Writer;

impl Nfs3 {
    /// GETATTR (RFC 1813, section 3.3.1).
    pub fn getattr(&self, cx: &Cx<'_>, object: NfsFh3<'_>) -> Getattr3Res {
        let attr = |fh| -> Result<Fattr3, Nfsstat3> {
            // No rights are needed, so it does not matter who asks.
            let target = self.exports.resolve_for(cx, fh)?;
            target.store().getattr(cx, &target.file)
        };
        match attr(object.0) {
            Ok(attr) => Res3::Ok(attr),
            Err(status) => Res3::Err(status, ()),
        }
    }

    /// SETATTR (RFC 1813, section 3.3.2).
    pub fn setattr(&self, cx: &Cx<'_>, args: &Setattr3Args<'_>) -> Setattr3Res {
        let file = match self.open(cx, &args.object) {
            Ok(file) => file,
            Err(status) => return Res3::Err(status, WccData::default()),
        };
        let set = || {
            file.store()
                .setattr(&file.cx(), file.file(), &args.new_attributes, args.guard)
        };
        match file.writable().and_then(|()| set()) {
            Ok(wcc) => Res3::Ok(wcc),
            Err(status) => Res3::Err(status, file.wcc()),
        }
    }

    /// LOOKUP (RFC 1813, section 3.3.3). Writes a `LOOKUP3res`.
    pub fn lookup(&self, cx: &Cx<'_>, args: &Diropargs3<'_>, w: &mut Writer) -> Nfsstat3 {
        let dir = match self.open(cx, &args.dir) {
            Ok(dir) => dir,
            Err(status) => return put(w, &Lookup3Res::Err(status, None)),
        };
        match dir.store().lookup(&dir.cx(), dir.file(), &args.name) {
            Ok(found) => {
                let handle = self.exports.seal(dir.target.export, &found.file);
                let ok = Lookup3Ok {
                    object: handle.as_bytes().into(),
                    obj_attributes: Some(found.attr),
                    dir_attributes: Some(found.dir_attr),
                };
                put(w, &Lookup3Res::Ok(ok))
            }
            Err(status) => put(w, &Lookup3Res::Err(status, dir.attr())),
        }
    }

    /// ACCESS (RFC 1813, section 3.3.4).
    pub fn access(&self, cx: &Cx<'_>, args: &Access3Args<'_>) -> Access3Res {
        let file = match self.open(cx, &args.object) {
            Ok(file) => file,
            Err(status) => return Res3::Err(status, None),
        };
        match file.store().getattr(&file.cx(), file.file()) {
            Ok(attr) => {
                let change = access::MODIFY | access::EXTEND | access::DELETE;
                let denied = if file.writable().is_err() { change } else { 0 };
                Res3::Ok(Access3Ok {
                    obj_attributes: Some(attr),
                    access: perm::granted(&file.cx().caller, &attr, args.access) & !denied,
                })
            }
            Err(status) => Res3::Err(status, None),
        }
    }

    /// READLINK (RFC 1813, section 3.3.5). Writes a `READLINK3res`.
    pub fn readlink(&self, cx: &Cx<'_>, symlink: NfsFh3<'_>, w: &mut Writer) -> Nfsstat3 {
        let fail = |w: &mut Writer, status, attr: PostOpAttr| put(w, &Readlink3Res::Err(status, attr));
        let file = match self.open(cx, &symlink) {
            Ok(file) => file,
            Err(status) => return fail(w, status, None),
        };
        match file.store().readlink(&file.cx(), file.file()) {
            Ok((text, attr)) => {
                let ok = Readlink3Ok {
                    symlink_attributes: Some(attr),
                    data: Nfspath3::from(&text[..]),
                };
                put(w, &Readlink3Res::Ok(ok))
            }
            Err(status) => fail(w, status, file.attr()),
        }
    }
}
