//! Every procedure that nfslab serves, each with arguments as an example and the decoder of its arguments.
//!
//! The tests of hostile bytes send each example with one thing wrong; the fuzzer starts from them.

use bytes::Bytes;
use proto::mount::{self, MountProc, MountProc1};
use proto::nfs3::{self, Nfs3Proc};
use proto::nlm::{self, NlmProc};
use proto::nsm::{self, SmProc};
use proto::portmap::{self, IpProto, Mapping, PmapProc};
use proto::rpcbind::{self, Netbuf, Rpcb, RpcbProc, RpcbRmtcallargs};
use rpc::xdr::{self, Decode, Reader};

/// A program, and the versions of it that nfslab speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its number.
    pub number: u32,
    /// Lowest version.
    pub low: u32,
    /// Highest.
    pub high: u32,
    /// The first procedure number that no version has.
    pub beyond: u32,
}

/// The five programs, in the order of `faults::Service::ALL`.
pub const PROGRAMS: [Program; 5] = [
    Program {
        number: portmap::PROGRAM,
        low: 2,
        high: 4,
        beyond: 13,
    },
    Program {
        number: mount::PROGRAM,
        low: 1,
        high: 3,
        beyond: 8,
    },
    Program {
        number: nfs3::PROGRAM,
        low: 3,
        high: 3,
        beyond: 22,
    },
    Program {
        number: nlm::PROGRAM,
        low: 1,
        high: 4,
        beyond: 24,
    },
    Program {
        number: nsm::PROGRAM,
        low: 1,
        high: 1,
        beyond: 7,
    },
];

/// A procedure.
#[derive(Debug, Clone, Copy)]
pub struct Procedure {
    /// Its name in the specification.
    pub name: &'static str,
    /// The number of its program.
    pub program: u32,
    /// The program's version.
    pub version: u32,
    /// Its own number.
    pub number: u32,
    /// How many opaque items, strings and arrays its arguments have: words that announce a length.
    pub lengths: usize,
    /// Whether every call of it succeeds if its arguments can be decoded. Calls to be forwarded do not: CALLIT
    /// (BCAST) is never answered, INDIRECT always refused with PROC_UNAVAIL. Nor does NLM's SM_NOTIFY, which
    /// only the status monitor of the same host may make.
    pub answered: bool,
    /// Arguments as an example, for the file or directory with this handle.
    pub example: fn(fh: &[u8]) -> Bytes,
    /// Decodes arguments and checks, by panicking, that they encode to as many bytes and decode from those
    /// to the same value.
    pub decode: fn(args: &[u8]) -> xdr::Result<()>,
}

macro_rules! procedures {
    ($($program:ident::$version:ident {
        $($proc:ident::$name:ident, $ty:ty, $lengths:literal, |$fh:pat_param| $example:expr;)*
    })*) => {
        &[$($(Procedure {
            name: stringify!($name),
            program: $program::PROGRAM,
            version: $program::$version,
            number: $proc::$name.0,
            lengths: $lengths,
            answered: is_answered($program::PROGRAM, $proc::$name.0),
            example: |$fh: &[u8]| {
                let example: $ty = $example;
                xdr::to_bytes(&example)
            },
            decode: |args: &[u8]| {
                let mut r = Reader::new(args);
                let value = <$ty>::decode(&mut r)?;
                let again = xdr::to_bytes(&value);
                assert_eq!(again.len(), r.offset(), "{}: {value:?}", stringify!($name));
                assert_eq!(xdr::from_bytes::<$ty>(&again).as_ref(), Ok(&value));
                Ok(())
            },
        },)*)*]
    };
}

/// CALLIT (BCAST) fails in silence, INDIRECT is refused; NLM's SM_NOTIFY from a port that anyone may use is answered SYSTEM_ERR.
const fn is_answered(program: u32, procedure: u32) -> bool {
    !matches!(
        (program, procedure),
        (portmap::PROGRAM, 5 | 10) | (nlm::PROGRAM, 16)
    )
}

/// All of them.
pub const PROCEDURES: &[Procedure] = procedures! {
    nfs3::V3 {
        Nfs3Proc::NFSPROC3_NULL, (), 0, |_| ();
        Nfs3Proc::NFSPROC3_GETATTR, nfs3::Getattr3Args<'_>, 1, |fh| fh.into();
        Nfs3Proc::NFSPROC3_SETATTR, nfs3::Setattr3Args<'_>, 1, |fh| nfs3::Setattr3Args {
            object: fh.into(),
            new_attributes: sattr(),
            guard: None,
        };
        Nfs3Proc::NFSPROC3_LOOKUP, nfs3::Diropargs3<'_>, 2, |fh| name(fh, "some file");
        Nfs3Proc::NFSPROC3_ACCESS, nfs3::Access3Args<'_>, 1, |fh| nfs3::Access3Args {
            object: fh.into(),
            access: nfs3::access::ALL,
        };
        Nfs3Proc::NFSPROC3_READLINK, nfs3::NfsFh3<'_>, 1, |fh| fh.into();
        Nfs3Proc::NFSPROC3_READ, nfs3::Read3Args<'_>, 1, |fh| nfs3::Read3Args {
            file: fh.into(),
            offset: 0,
            count: 4096,
        };
        Nfs3Proc::NFSPROC3_WRITE, nfs3::Write3Args<'_>, 2, |fh| nfs3::Write3Args {
            file: fh.into(),
            offset: 0,
            count: 5,
            stable: nfs3::StableHow::FILE_SYNC,
            data: "bytes".into(),
        };
        Nfs3Proc::NFSPROC3_CREATE, nfs3::Create3Args<'_>, 2, |fh| nfs3::Create3Args {
            where_: name(fh, "some file"),
            how: nfs3::CreateHow3::Unchecked(sattr()),
        };
        Nfs3Proc::NFSPROC3_MKDIR, nfs3::Mkdir3Args<'_>, 2, |fh| nfs3::Mkdir3Args {
            where_: name(fh, "directory"),
            attributes: sattr(),
        };
        Nfs3Proc::NFSPROC3_SYMLINK, nfs3::Symlink3Args<'_>, 3, |fh| nfs3::Symlink3Args {
            where_: name(fh, "link"),
            symlink_attributes: sattr(),
            symlink_data: "some file".into(),
        };
        Nfs3Proc::NFSPROC3_MKNOD, nfs3::Mknod3Args<'_>, 2, |fh| nfs3::Mknod3Args {
            where_: name(fh, "device"),
            what: nfs3::MknodData3::Device(
                nfs3::Ftype3::NF3CHR,
                sattr(),
                nfs3::Specdata3 { specdata1: 1, specdata2: 3 },
            ),
        };
        Nfs3Proc::NFSPROC3_REMOVE, nfs3::Remove3Args<'_>, 2, |fh| name(fh, "link");
        Nfs3Proc::NFSPROC3_RMDIR, nfs3::Remove3Args<'_>, 2, |fh| name(fh, "directory");
        Nfs3Proc::NFSPROC3_RENAME, nfs3::Rename3Args<'_>, 4, |fh| nfs3::Rename3Args {
            from: name(fh, "some file"),
            to: name(fh, "other"),
        };
        Nfs3Proc::NFSPROC3_LINK, nfs3::Link3Args<'_>, 3, |fh| nfs3::Link3Args {
            file: fh.into(),
            link: name(fh, "hard link"),
        };
        Nfs3Proc::NFSPROC3_READDIR, nfs3::Readdir3Args<'_>, 1, |fh| nfs3::Readdir3Args {
            dir: fh.into(),
            cookie: 0,
            cookieverf: [0; 8],
            count: 4096,
        };
        Nfs3Proc::NFSPROC3_READDIRPLUS, nfs3::Readdirplus3Args<'_>, 1, |fh| nfs3::Readdirplus3Args {
            dir: fh.into(),
            cookie: 0,
            cookieverf: [0; 8],
            dircount: 1024,
            maxcount: 4096,
        };
        Nfs3Proc::NFSPROC3_FSSTAT, nfs3::NfsFh3<'_>, 1, |fh| fh.into();
        Nfs3Proc::NFSPROC3_FSINFO, nfs3::NfsFh3<'_>, 1, |fh| fh.into();
        Nfs3Proc::NFSPROC3_PATHCONF, nfs3::NfsFh3<'_>, 1, |fh| fh.into();
        Nfs3Proc::NFSPROC3_COMMIT, nfs3::Commit3Args<'_>, 1, |fh| nfs3::Commit3Args {
            file: fh.into(),
            offset: 0,
            count: 0,
        };
    }
    mount::V3 {
        MountProc::MOUNTPROC3_NULL, (), 0, |_| ();
        MountProc::MOUNTPROC3_MNT, mount::DirPath<'_>, 1, |_| "/lab".into();
        MountProc::MOUNTPROC3_DUMP, (), 0, |_| ();
        MountProc::MOUNTPROC3_UMNT, mount::DirPath<'_>, 1, |_| "/lab".into();
        MountProc::MOUNTPROC3_UMNTALL, (), 0, |_| ();
        MountProc::MOUNTPROC3_EXPORT, (), 0, |_| ();
    }
    portmap::V2 {
        PmapProc::PMAPPROC_NULL, (), 0, |_| ();
        PmapProc::PMAPPROC_SET, Mapping, 0, |_| mapping(400_000);
        PmapProc::PMAPPROC_UNSET, Mapping, 0, |_| mapping(400_000);
        PmapProc::PMAPPROC_GETPORT, Mapping, 0, |_| mapping(nfs3::PROGRAM);
        PmapProc::PMAPPROC_DUMP, (), 0, |_| ();
        // Never answered when it fails (RFC 1833, section 3.2), and it always fails here, whatever its arguments are.
        PmapProc::PMAPPROC_CALLIT, (), 0, |_| ();
    }
    nlm::V4 {
        NlmProc::NLM_NULL, (), 0, |_| ();
        NlmProc::NLM_TEST, nlm::TestArgs<'_>, 4, |fh| nlm::TestArgs {
            cookie: "cookie".into(),
            exclusive: true,
            alock: lock(fh),
        };
        NlmProc::NLM_LOCK, nlm::LockArgs<'_>, 4, |fh| lock_args(fh);
        NlmProc::NLM_CANCEL, nlm::CancelArgs<'_>, 4, |fh| nlm::CancelArgs {
            cookie: "cookie".into(),
            block: true,
            exclusive: true,
            alock: lock(fh),
        };
        NlmProc::NLM_UNLOCK, nlm::UnlockArgs<'_>, 4, |fh| nlm::UnlockArgs {
            cookie: "cookie".into(),
            alock: lock(fh),
        };
        NlmProc::NLM_GRANTED, nlm::TestArgs<'_>, 4, |fh| nlm::TestArgs {
            cookie: "cookie".into(),
            exclusive: true,
            alock: lock(fh),
        };
        NlmProc::NLM_GRANTED_RES, nlm::Res<'_>, 1, |_| res();
        NlmProc::NLM_NM_LOCK, nlm::LockArgs<'_>, 4, |fh| lock_args(fh);
        NlmProc::NLM_FREE_ALL, nlm::Notify<'_>, 1, |_| nlm::Notify {
            name: "hostile".into(),
            state: 3,
        };
    }
    nsm::V1 {
        SmProc::SM_NULL, (), 0, |_| ();
        SmProc::SM_STAT, nsm::SmName<'_>, 1, |_| "127.0.0.1".into();
        SmProc::SM_MON, nsm::Mon<'_>, 2, |_| nsm::Mon {
            mon_id: mon_id(),
            private: [7; nsm::SM_PRIV_SIZE],
        };
        SmProc::SM_UNMON, nsm::MonId<'_>, 2, |_| mon_id();
        SmProc::SM_UNMON_ALL, nsm::MyId<'_>, 1, |_| mon_id().my_id;
        SmProc::SM_SIMU_CRASH, (), 0, |_| ();
        SmProc::SM_NOTIFY, nsm::StatChge<'_>, 1, |_| nsm::StatChge {
            mon_name: "127.0.0.1".into(),
            state: 3,
        };
    }
    mount::V1 {
        MountProc1::MOUNTPROC_NULL, (), 0, |_| ();
        MountProc1::MOUNTPROC_MNT, mount::DirPath<'_>, 1, |_| "/lab".into();
        MountProc1::MOUNTPROC_DUMP, (), 0, |_| ();
        MountProc1::MOUNTPROC_UMNT, mount::DirPath<'_>, 1, |_| "/lab".into();
        MountProc1::MOUNTPROC_UMNTALL, (), 0, |_| ();
        MountProc1::MOUNTPROC_EXPORT, (), 0, |_| ();
        MountProc1::MOUNTPROC_EXPORTALL, (), 0, |_| ();
    }
    mount::V2 {
        MountProc1::MOUNTPROC_NULL, (), 0, |_| ();
        MountProc1::MOUNTPROC_MNT, mount::DirPath<'_>, 1, |_| "/lab".into();
        MountProc1::MOUNTPROC_DUMP, (), 0, |_| ();
        MountProc1::MOUNTPROC_UMNT, mount::DirPath<'_>, 1, |_| "/lab".into();
        MountProc1::MOUNTPROC_UMNTALL, (), 0, |_| ();
        MountProc1::MOUNTPROC_EXPORT, (), 0, |_| ();
        MountProc1::MOUNTPROC_EXPORTALL, (), 0, |_| ();
        MountProc1::MOUNTPROC_PATHCONF, mount::DirPath<'_>, 1, |_| "/lab".into();
    }
    rpcbind::V3 {
        RpcbProc::RPCBPROC_NULL, (), 0, |_| ();
        RpcbProc::RPCBPROC_SET, Rpcb<'_>, 3, |_| rpcb(400_000);
        RpcbProc::RPCBPROC_UNSET, Rpcb<'_>, 3, |_| rpcb(400_000);
        RpcbProc::RPCBPROC_GETADDR, Rpcb<'_>, 3, |_| rpcb(nfs3::PROGRAM);
        RpcbProc::RPCBPROC_DUMP, (), 0, |_| ();
        RpcbProc::RPCBPROC_CALLIT, (), 0, |_| ();
        RpcbProc::RPCBPROC_GETTIME, (), 0, |_| ();
        RpcbProc::RPCBPROC_UADDR2TADDR, rpcbind::Text<'_>, 1, |_| "10.77.0.1.8.1".into();
        RpcbProc::RPCBPROC_TADDR2UADDR, Netbuf<'_>, 1, |_| netbuf();
    }
    rpcbind::V4 {
        RpcbProc::RPCBPROC_NULL, (), 0, |_| ();
        RpcbProc::RPCBPROC_SET, Rpcb<'_>, 3, |_| rpcb(400_000);
        RpcbProc::RPCBPROC_UNSET, Rpcb<'_>, 3, |_| rpcb(400_000);
        RpcbProc::RPCBPROC_GETADDR, Rpcb<'_>, 3, |_| rpcb(nfs3::PROGRAM);
        RpcbProc::RPCBPROC_DUMP, (), 0, |_| ();
        RpcbProc::RPCBPROC_CALLIT, (), 0, |_| ();
        RpcbProc::RPCBPROC_GETTIME, (), 0, |_| ();
        RpcbProc::RPCBPROC_UADDR2TADDR, rpcbind::Text<'_>, 1, |_| "10.77.0.1.8.1".into();
        RpcbProc::RPCBPROC_TADDR2UADDR, Netbuf<'_>, 1, |_| netbuf();
        RpcbProc::RPCBPROC_GETVERSADDR, Rpcb<'_>, 3, |_| rpcb(nfs3::PROGRAM);
        RpcbProc::RPCBPROC_INDIRECT, RpcbRmtcallargs<'_>, 1, |_| RpcbRmtcallargs {
            prog: nfs3::PROGRAM,
            vers: nfs3::V3,
            proc: 0,
            args: "".into(),
        };
        RpcbProc::RPCBPROC_GETADDRLIST, Rpcb<'_>, 3, |_| rpcb(nfs3::PROGRAM);
        RpcbProc::RPCBPROC_GETSTAT, (), 0, |_| ();
    }
    // Behind the others, whose places the fuzzer's seeds name.
    nlm::V4 {
        NlmProc::NLM_TEST_MSG, nlm::TestArgs<'_>, 4, |fh| test_args(fh);
        NlmProc::NLM_LOCK_MSG, nlm::LockArgs<'_>, 4, |fh| lock_args(fh);
        NlmProc::NLM_CANCEL_MSG, nlm::CancelArgs<'_>, 4, |fh| nlm::CancelArgs {
            cookie: "cookie".into(),
            block: true,
            exclusive: true,
            alock: lock(fh),
        };
        NlmProc::NLM_UNLOCK_MSG, nlm::UnlockArgs<'_>, 4, |fh| nlm::UnlockArgs {
            cookie: "cookie".into(),
            alock: lock(fh),
        };
        NlmProc::NLM_GRANTED_MSG, nlm::TestArgs<'_>, 4, |fh| test_args(fh);
        NlmProc::NLM_TEST_RES, nlm::TestRes<'_>, 1, |_| nlm::TestRes {
            cookie: "cookie".into(),
            stat: nlm::Nlm4Stat::NLM4_GRANTED,
            holder: None,
        };
        NlmProc::NLM_LOCK_RES, nlm::Res<'_>, 1, |_| res();
        NlmProc::NLM_CANCEL_RES, nlm::Res<'_>, 1, |_| res();
        NlmProc::NLM_UNLOCK_RES, nlm::Res<'_>, 1, |_| res();
        NlmProc::NLM_SM_NOTIFY, nlm::SmStatus<'_>, 1, |_| sm_status();
        NlmProc::NLM_SHARE, nlm::ShareArgs<'_>, 4, |fh| share_args(fh);
        NlmProc::NLM_UNSHARE, nlm::ShareArgs<'_>, 4, |fh| share_args(fh);
    }
    nlm::V3 {
        NlmProc::NLM_NULL, (), 0, |_| ();
        NlmProc::NLM_TEST, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_LOCK, nlm::v3::LockArgs<'_>, 4, |fh| narrow::lock(fh);
        NlmProc::NLM_CANCEL, nlm::v3::CancelArgs<'_>, 4, |fh| narrow::cancel(fh);
        NlmProc::NLM_UNLOCK, nlm::v3::UnlockArgs<'_>, 4, |fh| narrow::unlock(fh);
        NlmProc::NLM_GRANTED, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_TEST_MSG, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_LOCK_MSG, nlm::v3::LockArgs<'_>, 4, |fh| narrow::lock(fh);
        NlmProc::NLM_CANCEL_MSG, nlm::v3::CancelArgs<'_>, 4, |fh| narrow::cancel(fh);
        NlmProc::NLM_UNLOCK_MSG, nlm::v3::UnlockArgs<'_>, 4, |fh| narrow::unlock(fh);
        NlmProc::NLM_GRANTED_MSG, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_TEST_RES, nlm::v3::TestRes<'_>, 2, |fh| narrow::test_res(fh);
        NlmProc::NLM_LOCK_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_CANCEL_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_UNLOCK_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_GRANTED_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_SM_NOTIFY, nlm::SmStatus<'_>, 1, |_| sm_status();
        NlmProc::NLM_SHARE, nlm::ShareArgs<'_>, 4, |fh| share_args(fh);
        NlmProc::NLM_UNSHARE, nlm::ShareArgs<'_>, 4, |fh| share_args(fh);
        NlmProc::NLM_NM_LOCK, nlm::v3::LockArgs<'_>, 4, |fh| narrow::lock(fh);
        NlmProc::NLM_FREE_ALL, nlm::Notify<'_>, 1, |_| nlm::Notify {
            name: "hostile".into(),
            state: 3,
        };
    }
    nlm::V1 {
        NlmProc::NLM_NULL, (), 0, |_| ();
        NlmProc::NLM_TEST, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_LOCK, nlm::v3::LockArgs<'_>, 4, |fh| narrow::lock(fh);
        NlmProc::NLM_CANCEL, nlm::v3::CancelArgs<'_>, 4, |fh| narrow::cancel(fh);
        NlmProc::NLM_UNLOCK, nlm::v3::UnlockArgs<'_>, 4, |fh| narrow::unlock(fh);
        NlmProc::NLM_GRANTED, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_TEST_MSG, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_LOCK_MSG, nlm::v3::LockArgs<'_>, 4, |fh| narrow::lock(fh);
        NlmProc::NLM_CANCEL_MSG, nlm::v3::CancelArgs<'_>, 4, |fh| narrow::cancel(fh);
        NlmProc::NLM_UNLOCK_MSG, nlm::v3::UnlockArgs<'_>, 4, |fh| narrow::unlock(fh);
        NlmProc::NLM_GRANTED_MSG, nlm::v3::TestArgs<'_>, 4, |fh| narrow::test(fh);
        NlmProc::NLM_TEST_RES, nlm::v3::TestRes<'_>, 2, |fh| narrow::test_res(fh);
        NlmProc::NLM_LOCK_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_CANCEL_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_UNLOCK_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_GRANTED_RES, nlm::v3::Res<'_>, 1, |_| res().into();
        NlmProc::NLM_SM_NOTIFY, nlm::SmStatus<'_>, 1, |_| sm_status();
    }
};

fn name<'a>(dir: &'a [u8], name: &'a str) -> nfs3::Diropargs3<'a> {
    nfs3::Diropargs3 {
        dir: dir.into(),
        name: name.into(),
    }
}

fn sattr() -> nfs3::Sattr3 {
    nfs3::Sattr3 {
        mode: Some(0o644),
        ..nfs3::Sattr3::default()
    }
}

fn mapping(prog: u32) -> Mapping {
    Mapping {
        prog,
        vers: 3,
        prot: IpProto::IPPROTO_TCP,
        port: 4000,
    }
}

fn rpcb(r_prog: u32) -> Rpcb<'static> {
    Rpcb {
        r_prog,
        r_vers: 3,
        r_netid: "tcp".into(),
        r_addr: "0.0.0.0.15.160".into(),
        r_owner: "hostile".into(),
    }
}

/// Port 2049 of 127.0.0.1 as Linux has it in memory, lower bytes first.
fn netbuf() -> Netbuf<'static> {
    Netbuf {
        maxlen: 16,
        buf: b"\x02\0\x08\x01\x7f\0\0\x01\0\0\0\0\0\0\0\0"[..].into(),
    }
}

fn lock(fh: &[u8]) -> nlm::Nlm4Lock<'_> {
    nlm::Nlm4Lock {
        caller_name: "hostile".into(),
        fh: fh.into(),
        oh: "1@hostile".into(),
        svid: 1,
        l_offset: 0,
        l_len: 0,
    }
}

fn lock_args(fh: &[u8]) -> nlm::LockArgs<'_> {
    nlm::LockArgs {
        cookie: "cookie".into(),
        block: false,
        exclusive: true,
        alock: lock(fh),
        reclaim: false,
        state: 1,
    }
}

fn test_args(fh: &[u8]) -> nlm::TestArgs<'_> {
    nlm::TestArgs {
        cookie: "cookie".into(),
        exclusive: true,
        alock: lock(fh),
    }
}

fn res() -> nlm::Res<'static> {
    nlm::Res {
        cookie: "cookie".into(),
        stat: nlm::Nlm4Stat::NLM4_GRANTED,
    }
}

fn share_args(fh: &[u8]) -> nlm::ShareArgs<'_> {
    nlm::ShareArgs {
        cookie: "cookie".into(),
        share: nlm::Share {
            caller_name: "hostile".into(),
            fh: fh.into(),
            oh: "1@hostile".into(),
            mode: nlm::FshMode::FSM_DN,
            access: nlm::FshAccess::FSA_R,
        },
        reclaim: false,
    }
}

fn sm_status() -> nlm::SmStatus<'static> {
    nlm::SmStatus {
        mon_name: "127.0.0.1".into(),
        state: 3,
        private: [7; nlm::PRIV_SIZE],
    }
}

/// Arguments of NLM 1 and 3.
mod narrow {
    use super::nlm::{self, v3};

    pub fn test(fh: &[u8]) -> v3::TestArgs<'_> {
        super::test_args(fh).into()
    }

    pub fn lock(fh: &[u8]) -> v3::LockArgs<'_> {
        v3::LockArgs {
            cookie: "cookie".into(),
            block: false,
            exclusive: true,
            alock: super::lock(fh).into(),
            reclaim: false,
            state: 1,
        }
    }

    pub fn cancel(fh: &[u8]) -> v3::CancelArgs<'_> {
        v3::CancelArgs {
            cookie: "cookie".into(),
            block: true,
            exclusive: true,
            alock: super::lock(fh).into(),
        }
    }

    pub fn unlock(fh: &[u8]) -> v3::UnlockArgs<'_> {
        v3::UnlockArgs {
            cookie: "cookie".into(),
            alock: super::lock(fh).into(),
        }
    }

    /// With a holder.
    pub fn test_res(_: &[u8]) -> v3::TestRes<'static> {
        v3::TestRes {
            cookie: "cookie".into(),
            stat: nlm::v3::NlmStats::LCK_DENIED,
            holder: Some(v3::Holder {
                exclusive: true,
                svid: 1,
                oh: "1@hostile".into(),
                l_offset: 0,
                l_len: 0,
            }),
        }
    }
}

fn mon_id() -> nsm::MonId<'static> {
    nsm::MonId {
        mon_name: "127.0.0.1".into(),
        my_id: nsm::MyId {
            my_name: "127.0.0.1".into(),
            my_prog: 100_021,
            my_vers: 4,
            my_proc: 16,
        },
    }
}
