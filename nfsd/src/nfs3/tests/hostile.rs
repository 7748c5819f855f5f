//! Whatever arrives, there is an answer and no panic.

use super::*;
use proptest::prelude::*;

fn call_raw(lab: &Lab, procedure: u32, args: Vec<u8>) -> std::result::Result<Nfsstat3, CallError> {
    let cx = Cx::local(USER, lab.now());
    let mut w = Writer::new();
    lab.nfs.describe(procedure, &args);
    lab.nfs.may_block(&args);
    let args = Bytes::from(args);
    let result = lab.nfs.call(&cx, procedure, &args, &args, &mut w);
    match result {
        Ok(_) if procedure != 0 => assert!(w.len() >= 4),
        _ => assert!(w.is_empty(), "procedure {procedure} wrote after an error"),
    }
    result
}

/// Good arguments of every procedure, to be spoilt.
pub(super) fn good_args(lab: &Lab, procedure: u32) -> Vec<u8> {
    let (root, fh) = (lab.root(), lab.fh("f"));
    let (dir, file) = (NfsFh3::from(&root[..]), NfsFh3::from(&fh[..]));
    let attributes = with_mode(0o644);
    let cookieverf = [0; 8];
    let bytes = match Nfs3Proc(procedure) {
        Nfs3Proc::NFSPROC3_NULL => return Vec::new(),
        Nfs3Proc::NFSPROC3_SETATTR => to_bytes(&Setattr3Args {
            object: file,
            new_attributes: attributes,
            guard: None,
        }),
        Nfs3Proc::NFSPROC3_LOOKUP | Nfs3Proc::NFSPROC3_REMOVE => to_bytes(&at(&root, "f")),
        Nfs3Proc::NFSPROC3_RMDIR => to_bytes(&at(&root, "d")),
        Nfs3Proc::NFSPROC3_ACCESS => to_bytes(&Access3Args {
            object: file,
            access: 63,
        }),
        Nfs3Proc::NFSPROC3_READLINK => to_bytes(&NfsFh3::from(&lab.fh("l")[..])),
        Nfs3Proc::NFSPROC3_READ => to_bytes(&Read3Args {
            file,
            offset: 0,
            count: 10,
        }),
        Nfs3Proc::NFSPROC3_WRITE => to_bytes(&Write3Args {
            file,
            offset: 0,
            count: 3,
            stable: StableHow::UNSTABLE,
            data: b"abc"[..].into(),
        }),
        Nfs3Proc::NFSPROC3_CREATE => to_bytes(&create_args(&root, "new", CreateHow3::Unchecked(attributes))),
        Nfs3Proc::NFSPROC3_MKDIR => to_bytes(&Mkdir3Args {
            where_: at(&root, "new"),
            attributes,
        }),
        Nfs3Proc::NFSPROC3_SYMLINK => to_bytes(&Symlink3Args {
            where_: at(&root, "new"),
            symlink_attributes: attributes,
            symlink_data: "text".into(),
        }),
        Nfs3Proc::NFSPROC3_MKNOD => to_bytes(&Mknod3Args {
            where_: at(&root, "new"),
            what: MknodData3::Pipe(Ftype3::NF3FIFO, attributes),
        }),
        Nfs3Proc::NFSPROC3_RENAME => to_bytes(&Rename3Args {
            from: at(&root, "f"),
            to: at(&root, "new"),
        }),
        Nfs3Proc::NFSPROC3_LINK => to_bytes(&Link3Args {
            file,
            link: at(&root, "new"),
        }),
        Nfs3Proc::NFSPROC3_READDIR => to_bytes(&Readdir3Args {
            dir,
            cookie: 0,
            cookieverf,
            count: 4096,
        }),
        Nfs3Proc::NFSPROC3_READDIRPLUS => to_bytes(&Readdirplus3Args {
            dir,
            cookie: 0,
            cookieverf,
            dircount: 4096,
            maxcount: 4096,
        }),
        Nfs3Proc::NFSPROC3_COMMIT => to_bytes(&Commit3Args {
            file,
            offset: 0,
            count: 0,
        }),
        _ => to_bytes(&file),
    };
    bytes.to_vec()
}

pub(super) fn seeded() -> Lab {
    let lab = mem_lab(&MemConfig::default(), ExportOptions::default());
    let owned = |path: &str| {
        lab.setattr(&lab.fh(path), |s| s.uid = Some(USER.uid));
    };
    lab.fs.write_file("f", "0123456789", lab.now()).unwrap();
    lab.fs.write_symlink("l", "f", lab.now()).unwrap();
    lab.fs.make_dirs("d", lab.now()).unwrap();
    owned("f");
    owned("d");
    lab
}

#[test]
fn good_arguments_are_good_and_may_be_followed_by_more() {
    for procedure in 0..22 {
        let lab = seeded();
        let mut args = good_args(&lab, procedure);
        args.extend_from_slice(b"more");
        assert_eq!(
            call_raw(&lab, procedure, args),
            Ok(Nfsstat3::NFS3_OK),
            "{}",
            Nfs3Proc(procedure)
        );
    }
}

#[test]
fn cut_short_they_are_garbage() {
    let lab = seeded();
    for procedure in 1..22 {
        let args = good_args(&lab, procedure);
        for len in 0..args.len() {
            let result = call_raw(&lab, procedure, args[..len].to_vec());
            assert!(
                matches!(result, Err(CallError::GarbageArgs(_))),
                "{} cut at {len}",
                Nfs3Proc(procedure)
            );
        }
    }
}

#[test]
fn every_field_at_four_gib() {
    for procedure in 1..22 {
        let lab = seeded();
        let args = good_args(&lab, procedure);
        for at in (0..args.len()).step_by(4) {
            let mut args = args.clone();
            args[at..at + 4].fill(0xff);
            let _ = call_raw(&lab, procedure, args);
        }
    }
}

#[test]
fn procedures_that_do_not_exist() {
    let lab = seeded();
    for procedure in [22, 23, 1000, u32::MAX] {
        assert_eq!(
            call_raw(&lab, procedure, vec![0; 64]),
            Err(CallError::ProcUnavail)
        );
        assert!(!fail(procedure, Nfsstat3::NFS3ERR_IO, &mut Writer::new()));
    }
}

#[test]
fn a_failure_on_order_is_a_failure_of_that_procedure() {
    fn parses<T: for<'a> Decode<'a>, F: for<'a> Decode<'a> + PartialEq + Default>(
        procedure: Nfs3Proc,
        status: Nfsstat3,
    ) {
        let mut w = Writer::new();
        assert!(fail(procedure.0, status, &mut w));
        let bytes = w.into_bytes();
        match from_bytes::<Res3<T, F>>(&bytes) {
            Ok(Res3::Err(got, empty)) => assert!(got == status && empty == F::default(), "{procedure}"),
            _ => panic!("{procedure} made {bytes:?}"),
        }
    }
    type Attr = PostOpAttr;
    for status in [Nfsstat3::NFS3ERR_JUKEBOX, Nfsstat3(4711), Nfsstat3(u32::MAX)] {
        use Nfs3Proc as P;
        parses::<Fattr3, ()>(P::NFSPROC3_GETATTR, status);
        for p in [P::NFSPROC3_SETATTR, P::NFSPROC3_REMOVE, P::NFSPROC3_RMDIR] {
            parses::<WccData, WccData>(p, status);
        }
        for p in [P::NFSPROC3_LOOKUP, P::NFSPROC3_READLINK, P::NFSPROC3_READ] {
            parses::<(), Attr>(p, status);
        }
        parses::<Access3Ok, Attr>(P::NFSPROC3_ACCESS, status);
        parses::<Write3Ok, WccData>(P::NFSPROC3_WRITE, status);
        for p in [
            P::NFSPROC3_CREATE,
            P::NFSPROC3_MKDIR,
            P::NFSPROC3_SYMLINK,
            P::NFSPROC3_MKNOD,
        ] {
            parses::<(), WccData>(p, status);
        }
        parses::<Rename3Wcc, Rename3Wcc>(P::NFSPROC3_RENAME, status);
        parses::<Link3Wcc, Link3Wcc>(P::NFSPROC3_LINK, status);
        parses::<(), Attr>(P::NFSPROC3_READDIR, status);
        parses::<(), Attr>(P::NFSPROC3_READDIRPLUS, status);
        parses::<Fsstat3Ok, Attr>(P::NFSPROC3_FSSTAT, status);
        parses::<Fsinfo3Ok, Attr>(P::NFSPROC3_FSINFO, status);
        parses::<Pathconf3Ok, Attr>(P::NFSPROC3_PATHCONF, status);
        parses::<Commit3Ok, WccData>(P::NFSPROC3_COMMIT, status);
    }
    assert!(!fail(0, Nfsstat3::NFS3ERR_IO, &mut Writer::new()));
}

#[test]
fn calls_in_words() {
    let lab = seeded();
    let say = |procedure| lab.nfs.describe(procedure, &good_args(&lab, procedure));
    assert_eq!(say(0), "NULL");
    assert_eq!(say(1), "GETATTR /lab/f");
    assert_eq!(say(2), "SETATTR /lab/f mode 644");
    assert_eq!(say(4), "ACCESS /lab/f read+lookup+modify+extend+delete+execute");
    assert_eq!(say(6), "READ /lab/f offset 0 count 10");
    assert_eq!(say(7), "WRITE /lab/f offset 0 count 3 UNSTABLE");
    assert_eq!(say(8), "CREATE /lab/new unchecked");
    assert_eq!(say(10), "SYMLINK /lab/new to text");
    assert_eq!(say(14), "RENAME /lab/f to /lab/new");
    assert_eq!(say(15), "LINK /lab/f as /lab/new");
    assert_eq!(
        lab.nfs.describe(1, &[0, 0, 0, 1, 9, 0, 0, 0]),
        "GETATTR (a handle that is not ours)"
    );
    assert_eq!(
        lab.nfs.describe(1, &[0, 0]),
        "GETATTR with garbage: opaque data at byte 0: needs 4 bytes, 2 are left"
    );
    assert_eq!(lab.nfs.describe(99, &[]), "procedure 99");
}

proptest! {
    #[test]
    fn junk_into_every_procedure(junk in prop::collection::vec(any::<u8>(), 0..256), procedure in 0u32..24) {
        let _ = call_raw(&seeded(), procedure, junk);
    }

    #[test]
    fn good_arguments_with_a_few_wrong_bytes(
        procedure in 1u32..22,
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let lab = seeded();
        let mut args = good_args(&lab, procedure);
        for (at, byte) in wrong {
            let at = at.index(args.len());
            args[at] = byte;
        }
        let _ = call_raw(&lab, procedure, args);
    }
}
