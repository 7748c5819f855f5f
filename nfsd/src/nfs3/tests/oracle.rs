//! The same bytes in the eyes of `nfs3_types`, an implementation by others: it must take our arguments and
//! results whole, and write them again as they were.

use super::hostile::{good_args, seeded};
use super::*;
use nfs3_types::nfs3 as oracle;
use nfs3_types::xdr_codec::{Pack, Unpack};

fn same<T: Pack + Unpack>(what: &str, bytes: &[u8]) {
    let mut rest = bytes;
    let (value, read) = T::unpack(&mut rest).unwrap_or_else(|e| panic!("{what}: {e} in {bytes:02x?}"));
    assert_eq!(read, bytes.len(), "{what}: {} bytes are left", rest.len());
    let mut again = Vec::new();
    value.pack(&mut again).unwrap();
    assert_eq!(again, bytes, "{what}");
}

/// The arguments that are sent, their good reply, and the reply to a stale handle.
fn compare<A: Pack + Unpack, R: Pack + Unpack>(procedure: Nfs3Proc) {
    let what = procedure.to_string();
    let lab = seeded();
    let args = good_args(&lab, procedure.0);
    same::<A>(&what, &args);
    let reply = |args: Vec<u8>| {
        let cx = Cx::local(Caller::ROOT, lab.now());
        let mut w = Writer::new();
        let args = Bytes::from(args);
        let status = lab.nfs.call(&cx, procedure.0, &args, &args, &mut w).unwrap();
        (status, w.into_bytes())
    };
    let (status, bytes) = reply(args.clone());
    assert_eq!(status, Nfsstat3::NFS3_OK, "{what}");
    same::<R>(&what, &bytes);

    let mut forged = args;
    forged[4..40].fill(1);
    let (status, bytes) = reply(forged);
    assert_eq!(status, Nfsstat3::NFS3ERR_BADHANDLE, "{what}");
    same::<R>(&what, &bytes);
    let mut w = Writer::new();
    fail(procedure.0, Nfsstat3::NFS3ERR_JUKEBOX, &mut w);
    same::<R>(&what, &w.into_bytes());
}

#[test]
fn attributes_and_data() {
    use Nfs3Proc as P;
    compare::<oracle::GETATTR3args, oracle::GETATTR3res>(P::NFSPROC3_GETATTR);
    compare::<oracle::SETATTR3args, oracle::SETATTR3res>(P::NFSPROC3_SETATTR);
    compare::<oracle::LOOKUP3args<'_>, oracle::LOOKUP3res>(P::NFSPROC3_LOOKUP);
    compare::<oracle::ACCESS3args, oracle::ACCESS3res>(P::NFSPROC3_ACCESS);
    compare::<oracle::READLINK3args, oracle::READLINK3res<'_>>(P::NFSPROC3_READLINK);
    compare::<oracle::READ3args, oracle::READ3res<'_>>(P::NFSPROC3_READ);
    compare::<oracle::WRITE3args<'_>, oracle::WRITE3res>(P::NFSPROC3_WRITE);
    compare::<oracle::COMMIT3args, oracle::COMMIT3res>(P::NFSPROC3_COMMIT);
}

#[test]
fn names() {
    use Nfs3Proc as P;
    compare::<oracle::CREATE3args<'_>, oracle::CREATE3res>(P::NFSPROC3_CREATE);
    compare::<oracle::MKDIR3args<'_>, oracle::MKDIR3res>(P::NFSPROC3_MKDIR);
    compare::<oracle::SYMLINK3args<'_>, oracle::SYMLINK3res>(P::NFSPROC3_SYMLINK);
    compare::<oracle::MKNOD3args<'_>, oracle::MKNOD3res>(P::NFSPROC3_MKNOD);
    compare::<oracle::REMOVE3args<'_>, oracle::REMOVE3res>(P::NFSPROC3_REMOVE);
    compare::<oracle::RMDIR3args<'_>, oracle::RMDIR3res>(P::NFSPROC3_RMDIR);
    compare::<oracle::RENAME3args<'_, '_>, oracle::RENAME3res>(P::NFSPROC3_RENAME);
    compare::<oracle::LINK3args<'_>, oracle::LINK3res>(P::NFSPROC3_LINK);
}

#[test]
fn lists_and_the_file_system() {
    use Nfs3Proc as P;
    compare::<oracle::READDIR3args, oracle::READDIR3res<'_>>(P::NFSPROC3_READDIR);
    compare::<oracle::READDIRPLUS3args, oracle::READDIRPLUS3res<'_>>(P::NFSPROC3_READDIRPLUS);
    compare::<oracle::FSSTAT3args, oracle::FSSTAT3res>(P::NFSPROC3_FSSTAT);
    compare::<oracle::FSINFO3args, oracle::FSINFO3res>(P::NFSPROC3_FSINFO);
    compare::<oracle::PATHCONF3args, oracle::PATHCONF3res>(P::NFSPROC3_PATHCONF);
}
