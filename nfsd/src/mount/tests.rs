use super::*;
use crate::export::ExportOptions;
use crate::memfs::{MemConfig, MemFs};
use crate::tree::Tree;
use proto::nfs3::Nfstime3;
use rpc::xdr::{from_bytes, to_bytes};

fn mount() -> Mount {
    let now = Nfstime3::default();
    let fs = Arc::new(MemFs::new(&MemConfig::default()));
    fs.write_file("/a/b/file", "x", now).unwrap();
    fs.write_symlink("/link", "a", now).unwrap();
    let private = ExportOptions {
        clients: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.77".parse().unwrap()],
        ..ExportOptions::default()
    };
    let list = vec![
        Export::new(1, "/lab", fs.clone()),
        Export::new(2, "/private", fs).with_options(private),
    ];
    Mount::new(Arc::new(Exports::new(&[1; 16], list).unwrap()))
}

fn cx(peer: &str) -> Cx<'static> {
    let mut cx = Cx::local(Caller::ROOT, Nfstime3::default());
    cx.peer = peer.parse().unwrap();
    cx
}

fn mnt(mount: &Mount, peer: &str, path: &str) -> Result<Vec<u8>, Mountstat3> {
    let mut w = Writer::new();
    let args = to_bytes(&DirPath::from(path));
    let status = mount.call(&cx(peer), 3, 1, &args, &mut w).unwrap();
    match from_bytes(&w.into_bytes()).unwrap() {
        MountRes3::Ok {
            fhandle,
            auth_flavors,
        } => {
            assert_eq!(auth_flavors, [1, 0]);
            assert_eq!(status, Mountstat3::MNT3_OK);
            Ok(fhandle.to_vec())
        }
        MountRes3::Err(other) => {
            assert_eq!(other, status);
            Err(status)
        }
    }
}

#[test]
fn exports_and_directories_below_them_can_be_mounted() {
    let mount = mount();
    let path_of = |path| mount.exports.path_of(&mnt(&mount, "::1", path).unwrap()).unwrap();
    assert_eq!(&*path_of("/lab"), "/lab");
    assert_eq!(&*path_of("/lab/"), "/lab");
    assert_eq!(&*path_of("/lab//a/./b/"), "/lab/a/b");
    assert_eq!(&*path_of("//lab/./"), "/lab");
    for (path, status) in [
        ("/", Mountstat3::MNT3ERR_ACCES),
        ("", Mountstat3::MNT3ERR_ACCES),
        ("/labor", Mountstat3::MNT3ERR_ACCES),
        ("/lab/none", Mountstat3::MNT3ERR_NOENT),
        ("/lab/a/b/file", Mountstat3::MNT3ERR_NOTDIR),
        ("/lab/a/b/file/x", Mountstat3::MNT3ERR_NOTDIR),
        ("/lab/link", Mountstat3::MNT3ERR_NOTDIR),
        ("/lab/a/../a", Mountstat3::MNT3ERR_ACCES),
        ("/lab/..", Mountstat3::MNT3ERR_ACCES),
        ("/private", Mountstat3::MNT3ERR_ACCES),
    ] {
        assert_eq!(mnt(&mount, "192.0.2.1", path), Err(status), "{path}");
    }
    assert!(mnt(&mount, "10.9.9.9", "/private/a").is_ok());
    let long = "x".repeat(300);
    assert_eq!(
        mnt(&mount, "::1", &format!("/lab/{long}")),
        Err(Mountstat3::MNT3ERR_NAMETOOLONG)
    );
}

#[test]
fn the_mount_list() {
    let mount = mount();
    for (peer, path) in [
        ("192.0.2.1", "/lab"),
        ("192.0.2.2", "/lab"),
        ("192.0.2.1", "/lab/a"),
        ("::ffff:192.0.2.1", "/lab"),
        ("192.0.2.1", "//lab/./a/"),
    ] {
        mnt(&mount, peer, path).unwrap();
    }
    let dump = || {
        let mut w = Writer::new();
        mount.call(&cx("::1"), 3, 2, &[], &mut w).unwrap();
        let bytes = w.into_bytes();
        let list: MountList<'_> = from_bytes(&bytes).unwrap();
        let line = |m: &MountBody<'_>| format!("{} {}", m.ml_hostname, m.ml_directory);
        list.0.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(dump(), ["192.0.2.1 /lab", "192.0.2.2 /lab", "192.0.2.1 /lab/a"]);
    let mut w = Writer::new();
    let umnt = to_bytes(&DirPath::from("/lab//a/"));
    mount.call(&cx("192.0.2.2"), 3, 3, &umnt, &mut w).unwrap();
    assert_eq!(dump().len(), 3, "it was someone else's");
    mount.call(&cx("192.0.2.1"), 3, 3, &umnt, &mut w).unwrap();
    assert_eq!(dump(), ["192.0.2.1 /lab", "192.0.2.2 /lab"]);
    mount.call(&cx("192.0.2.1"), 3, 4, &[], &mut w).unwrap();
    assert_eq!(dump(), ["192.0.2.2 /lab"]);
    assert!(w.is_empty());
    for i in 0..LIST_MAX as u32 + 10 {
        mnt(&mount, &std::net::Ipv4Addr::from_bits(i + 1).to_string(), "/lab").unwrap();
    }
    assert_eq!(mount.list().len(), LIST_MAX);
}

#[test]
fn export_names_who_may() {
    let mut w = Writer::new();
    mount().call(&cx("::1"), 3, 5, &[], &mut w).unwrap();
    let bytes = w.into_bytes();
    let list: ExportList<'_> = from_bytes(&bytes).unwrap();
    let names: Vec<_> = list.0.iter().map(|n| n.ex_dir.to_string()).collect();
    assert_eq!(names, ["/lab", "/private"]);
    assert_eq!(list.0[0].ex_groups, [], "everyone");
    assert_eq!(list.0[1].ex_groups, ["10.0.0.0/8".into(), "192.0.2.77".into()]);
}

/// What versions 1 and 2 answer.
fn call_1<T: for<'a> rpc::xdr::Decode<'a>>(
    mount: &Mount,
    peer: &str,
    version: u32,
    procedure: u32,
    path: &str,
) -> T {
    let mut w = Writer::new();
    let args = to_bytes(&DirPath::from(path));
    mount.call(&cx(peer), version, procedure, &args, &mut w).unwrap();
    from_bytes(&w.into_bytes()).unwrap()
}

#[test]
fn versions_1_and_2_have_no_handles_and_the_same_lists() {
    let mount = mount();
    for version in [1, 2] {
        for (path, status) in [
            ("/lab/a", NO_V2),
            ("/lab/none", Mountstat3::MNT3ERR_NOENT),
            ("/lab/link", Mountstat3::MNT3ERR_NOTDIR),
            ("/private", Mountstat3::MNT3ERR_ACCES),
        ] {
            let answer: Fhstatus = call_1(&mount, "192.0.2.1", version, 1, path);
            assert_eq!(answer, Fhstatus::Err(status.0), "{path}");
        }
        assert_eq!(mount.list(), [], "nothing was mounted");
        mnt(&mount, "192.0.2.1", "/lab").unwrap();
        mnt(&mount, "192.0.2.1", "/lab/a").unwrap();
        let bytes = |version, procedure| {
            let mut w = Writer::new();
            mount
                .call(&cx("192.0.2.1"), version, procedure, &[], &mut w)
                .unwrap();
            w.into_bytes()
        };
        assert_eq!(bytes(version, 2), bytes(3, 2));
        assert_eq!(bytes(version, 5), bytes(3, 5));
        assert_eq!(bytes(version, 6), bytes(3, 5));
        call_1::<()>(&mount, "192.0.2.1", version, 3, "/lab");
        assert_eq!(mount.list().len(), 1);
        call_1::<()>(&mount, "192.0.2.1", version, 4, "");
        assert_eq!(mount.list(), []);
    }
}

#[test]
fn pathconf_is_in_version_2_only() {
    let mount = mount();
    let conf: Ppathcnf = call_1(&mount, "::1", 2, 7, "/lab");
    assert_eq!((conf.pc_name_max, conf.pc_link_max), (255, 65_000));
    let none: Ppathcnf = call_1(&mount, "::1", 2, 7, "/none");
    assert_eq!(none, Ppathcnf::default());
    let mut w = Writer::new();
    for (version, procedure) in [(1, 7), (2, 8), (3, 7)] {
        let refused = mount.call(&cx("::1"), version, procedure, &[0; 4], &mut w);
        assert_eq!(refused, Err(CallError::ProcUnavail));
    }
    assert!(w.is_empty());
}

#[test]
fn bad_calls() {
    let mount = mount();
    let mut w = Writer::new();
    assert_eq!(
        mount.call(&cx("::1"), 3, 0, b"junk", &mut w),
        Ok(Mountstat3::MNT3_OK)
    );
    assert_eq!(
        mount.call(&cx("::1"), 3, 6, &[], &mut w),
        Err(CallError::ProcUnavail)
    );
    let four_gib = [0xff; 12];
    let garbage = mount.call(&cx("::1"), 3, 1, &four_gib, &mut w);
    assert!(matches!(garbage, Err(CallError::GarbageArgs(_))));
    let long = to_bytes(&rpc::xdr::Opaque::<2000>(&[b'/'; 1025]));
    let garbage = mount.call(&cx("::1"), 3, 1, &long, &mut w);
    assert!(matches!(garbage, Err(CallError::GarbageArgs(_))));
    assert!(w.is_empty());
    assert!(fail(1, Mountstat3(77), &mut w));
    assert!(!fail(3, Mountstat3(77), &mut w));
    assert_eq!(from_bytes(&w.into_bytes()), Ok(MountRes3::Err(Mountstat3(77))));
}
