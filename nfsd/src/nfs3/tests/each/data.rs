use super::*;

#[test]
fn what_was_written_is_read_with_its_attributes_and_verifier() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    let before = lab.attr(&fh);
    let Write3Res::Ok(ok) = lab.write(&fh, 3, b"abc") else {
        panic!("refused")
    };
    assert_eq!((ok.count, ok.committed, ok.verf), (3, StableHow::UNSTABLE, VERF));
    assert_eq!(ok.file_wcc.before.unwrap().size, 0);
    let after = ok.file_wcc.after.unwrap();
    assert_eq!(after.size, 6);
    assert!(after.mtime > before.mtime && after.mtime == after.ctime);
    assert_eq!(lab.read(&fh, 0, 100), Ok((b"\0\0\0abc".to_vec(), true)));
    assert_eq!(lab.read(&fh, 1, 3), Ok((b"\0\0a".to_vec(), false)));
    assert_eq!(lab.read(&fh, 6, 1), Ok((vec![], true)));
    assert_eq!(lab.read(&fh, u64::MAX, u32::MAX), Ok((vec![], true)));
    assert_eq!(lab.read(&fh, 0, 0), Ok((vec![], false)));
}

#[test]
fn a_read_is_cut_to_rtmax_and_a_write_to_wtmax() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    lab.setattr(&fh, |s| s.size = Some(1 << 33));
    let (data, eof) = lab.read(&fh, 5, u32::MAX).unwrap();
    assert_eq!((data.len(), eof), (1 << 20, false));
    let Write3Res::Ok(ok) = lab.write(&fh, 0, &vec![1; (1 << 20) + 1]) else {
        panic!("refused")
    };
    assert_eq!(ok.count, 1 << 20);
}

#[test]
fn writes_that_cannot_be() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    let args = |offset, count, stable| Write3Args {
        file: NfsFh3::from(&fh[..]),
        offset,
        count,
        stable,
        data: b"abc"[..].into(),
    };
    let status = |args| lab.status(Nfs3Proc::NFSPROC3_WRITE, &args);
    let (max, sync) = (lab.fs.limits().file_size_max, StableHow::FILE_SYNC);
    assert_eq!(status(args(0, 4, sync)), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(status(args(0, 2, sync)), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(status(args(0, u32::MAX, sync)), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(status(args(0, 3, StableHow(3))), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(status(args(max, 3, sync)), Nfsstat3::NFS3ERR_FBIG);
    assert_eq!(status(args(max - 2, 3, sync)), Nfsstat3::NFS3ERR_FBIG);
    assert_eq!(status(args(u64::MAX, 3, sync)), Nfsstat3::NFS3ERR_FBIG);
    assert_eq!(lab.attr(&fh).size, 0);
    assert_eq!(status(args(max - 3, 3, sync)), Nfsstat3::NFS3_OK);
    assert_eq!(lab.attr(&fh).size, max);
    assert_eq!(lab.write(&lab.root(), 0, b"x").status(), Nfsstat3::NFS3ERR_ISDIR);
    lab.fs.write_symlink("l", "f", lab.now()).unwrap();
    assert_eq!(lab.write(&lab.fh("l"), 0, b"x").status(), Nfsstat3::NFS3ERR_INVAL);
    assert_eq!(lab.read(&lab.fh("l"), 0, 1), Err(Nfsstat3::NFS3ERR_INVAL));
}

#[test]
fn an_empty_write_changes_nothing() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o4755);
    let before = lab.attr(&fh);
    let Write3Res::Ok(ok) = lab.write(&fh, 100, b"") else {
        panic!("refused")
    };
    assert_eq!((ok.count, ok.file_wcc.after), (0, Some(before)));
}

#[test]
fn writing_by_others_takes_the_set_id_bits() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o6777);
    lab.write(&fh, 0, b"root");
    assert_eq!(lab.attr(&fh).mode, 0o6777);
    let lab = lab.by(USER);
    lab.write(&fh, 0, b"user");
    assert_eq!(lab.attr(&fh).mode, 0o777);
}

#[test]
fn commit_tells_the_verifier_until_it_changes() {
    let lab = lab();
    let fh = lab.file(&lab.root(), "f", 0o600);
    let commit = |fh: &[u8]| {
        let args = Commit3Args {
            file: fh.into(),
            offset: 0,
            count: 0,
        };
        from_bytes::<Commit3Res>(&lab.call(Nfs3Proc::NFSPROC3_COMMIT, &args)).unwrap()
    };
    let Commit3Res::Ok(ok) = commit(&fh) else {
        panic!("refused")
    };
    assert_eq!((ok.verf, ok.file_wcc.after), (VERF, Some(lab.attr(&fh))));
    lab.nfs.set_write_verf(*b"restart!");
    let Commit3Res::Ok(ok) = commit(&fh) else {
        panic!("refused")
    };
    assert_eq!(ok.verf, *b"restart!");
    assert_eq!(commit(&lab.root()).status(), Nfsstat3::NFS3ERR_ISDIR);
}
