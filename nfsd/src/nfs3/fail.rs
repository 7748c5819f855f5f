//! A procedure's failure without the procedure: for whoever wants a call to fail.

use proto::nfs3::{
    Access3Res, Commit3Res, Create3Res, Fsinfo3Res, Fsstat3Res, Getattr3Res, Link3Res, Link3Wcc, Lookup3Res,
    Nfs3Proc, Nfsstat3, Pathconf3Res, Readdir3Res, Readlink3Res, Remove3Res, Rename3Res, Rename3Wcc,
    Setattr3Res, WccData, Write3Res,
};
use rpc::xdr::{Encode, Writer};

/// Appends a well-formed reply of `procedure` with this status and without optional data. Returns whether the
/// procedure can fail: NULL, and those that do not exist, get nothing.
///
/// Any number will do as a status, also one that RFC 1813 does not have; only `NFS3_OK` has another form, and
/// becomes `NFS3ERR_SERVERFAULT`.
pub fn fail(procedure: u32, status: Nfsstat3, w: &mut Writer) -> bool {
    let status = match status {
        Nfsstat3::NFS3_OK => Nfsstat3::NFS3ERR_SERVERFAULT,
        other => other,
    };
    let wcc = WccData::default();
    match Nfs3Proc(procedure) {
        Nfs3Proc::NFSPROC3_GETATTR => Getattr3Res::Err(status, ()).encode(w),
        Nfs3Proc::NFSPROC3_SETATTR => Setattr3Res::Err(status, wcc).encode(w),
        Nfs3Proc::NFSPROC3_LOOKUP => Lookup3Res::Err(status, None).encode(w),
        Nfs3Proc::NFSPROC3_ACCESS => Access3Res::Err(status, None).encode(w),
        Nfs3Proc::NFSPROC3_READLINK | Nfs3Proc::NFSPROC3_READ => Readlink3Res::Err(status, None).encode(w),
        Nfs3Proc::NFSPROC3_WRITE => Write3Res::Err(status, wcc).encode(w),
        Nfs3Proc::NFSPROC3_CREATE
        | Nfs3Proc::NFSPROC3_MKDIR
        | Nfs3Proc::NFSPROC3_SYMLINK
        | Nfs3Proc::NFSPROC3_MKNOD => Create3Res::Err(status, wcc).encode(w),
        Nfs3Proc::NFSPROC3_REMOVE | Nfs3Proc::NFSPROC3_RMDIR => Remove3Res::Err(status, wcc).encode(w),
        Nfs3Proc::NFSPROC3_RENAME => Rename3Res::Err(status, Rename3Wcc::default()).encode(w),
        Nfs3Proc::NFSPROC3_LINK => Link3Res::Err(status, Link3Wcc::default()).encode(w),
        Nfs3Proc::NFSPROC3_READDIR | Nfs3Proc::NFSPROC3_READDIRPLUS => {
            Readdir3Res::Err(status, None).encode(w)
        }
        Nfs3Proc::NFSPROC3_FSSTAT => Fsstat3Res::Err(status, None).encode(w),
        Nfs3Proc::NFSPROC3_FSINFO => Fsinfo3Res::Err(status, None).encode(w),
        Nfs3Proc::NFSPROC3_PATHCONF => Pathconf3Res::Err(status, None).encode(w),
        Nfs3Proc::NFSPROC3_COMMIT => Commit3Res::Err(status, wcc).encode(w),
        _ => return false,
    }
    true
}
