//! From the kernel's errors to the protocol's (RFC 1813, section 2.6), in one table.

use proto::nfs3::Nfsstat3;
use rustix::io::Errno;

/// The status for an error of a system call on a file that was found.
pub(super) fn status(error: Errno) -> Nfsstat3 {
    match error {
        Errno::PERM => Nfsstat3::NFS3ERR_PERM,
        Errno::NOENT => Nfsstat3::NFS3ERR_NOENT,
        Errno::NXIO => Nfsstat3::NFS3ERR_NXIO,
        // Busy: a mount point, or something that a local program keeps. Linux knfsd answers the same.
        Errno::ACCESS | Errno::BUSY | Errno::TXTBSY => Nfsstat3::NFS3ERR_ACCES,
        Errno::EXIST => Nfsstat3::NFS3ERR_EXIST,
        Errno::XDEV => Nfsstat3::NFS3ERR_XDEV,
        Errno::NODEV => Nfsstat3::NFS3ERR_NODEV,
        Errno::NOTDIR => Nfsstat3::NFS3ERR_NOTDIR,
        Errno::ISDIR => Nfsstat3::NFS3ERR_ISDIR,
        Errno::INVAL => Nfsstat3::NFS3ERR_INVAL,
        Errno::FBIG | Errno::OVERFLOW => Nfsstat3::NFS3ERR_FBIG,
        Errno::NOSPC => Nfsstat3::NFS3ERR_NOSPC,
        Errno::ROFS => Nfsstat3::NFS3ERR_ROFS,
        Errno::MLINK => Nfsstat3::NFS3ERR_MLINK,
        Errno::NAMETOOLONG => Nfsstat3::NFS3ERR_NAMETOOLONG,
        Errno::NOTEMPTY => Nfsstat3::NFS3ERR_NOTEMPTY,
        Errno::DQUOT => Nfsstat3::NFS3ERR_DQUOT,
        Errno::STALE => Nfsstat3::NFS3ERR_STALE,
        Errno::OPNOTSUPP | Errno::NOSYS => Nfsstat3::NFS3ERR_NOTSUPP,
        // Out of memory or descriptors: the client should come again.
        Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN => Nfsstat3::NFS3ERR_JUKEBOX,
        _ => Nfsstat3::NFS3ERR_IO,
    }
}

/// The status when a file could not be opened by its handle: whatever the kernel says of a handle that it made
/// itself, the file is gone. Only shortage is something else.
pub(super) fn status_of_handle(error: Errno) -> Nfsstat3 {
    match error {
        Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::IO | Errno::ROFS | Errno::TXTBSY => status(error),
        _ => Nfsstat3::NFS3ERR_STALE,
    }
}

/// The status when a name could not be opened. `EXDEV` and `ELOOP` are the refusal to leave the file system or to
/// follow a link.
pub(super) fn status_of_name(error: Errno) -> Nfsstat3 {
    match error {
        Errno::XDEV | Errno::LOOP => Nfsstat3::NFS3ERR_ACCES,
        other => status(other),
    }
}
