use super::*;

struct Listing {
    names: Vec<String>,
    cookies: Vec<u64>,
    verifier: [u8; 8],
    eof: bool,
    /// Bytes of `READDIR3resok`.
    bytes: usize,
}

fn readdir(lab: &Lab, dir: &[u8], cookie: u64, cookieverf: [u8; 8], count: u32) -> Result<Listing> {
    let args = Readdir3Args {
        dir: dir.into(),
        cookie,
        cookieverf,
        count,
    };
    let reply = lab.call(Nfs3Proc::NFSPROC3_READDIR, &args);
    match from_bytes::<Readdir3Res<'_>>(&reply).unwrap() {
        Readdir3Res::Ok(list) => Ok(Listing {
            names: list.entries.iter().map(|e| e.name.to_string()).collect(),
            cookies: list.entries.iter().map(|e| e.cookie).collect(),
            verifier: list.cookieverf,
            eof: list.eof,
            bytes: reply.len() - 4,
        }),
        Readdir3Res::Err(status, _) => Err(status),
    }
}

#[test]
fn a_listing_in_chunks_of_any_size_is_the_whole() {
    let lab = lab();
    let dir = lab.dir(&lab.root(), "d", 0o700);
    let mut expected = vec![".".to_string(), "..".to_string()];
    for i in 0..40 {
        let name = format!("{}{i}", "n".repeat(i % 7));
        lab.file(&dir, &name, 0o600);
        expected.push(name);
    }
    expected.sort();
    for count in [150, 151, 200, 333, 1000, 4096, u32::MAX] {
        let (mut names, mut cookie, mut verifier) = (Vec::new(), 0, [0; 8]);
        loop {
            let list = readdir(&lab, &dir, cookie, verifier, count).unwrap();
            assert!(list.bytes <= count as usize, "{} over {count}", list.bytes);
            names.extend(list.names);
            (cookie, verifier) = (list.cookies.last().copied().unwrap_or(cookie), list.verifier);
            if list.eof {
                break;
            }
        }
        // The order is the store's affair.
        names.sort();
        assert_eq!(names, expected, "count {count}");
    }
}

#[test]
fn limits_that_nothing_fits_into() {
    let lab = lab();
    let root = lab.root();
    lab.file(&root, "f", 0o600);
    for count in [0, 50, 103, 104, 131] {
        let small = readdir(&lab, &root, 0, [0; 8], count).err();
        assert_eq!(small, Some(Nfsstat3::NFS3ERR_TOOSMALL), "count {count}");
    }
    // Attributes, verifier, one entry of a short name, the end.
    let one = readdir(&lab, &root, 0, [0; 8], 132).unwrap();
    assert_eq!((one.names, one.eof), (vec![".".to_string()], false));
    // At the end there is nothing that would have to fit.
    let whole = readdir(&lab, &root, 0, [0; 8], 4096).unwrap();
    let end = readdir(&lab, &root, whole.cookies[2], whole.verifier, 104).unwrap();
    assert_eq!((end.names.len(), end.eof), (0, true));
}

#[test]
fn cookies_and_verifiers_of_other_directories() {
    let lab = lab();
    let (root, other) = (lab.root(), lab.dir(&lab.root(), "other", 0o700));
    let list = readdir(&lab, &root, 0, [0; 8], 4096).unwrap();
    let status = |dir: &[u8], cookie, verifier| readdir(&lab, dir, cookie, verifier, 4096).err();
    const BAD: Option<Nfsstat3> = Some(Nfsstat3::NFS3ERR_BAD_COOKIE);
    assert_eq!(status(&root, list.cookies[0], list.verifier), None);
    assert_eq!(
        status(&root, list.cookies[0], [0; 8]),
        None,
        "Linux 5.10 forgets it"
    );
    assert_eq!(status(&other, 1, list.verifier), BAD);
    assert_eq!(status(&root, 1, [0xff; 8]), BAD);
    assert_eq!(status(&root, u64::MAX, list.verifier), BAD);
    if lab.folder.is_none() {
        // A real file system takes any number for a position.
        assert_eq!(status(&root, 4, list.verifier), BAD, "not yet given to an entry");
    }
    assert_eq!(status(&root, 0, [0xff; 8]), None);
    let file = lab.file(&root, "f", 0o600);
    assert_eq!(
        readdir(&lab, &file, 0, [0; 8], 4096).err(),
        Some(Nfsstat3::NFS3ERR_NOTDIR)
    );
}

#[test]
fn readdirplus_brings_handles_and_attributes() {
    let lab = lab();
    let root = lab.root();
    let dir = lab.dir(&root, "d", 0o755);
    let file = lab.file(&dir, "f", 0o600);
    let plus = |lab: &Lab, dircount, maxcount| {
        let args = Readdirplus3Args {
            dir: NfsFh3::from(&dir[..]),
            cookie: 0,
            cookieverf: [0; 8],
            dircount,
            maxcount,
        };
        lab.call(Nfs3Proc::NFSPROC3_READDIRPLUS, &args)
    };
    let reply = plus(&lab, 4096, 4096);
    let Readdirplus3Res::Ok(list) = from_bytes(&reply).unwrap() else {
        panic!("failed")
    };
    assert!(list.eof);
    for (name, fh) in [(&b"."[..], &dir), (b"..", &root), (b"f", &file)] {
        let entry = list.entries.iter().find(|e| *e.name == *name).unwrap();
        assert_eq!(entry.name_handle.unwrap().to_vec(), *fh);
        let attr = entry.name_attributes.unwrap();
        let now = lab.attr(fh);
        // The listing itself may have set a directory's atime.
        assert_eq!(
            (attr.ftype, attr.fileid, attr.ctime),
            (now.ftype, entry.fileid, now.ctime)
        );
    }

    let entries = |reply: &[u8]| match from_bytes::<Readdirplus3Res<'_>>(reply).unwrap() {
        Readdirplus3Res::Ok(list) => Ok(list.entries.len()),
        Readdirplus3Res::Err(status, _) => Err(status),
    };
    assert_eq!(
        entries(&plus(&lab, 50, 4096)),
        Ok(2),
        "24 bytes of directory each"
    );
    assert_eq!(entries(&plus(&lab, 1, 4096)), Ok(1));
    assert_eq!(entries(&plus(&lab, 0, 4096)), Ok(3));
    assert_eq!(entries(&plus(&lab, 4096, reply.len() as u32 - 4)), Ok(3));
    assert_eq!(entries(&plus(&lab, 4096, reply.len() as u32 - 5)), Ok(2));
    assert_eq!(entries(&plus(&lab, 4096, 200)), Err(Nfsstat3::NFS3ERR_TOOSMALL));

    lab.setattr(&dir, |s| s.mode = Some(0o744));
    let lab = lab.by(USER);
    let reply = plus(&lab, 4096, 4096);
    let Readdirplus3Res::Ok(list) = from_bytes(&reply).unwrap() else {
        panic!("failed")
    };
    assert!(
        list.entries.iter().all(|e| e.name_handle.is_none()),
        "without search there are no handles"
    );
    lab.setattr(&dir, |s| s.mode = Some(0o711));
}

#[test]
fn listing_needs_the_right_to_read() {
    let lab = lab();
    let dir = lab.dir(&lab.root(), "d", 0o711);
    let lab = lab.by(USER);
    assert_eq!(
        readdir(&lab, &dir, 0, [0; 8], 4096).err(),
        Some(Nfsstat3::NFS3ERR_ACCES)
    );
}
