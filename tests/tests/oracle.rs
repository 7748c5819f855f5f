//! The codec against an independent one: `nfs3_types`, by other authors, from the same RFCs.
//!
//! For every type that both have, with random values:
//!
//! ```text
//! our value ──(field by field)── their value
//!     │ encode                        │ encode
//!     └──────── the same bytes ───────┘
//!     │ decode by them: their value   │ decode by us: our value
//! ```
//!
//! and whatever is cut off, neither decodes. The translation in the middle is written by hand, so two fields
//! that we encode in the wrong order meet in the wrong place. Their types know no limits; ours are checked
//! at and beyond each.

#![allow(clippy::indexing_slicing, reason = "a panic is how a test fails")]

use nfs3_types::xdr_codec::{List, Pack, Unpack, Void};
use nfs3_types::{mount as their_mount, nfs3 as their_nfs, portmap as their_portmap, rpc as their_rpc};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use proto::mount::{self, Mountstat3};
use proto::nfs3::{self, Ftype3, Nfsstat3, Nfstime3, SetTime, StableHow};
use proto::portmap::{IpProto, Mapping, PmapList};
use rpc::msg::{self, AcceptStat, AuthFlavor, AuthStat, AuthSys, CallHeader, OpaqueAuth, Reply, RpcError};
use rpc::xdr::{self, DecodeError, DecodeErrorKind, Encode, Opaque, Reader, Writer};
use std::fmt::Debug;

type TheirOpaque = nfs3_types::xdr_codec::Opaque<'static>;

// --- the property -----------------------------------------------------------------------------------

/// A type of ours whose random values [`Sample::any`] makes.
trait Sample: Sized + Debug + 'static {
    fn any() -> BoxedStrategy<Self>;
}

/// Our value as one of theirs.
trait To<Theirs> {
    fn to(&self) -> Theirs;
}

fn pack<T: Pack>(theirs: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = theirs.pack(&mut bytes).expect("their encoder writes to memory");
    assert_eq!((len, theirs.packed_size()), (bytes.len(), bytes.len()));
    bytes
}

/// Their value, if the bytes are one and nothing is left over.
fn unpack<T: Unpack>(mut bytes: &[u8]) -> Option<T> {
    let (value, _) = T::unpack(&mut bytes).ok()?;
    bytes.is_empty().then_some(value)
}

/// Holds one value of ours against theirs. `decode` decodes bytes as our type and compares with the value.
fn agree<Ours, Theirs>(
    ours: &Ours,
    decode: impl Fn(&[u8]) -> xdr::Result<bool>,
    cut: prop::sample::Index,
) -> Result<(), TestCaseError>
where
    Ours: Encode + Debug + To<Theirs>,
    Theirs: Pack + Unpack + Debug,
{
    let theirs = ours.to();
    let bytes = &xdr::to_bytes(ours)[..];
    prop_assert_eq!(
        &pack(&theirs)[..],
        bytes,
        "the encodings of {:?} and {:?} differ",
        ours,
        theirs
    );
    let decoded = unpack::<Theirs>(bytes);
    prop_assert_eq!(format!("{decoded:?}"), format!("{:?}", Some(&theirs)));
    let again = decoded.map(|theirs| pack(&theirs));
    prop_assert_eq!(again.as_deref(), Some(bytes));
    prop_assert_eq!(
        decode(bytes),
        Ok(true),
        "our own {:?} comes back as another",
        ours
    );
    if !bytes.is_empty() {
        let less = &bytes[..cut.index(bytes.len())];
        prop_assert!(unpack::<Theirs>(less).is_none(), "they decode {:?}", less);
        prop_assert!(decode(less).is_err(), "we decode {:?}", less);
    }
    Ok(())
}

/// `==` for values that borrow from different places.
fn same<T: PartialEq>(a: &T, b: &T) -> bool {
    a == b
}

/// A failing case is printed in its simplest form; its seed goes to a file from which every later run repeats it.
fn config(cases: u32) -> ProptestConfig {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regressions/oracle.txt");
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(kept)) as _);
    ProptestConfig {
        cases,
        failure_persistence,
        ..ProptestConfig::default()
    }
}

/// One test for each pair of types.
macro_rules! agreement {
    ($($test:ident: $ours:ty => $theirs:ty;)*) => {
        proptest! {
            #![proptest_config(config(200))]
            $(#[test]
            fn $test(ours in <$ours>::any(), cut in any::<prop::sample::Index>()) {
                let decode = |bytes: &[u8]| Ok(same(&xdr::from_bytes(bytes)?, &ours));
                agree::<_, $theirs>(&ours, decode, cut)?;
            })*
        }
    };
}

// --- samples of the elements ------------------------------------------------------------------------

/// Bytes to cut opaque data out of, so that a sample can borrow.
static POOL: [u8; 4096] = {
    let mut pool = [0; 4096];
    let (mut i, mut state) = (0, 0x2545_f491_4f6c_dd1d_u64);
    while i < pool.len() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pool[i] = (state >> 32) as u8;
        i += 1;
    }
    pool
};

fn bytes(len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = &'static [u8]> {
    (len, any::<prop::sample::Index>()).prop_map(|(len, at)| &POOL[at.index(POOL.len() - len + 1)..][..len])
}

impl<const MAX: usize> Sample for Opaque<'static, MAX> {
    fn any() -> BoxedStrategy<Self> {
        let longest = MAX.min(2000);
        prop_oneof![
            8 => bytes(0..=longest.min(70)),
            1 => bytes(0..=longest),
            1 => bytes(longest..=longest),
        ]
        .prop_map(Opaque)
        .boxed()
    }
}

macro_rules! sample_as_proptest_does {
    ($($ty:ty)*) => {$(
        impl Sample for $ty {
            fn any() -> BoxedStrategy<Self> {
                prop_oneof![1 => Just(<$ty>::MIN), 1 => Just(<$ty>::MAX), 6 => any::<$ty>()].boxed()
            }
        }
        impl To<$ty> for $ty {
            fn to(&self) -> $ty {
                *self
            }
        }
    )*};
}
sample_as_proptest_does! { u32 u64 }

impl Sample for bool {
    fn any() -> BoxedStrategy<Self> {
        any::<bool>().boxed()
    }
}

impl To<bool> for bool {
    fn to(&self) -> bool {
        *self
    }
}

impl Sample for () {
    fn any() -> BoxedStrategy<Self> {
        Just(()).boxed()
    }
}

impl To<Void> for () {
    fn to(&self) -> Void {
        Void
    }
}

impl Sample for [u8; 8] {
    fn any() -> BoxedStrategy<Self> {
        any::<[u8; 8]>().boxed()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn any() -> BoxedStrategy<Self> {
        prop::option::of(T::any()).boxed()
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn any() -> BoxedStrategy<Self> {
        prop::collection::vec(T::any(), 0..5).boxed()
    }
}

impl To<Vec<u32>> for Vec<u32> {
    fn to(&self) -> Vec<u32> {
        self.clone()
    }
}

impl<T: To<U>, U> To<List<U>> for Vec<T> {
    fn to(&self) -> List<U> {
        List(self.iter().map(To::to).collect())
    }
}

impl<T: To<U>, U: Pack + Unpack> To<their_nfs::Nfs3Option<U>> for Option<T> {
    fn to(&self) -> their_nfs::Nfs3Option<U> {
        match self {
            Some(value) => their_nfs::Nfs3Option::Some(value.to()),
            None => their_nfs::Nfs3Option::None,
        }
    }
}

/// Types of theirs that wrap one of ours: `Ours => wrapper`.
macro_rules! wrapped {
    ($($ours:ty => $($theirs:ty),+;)*) => {$($(
        impl To<$theirs> for $ours {
            fn to(&self) -> $theirs {
                type Theirs = $theirs;
                Theirs { 0: self.to() }
            }
        }
    )+)*};
}

impl<const MAX: usize> To<TheirOpaque> for Opaque<'static, MAX> {
    fn to(&self) -> TheirOpaque {
        TheirOpaque::borrowed(self.0)
    }
}

impl To<[u8; 8]> for [u8; 8] {
    fn to(&self) -> [u8; 8] {
        *self
    }
}

wrapped! {
    Opaque<'static, { xdr::RECORD }> => their_nfs::filename3<'static>, their_nfs::nfspath3<'static>;
    nfs3::NfsFh3<'static> => their_mount::fhandle3<'static>;
    mount::DirPath<'static> => their_mount::dirpath<'static>;
    mount::Name<'static> => their_mount::name<'static>;
    [u8; 8] => their_nfs::cookieverf3, their_nfs::createverf3, their_nfs::writeverf3;
}

/// Enums: the same names on both sides. A name that one side lacks does not compile or panics.
macro_rules! enums {
    ($($ours:ident => $module:ident::$theirs:ident { $($name:ident $(= $their_name:ident)?),* })*) => {$(
        impl Sample for $ours {
            fn any() -> BoxedStrategy<Self> {
                prop::sample::select($ours::ALL).boxed()
            }
        }
        impl To<$module::$theirs> for $ours {
            fn to(&self) -> $module::$theirs {
                match *self {
                    $($ours::$name => enums!(@name $module::$theirs, $name $($their_name)?),)*
                    other => panic!("they have no {other}"),
                }
            }
        }
    )*};
    (@name $module:ident::$theirs:ident, $name:ident) => { $module::$theirs::$name };
    (@name $module:ident::$theirs:ident, $name:ident $their_name:ident) => { $module::$theirs::$their_name };
}

enums! {
    Ftype3 => their_nfs::ftype3 { NF3REG, NF3DIR, NF3BLK, NF3CHR, NF3LNK, NF3SOCK, NF3FIFO }
    StableHow => their_nfs::stable_how { UNSTABLE, DATA_SYNC, FILE_SYNC }
    Nfsstat3 => their_nfs::nfsstat3 {
        NFS3_OK, NFS3ERR_PERM, NFS3ERR_NOENT, NFS3ERR_IO, NFS3ERR_NXIO, NFS3ERR_ACCES, NFS3ERR_EXIST,
        NFS3ERR_XDEV, NFS3ERR_NODEV, NFS3ERR_NOTDIR, NFS3ERR_ISDIR, NFS3ERR_INVAL, NFS3ERR_FBIG,
        NFS3ERR_NOSPC, NFS3ERR_ROFS, NFS3ERR_MLINK, NFS3ERR_NAMETOOLONG, NFS3ERR_NOTEMPTY, NFS3ERR_DQUOT,
        NFS3ERR_STALE, NFS3ERR_REMOTE, NFS3ERR_BADHANDLE, NFS3ERR_NOT_SYNC, NFS3ERR_BAD_COOKIE,
        NFS3ERR_NOTSUPP, NFS3ERR_TOOSMALL, NFS3ERR_SERVERFAULT, NFS3ERR_BADTYPE, NFS3ERR_JUKEBOX
    }
    Mountstat3 => their_mount::mountstat3 {
        MNT3_OK, MNT3ERR_PERM, MNT3ERR_NOENT, MNT3ERR_IO, MNT3ERR_ACCES, MNT3ERR_NOTDIR, MNT3ERR_INVAL,
        MNT3ERR_NAMETOOLONG, MNT3ERR_NOTSUPP, MNT3ERR_SERVERFAULT
    }
    AuthStat => their_rpc::auth_stat {
        AUTH_OK, AUTH_BADCRED, AUTH_REJECTEDCRED, AUTH_BADVERF, AUTH_REJECTEDVERF, AUTH_TOOWEAK,
        AUTH_INVALIDRESP, AUTH_FAILED
    }
    AcceptStat => their_rpc::accept_stat {
        SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR
    }
    AuthFlavor => their_rpc::auth_flavor {
        AUTH_NONE = AUTH_NULL, AUTH_SYS = AUTH_UNIX, AUTH_SHORT, AUTH_DH = AUTH_DES
    }
}

// --- structures -------------------------------------------------------------------------------------

/// `(a, (b, (c, ())))`, for tuples longer than proptest's.
macro_rules! nest {
    ($wrap:ident;) => { nest!(@end $wrap) };
    ($wrap:ident; $field:ident $($rest:ident)*) => {
        (nest!(@item $wrap $field), nest!($wrap; $($rest)*))
    };
    (@end any) => { Just(()) };
    (@end bind) => { () };
    (@item any $field:ident) => { Sample::any() };
    (@item bind $field:ident) => { $field };
}

/// Structures: their random values, and each field's counterpart. `field` stands for `field = field`.
macro_rules! structs {
    ($($(#[$only:ident])? $ours:ty => [$theirs:ty] { $($field:ident $(= $their_field:ident)?),* $(,)? })*) => {$(
        structs!(@sample $($only)? $ours { $($field),* });
        impl To<$theirs> for $ours {
            fn to(&self) -> $theirs {
                structs!(@literal self $theirs { $($field $($their_field)?,)* })
            }
        }
    )*};
    (@sample conversion $ours:ty { $($field:ident),* }) => {};
    (@sample $ours:ty { $($field:ident),* }) => {
        impl Sample for $ours {
            fn any() -> BoxedStrategy<Self> {
                type Ours = $ours;
                nest!(any; $($field)*).prop_map(|nest!(bind; $($field)*)| Ours { $($field),* }).boxed()
            }
        }
    };
    (@literal $self:ident $theirs:ty { $($field:ident $($their_field:ident)?,)* }) => {
        structs!(@fields $self $theirs { } $($field $($their_field)?,)*)
    };
    (@fields $self:ident $theirs:ty { $($done:tt)* }) => { { type Theirs = $theirs; Theirs { $($done)* } } };
    (@fields $self:ident $theirs:ty { $($done:tt)* } $field:ident, $($rest:tt)*) => {
        structs!(@fields $self $theirs { $($done)* $field: $self.$field.to(), } $($rest)*)
    };
    (@fields $self:ident $theirs:ty { $($done:tt)* } $field:ident $their_field:ident, $($rest:tt)*) => {
        structs!(@fields $self $theirs { $($done)* $their_field: $self.$field.to(), } $($rest)*)
    };
}

structs! {
    Nfstime3 => [their_nfs::nfstime3] { seconds, nseconds }
    nfs3::Specdata3 => [their_nfs::specdata3] { specdata1, specdata2 }
    nfs3::Fattr3 => [their_nfs::fattr3] {
        ftype = type_, mode, nlink, uid, gid, size, used, rdev, fsid, fileid, atime, mtime, ctime
    }
    nfs3::WccAttr => [their_nfs::wcc_attr] { size, mtime, ctime }
    nfs3::WccData => [their_nfs::wcc_data] { before, after }
    nfs3::Sattr3 => [their_nfs::sattr3] { mode, uid, gid, size, atime, mtime }
    nfs3::Diropargs3<'static> => [their_nfs::diropargs3<'static>] { dir, name }

    nfs3::Setattr3Args<'static> => [their_nfs::SETATTR3args] { object, new_attributes, guard }
    nfs3::Lookup3Ok<'static> => [their_nfs::LOOKUP3resok] { object, obj_attributes, dir_attributes }
    nfs3::Access3Args<'static> => [their_nfs::ACCESS3args] { object, access }
    nfs3::Access3Ok => [their_nfs::ACCESS3resok] { obj_attributes, access }
    nfs3::Readlink3Ok<'static> => [their_nfs::READLINK3resok<'static>] { symlink_attributes, data }
    nfs3::Read3Args<'static> => [their_nfs::READ3args] { file, offset, count }
    nfs3::Read3Ok<'static> => [their_nfs::READ3resok<'static>] { file_attributes, count, eof, data }
    nfs3::Write3Args<'static> => [their_nfs::WRITE3args<'static>] { file, offset, count, stable, data }
    nfs3::Write3Ok => [their_nfs::WRITE3resok] { file_wcc, count, committed, verf }
    nfs3::Commit3Args<'static> => [their_nfs::COMMIT3args] { file, offset, count }
    nfs3::Commit3Ok => [their_nfs::COMMIT3resok] { file_wcc, verf }
    nfs3::Create3Args<'static> => [their_nfs::CREATE3args<'static>] { where_, how }
    nfs3::Create3Ok<'static> => [their_nfs::CREATE3resok] { obj, obj_attributes, dir_wcc }
    #[conversion] nfs3::Create3Ok<'static> => [their_nfs::MKDIR3resok] { obj, obj_attributes, dir_wcc }
    #[conversion] nfs3::Create3Ok<'static> => [their_nfs::SYMLINK3resok] { obj, obj_attributes, dir_wcc }
    #[conversion] nfs3::Create3Ok<'static> => [their_nfs::MKNOD3resok] { obj, obj_attributes, dir_wcc }
    nfs3::Mkdir3Args<'static> => [their_nfs::MKDIR3args<'static>] { where_, attributes }
    nfs3::Mknod3Args<'static> => [their_nfs::MKNOD3args<'static>] { where_, what }
    nfs3::Rename3Args<'static> => [their_nfs::RENAME3args<'static, 'static>] { from, to }
    nfs3::Rename3Wcc => [their_nfs::RENAME3resok] { fromdir_wcc, todir_wcc }
    #[conversion] nfs3::Rename3Wcc => [their_nfs::RENAME3resfail] { fromdir_wcc, todir_wcc }
    nfs3::Link3Args<'static> => [their_nfs::LINK3args<'static>] { file, link }
    nfs3::Link3Wcc => [their_nfs::LINK3resok] { file_attributes, linkdir_wcc }
    #[conversion] nfs3::Link3Wcc => [their_nfs::LINK3resfail] { file_attributes, linkdir_wcc }
    nfs3::Readdir3Args<'static> => [their_nfs::READDIR3args] { dir, cookie, cookieverf, count }
    nfs3::Readdirplus3Args<'static> => [their_nfs::READDIRPLUS3args] {
        dir, cookie, cookieverf, dircount, maxcount
    }
    nfs3::Entry3<'static> => [their_nfs::entry3<'static>] { fileid, name, cookie }
    nfs3::Entryplus3<'static> => [their_nfs::entryplus3<'static>] { fileid, name, cookie, name_attributes, name_handle }
    nfs3::Fsstat3Ok => [their_nfs::FSSTAT3resok] {
        obj_attributes, tbytes, fbytes, abytes, tfiles, ffiles, afiles, invarsec
    }
    nfs3::Fsinfo3Ok => [their_nfs::FSINFO3resok] {
        obj_attributes, rtmax, rtpref, rtmult, wtmax, wtpref, wtmult, dtpref, maxfilesize, time_delta,
        properties
    }
    nfs3::Pathconf3Ok => [their_nfs::PATHCONF3resok] {
        obj_attributes, linkmax, name_max, no_trunc, chown_restricted, case_insensitive, case_preserving
    }

    mount::MountBody<'static> => [their_mount::mountbody<'static, 'static>] { ml_hostname, ml_directory }
    mount::ExportNode<'static> => [their_mount::export_node<'static, 'static>] { ex_dir, ex_groups }
    Mapping => [their_portmap::mapping] { prog, vers, prot, port }
    OpaqueAuth<'static> => [their_rpc::opaque_auth<'static>] { flavor, body }
}

/// Where they have a structure of one field and we have the field.
macro_rules! sole_fields {
    ($($ours:ty => $([$theirs:ty] { $field:ident }),+;)*) => {$($(
        impl To<$theirs> for $ours {
            fn to(&self) -> $theirs {
                type Theirs = $theirs;
                Theirs { $field: self.to() }
            }
        }
    )+)*};
}

sole_fields! {
    nfs3::NfsFh3<'static> =>
        [their_nfs::nfs_fh3] { data },
        [their_nfs::GETATTR3args] { object },
        [their_nfs::READLINK3args] { symlink },
        [their_nfs::FSSTAT3args] { fsroot },
        [their_nfs::FSINFO3args] { fsroot },
        [their_nfs::PATHCONF3args] { object };
    nfs3::Diropargs3<'static> =>
        [their_nfs::LOOKUP3args<'static>] { what },
        [their_nfs::REMOVE3args<'static>] { object },
        [their_nfs::RMDIR3args<'static>] { object };
    nfs3::Fattr3 => [their_nfs::GETATTR3resok] { obj_attributes };
    nfs3::WccData =>
        [their_nfs::SETATTR3resok] { obj_wcc },
        [their_nfs::SETATTR3resfail] { obj_wcc },
        [their_nfs::WRITE3resfail] { file_wcc },
        [their_nfs::COMMIT3resfail] { file_wcc },
        [their_nfs::CREATE3resfail] { dir_wcc },
        [their_nfs::MKDIR3resfail] { dir_wcc },
        [their_nfs::SYMLINK3resfail] { dir_wcc },
        [their_nfs::MKNOD3resfail] { dir_wcc },
        [their_nfs::REMOVE3resok] { dir_wcc },
        [their_nfs::REMOVE3resfail] { dir_wcc },
        [their_nfs::RMDIR3resok] { dir_wcc },
        [their_nfs::RMDIR3resfail] { dir_wcc };
    nfs3::PostOpAttr =>
        [their_nfs::LOOKUP3resfail] { dir_attributes },
        [their_nfs::ACCESS3resfail] { obj_attributes },
        [their_nfs::READLINK3resfail] { symlink_attributes },
        [their_nfs::READ3resfail] { file_attributes },
        [their_nfs::READDIR3resfail] { dir_attributes },
        [their_nfs::READDIRPLUS3resfail] { dir_attributes },
        [their_nfs::FSSTAT3resfail] { obj_attributes },
        [their_nfs::FSINFO3resfail] { obj_attributes },
        [their_nfs::PATHCONF3resfail] { obj_attributes };
}

// --- unions and lists -------------------------------------------------------------------------------

impl<T: Sample, F: Sample> Sample for nfs3::Res3<T, F> {
    fn any() -> BoxedStrategy<Self> {
        let failures = prop::sample::select(&Nfsstat3::ALL[1..]);
        prop_oneof![
            2 => T::any().prop_map(nfs3::Res3::Ok),
            1 => (failures, F::any()).prop_map(|(status, fail)| nfs3::Res3::Err(status, fail)),
        ]
        .boxed()
    }
}

impl<T: To<A>, F: To<B>, A, B> To<their_nfs::Nfs3Result<A, B>> for nfs3::Res3<T, F> {
    fn to(&self) -> their_nfs::Nfs3Result<A, B> {
        match self {
            nfs3::Res3::Ok(ok) => their_nfs::Nfs3Result::Ok(ok.to()),
            nfs3::Res3::Err(status, fail) => their_nfs::Nfs3Result::Err((status.to(), fail.to())),
        }
    }
}

impl Sample for SetTime {
    fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            Just(SetTime::DontChange),
            Just(SetTime::ServerTime),
            Sample::any().prop_map(SetTime::ClientTime),
        ]
        .boxed()
    }
}

macro_rules! set_time {
    ($($theirs:ident)*) => {$(
        impl To<their_nfs::$theirs> for SetTime {
            fn to(&self) -> their_nfs::$theirs {
                match self {
                    SetTime::DontChange => their_nfs::$theirs::DONT_CHANGE,
                    SetTime::ServerTime => their_nfs::$theirs::SET_TO_SERVER_TIME,
                    SetTime::ClientTime(time) => their_nfs::$theirs::SET_TO_CLIENT_TIME(time.to()),
                }
            }
        }
    )*};
}
set_time! { set_atime set_mtime }

impl Sample for nfs3::CreateHow3 {
    fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            Sample::any().prop_map(nfs3::CreateHow3::Unchecked),
            Sample::any().prop_map(nfs3::CreateHow3::Guarded),
            Sample::any().prop_map(nfs3::CreateHow3::Exclusive),
        ]
        .boxed()
    }
}

impl To<their_nfs::createhow3> for nfs3::CreateHow3 {
    fn to(&self) -> their_nfs::createhow3 {
        match self {
            nfs3::CreateHow3::Unchecked(attributes) => their_nfs::createhow3::UNCHECKED(attributes.to()),
            nfs3::CreateHow3::Guarded(attributes) => their_nfs::createhow3::GUARDED(attributes.to()),
            nfs3::CreateHow3::Exclusive(verf) => their_nfs::createhow3::EXCLUSIVE(verf.to()),
        }
    }
}

/// Only the types that carry data: they cannot encode the others.
impl Sample for nfs3::MknodData3 {
    fn any() -> BoxedStrategy<Self> {
        let device = prop::sample::select(vec![Ftype3::NF3CHR, Ftype3::NF3BLK]);
        let pipe = prop::sample::select(vec![Ftype3::NF3SOCK, Ftype3::NF3FIFO]);
        prop_oneof![
            (device, Sample::any(), Sample::any())
                .prop_map(|(t, attributes, spec)| nfs3::MknodData3::Device(t, attributes, spec)),
            (pipe, Sample::any()).prop_map(|(t, attributes)| nfs3::MknodData3::Pipe(t, attributes)),
        ]
        .boxed()
    }
}

impl To<their_nfs::mknoddata3> for nfs3::MknodData3 {
    fn to(&self) -> their_nfs::mknoddata3 {
        use their_nfs::mknoddata3 as theirs;
        match self {
            nfs3::MknodData3::Device(t, attributes, spec) => {
                let device = their_nfs::devicedata3 {
                    dev_attributes: attributes.to(),
                    spec: spec.to(),
                };
                match *t {
                    Ftype3::NF3CHR => theirs::NF3CHR(device),
                    Ftype3::NF3BLK => theirs::NF3BLK(device),
                    t => panic!("{t} is no device"),
                }
            }
            nfs3::MknodData3::Pipe(Ftype3::NF3SOCK, attributes) => theirs::NF3SOCK(attributes.to()),
            nfs3::MknodData3::Pipe(_, attributes) => theirs::NF3FIFO(attributes.to()),
            nfs3::MknodData3::Other(_) => theirs::default,
        }
    }
}

impl Sample for nfs3::Symlink3Args<'static> {
    fn any() -> BoxedStrategy<Self> {
        (Sample::any(), Sample::any(), Sample::any())
            .prop_map(|(where_, symlink_attributes, symlink_data)| nfs3::Symlink3Args {
                where_,
                symlink_attributes,
                symlink_data,
            })
            .boxed()
    }
}

impl To<their_nfs::SYMLINK3args<'static>> for nfs3::Symlink3Args<'static> {
    fn to(&self) -> their_nfs::SYMLINK3args<'static> {
        let symlink = their_nfs::symlinkdata3 {
            symlink_attributes: self.symlink_attributes.to(),
            symlink_data: self.symlink_data.to(),
        };
        their_nfs::SYMLINK3args {
            where_: self.where_.to(),
            symlink,
        }
    }
}

impl<E: Sample> Sample for nfs3::DirList3<E> {
    fn any() -> BoxedStrategy<Self> {
        (Sample::any(), Sample::any(), Sample::any(), Sample::any())
            .prop_map(|(dir_attributes, cookieverf, entries, eof)| nfs3::DirList3 {
                dir_attributes,
                cookieverf,
                entries,
                eof,
            })
            .boxed()
    }
}

macro_rules! dir_lists {
    ($($entry:ident => $resok:ident, $list:ident;)*) => {$(
        impl To<their_nfs::$resok<'static>> for nfs3::DirList3<nfs3::$entry<'static>> {
            fn to(&self) -> their_nfs::$resok<'static> {
                their_nfs::$resok {
                    dir_attributes: self.dir_attributes.to(),
                    cookieverf: self.cookieverf.to(),
                    reply: their_nfs::$list { entries: self.entries.to(), eof: self.eof },
                }
            }
        }
    )*};
}
dir_lists! {
    Entry3 => READDIR3resok, dirlist3;
    Entryplus3 => READDIRPLUS3resok, dirlistplus3;
}

impl Sample for mount::MountRes3<'static> {
    fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            (Sample::any(), Sample::any()).prop_map(|(fhandle, auth_flavors)| mount::MountRes3::Ok {
                fhandle,
                auth_flavors
            }),
            prop::sample::select(&Mountstat3::ALL[1..]).prop_map(mount::MountRes3::Err),
        ]
        .boxed()
    }
}

impl To<their_mount::mountres3<'static>> for mount::MountRes3<'static> {
    fn to(&self) -> their_mount::mountres3<'static> {
        match self {
            mount::MountRes3::Ok {
                fhandle,
                auth_flavors,
            } => their_mount::mountres3::Ok(their_mount::mountres3_ok {
                fhandle: fhandle.to(),
                auth_flavors: auth_flavors.clone(),
            }),
            mount::MountRes3::Err(status) => their_mount::mountres3::Err(status.to()),
        }
    }
}

macro_rules! lists {
    ($($ours:ty => $list:path: $theirs:ty;)*) => {$(
        impl Sample for $ours {
            fn any() -> BoxedStrategy<Self> {
                Sample::any().prop_map($list).boxed()
            }
        }
        impl To<List<$theirs>> for $ours {
            fn to(&self) -> List<$theirs> {
                self.0.to()
            }
        }
    )*};
}
lists! {
    mount::MountList<'static> => mount::MountList: their_mount::mountbody<'static, 'static>;
    mount::Exports<'static> => mount::Exports: their_mount::export_node<'static, 'static>;
    PmapList => PmapList: their_portmap::mapping;
}

impl Sample for IpProto {
    fn any() -> BoxedStrategy<Self> {
        u32::any().prop_map(IpProto).boxed()
    }
}

impl To<u32> for IpProto {
    fn to(&self) -> u32 {
        self.0
    }
}

// --- the pairs --------------------------------------------------------------------------------------

agreement! {
    getattr_args: nfs3::Getattr3Args<'static> => their_nfs::GETATTR3args;
    getattr_res: nfs3::Getattr3Res => their_nfs::GETATTR3res;
    setattr_args: nfs3::Setattr3Args<'static> => their_nfs::SETATTR3args;
    setattr_res: nfs3::Setattr3Res => their_nfs::SETATTR3res;
    lookup_args: nfs3::Diropargs3<'static> => their_nfs::LOOKUP3args<'static>;
    lookup_res: nfs3::Lookup3Res<'static> => their_nfs::LOOKUP3res;
    access_args: nfs3::Access3Args<'static> => their_nfs::ACCESS3args;
    access_res: nfs3::Access3Res => their_nfs::ACCESS3res;
    readlink_args: nfs3::NfsFh3<'static> => their_nfs::READLINK3args;
    readlink_res: nfs3::Readlink3Res<'static> => their_nfs::READLINK3res<'static>;
    read_args: nfs3::Read3Args<'static> => their_nfs::READ3args;
    read_res: nfs3::Read3Res<'static> => their_nfs::READ3res<'static>;
    write_args: nfs3::Write3Args<'static> => their_nfs::WRITE3args<'static>;
    write_res: nfs3::Write3Res => their_nfs::WRITE3res;
    commit_args: nfs3::Commit3Args<'static> => their_nfs::COMMIT3args;
    commit_res: nfs3::Commit3Res => their_nfs::COMMIT3res;
    create_args: nfs3::Create3Args<'static> => their_nfs::CREATE3args<'static>;
    create_res: nfs3::Create3Res<'static> => their_nfs::CREATE3res;
    mkdir_args: nfs3::Mkdir3Args<'static> => their_nfs::MKDIR3args<'static>;
    mkdir_res: nfs3::Create3Res<'static> => their_nfs::MKDIR3res;
    symlink_args: nfs3::Symlink3Args<'static> => their_nfs::SYMLINK3args<'static>;
    symlink_res: nfs3::Create3Res<'static> => their_nfs::SYMLINK3res;
    mknod_args: nfs3::Mknod3Args<'static> => their_nfs::MKNOD3args<'static>;
    mknod_res: nfs3::Create3Res<'static> => their_nfs::MKNOD3res;
    remove_args: nfs3::Remove3Args<'static> => their_nfs::REMOVE3args<'static>;
    remove_res: nfs3::Remove3Res => their_nfs::REMOVE3res;
    rmdir_args: nfs3::Remove3Args<'static> => their_nfs::RMDIR3args<'static>;
    rmdir_res: nfs3::Remove3Res => their_nfs::RMDIR3res;
    rename_args: nfs3::Rename3Args<'static> => their_nfs::RENAME3args<'static, 'static>;
    rename_res: nfs3::Rename3Res => their_nfs::RENAME3res;
    link_args: nfs3::Link3Args<'static> => their_nfs::LINK3args<'static>;
    link_res: nfs3::Link3Res => their_nfs::LINK3res;
    readdir_args: nfs3::Readdir3Args<'static> => their_nfs::READDIR3args;
    readdir_res: nfs3::Readdir3Res<'static> => their_nfs::READDIR3res<'static>;
    readdirplus_args: nfs3::Readdirplus3Args<'static> => their_nfs::READDIRPLUS3args;
    readdirplus_res: nfs3::Readdirplus3Res<'static> => their_nfs::READDIRPLUS3res<'static>;
    fsstat_args: nfs3::NfsFh3<'static> => their_nfs::FSSTAT3args;
    fsstat_res: nfs3::Fsstat3Res => their_nfs::FSSTAT3res;
    fsinfo_args: nfs3::NfsFh3<'static> => their_nfs::FSINFO3args;
    fsinfo_res: nfs3::Fsinfo3Res => their_nfs::FSINFO3res;
    pathconf_args: nfs3::NfsFh3<'static> => their_nfs::PATHCONF3args;
    pathconf_res: nfs3::Pathconf3Res => their_nfs::PATHCONF3res;

    mnt_and_umnt_args: mount::DirPath<'static> => their_mount::dirpath<'static>;
    mnt_res: mount::MountRes3<'static> => their_mount::mountres3<'static>;
    mount_dump_res: mount::MountList<'static> => their_mount::mountlist<'static, 'static>;
    export_res: mount::Exports<'static> => their_mount::exports<'static, 'static>;

    set_unset_and_getport_args: Mapping => their_portmap::mapping;
    set_and_unset_res: bool => bool;
    getport_res: u32 => u32;
    portmap_dump_res: PmapList => their_portmap::pmaplist;
}

// --- the RPC headers --------------------------------------------------------------------------------

/// Flavours that both know.
fn auth() -> impl Strategy<Value = OpaqueAuth<'static>> {
    let flavors = vec![
        AuthFlavor::AUTH_NONE,
        AuthFlavor::AUTH_SYS,
        AuthFlavor::AUTH_SHORT,
        AuthFlavor::AUTH_DH,
    ];
    (prop::sample::select(flavors), Sample::any()).prop_map(|(flavor, body)| OpaqueAuth { flavor, body })
}

fn their_call(h: &CallHeader<'static>) -> their_rpc::rpc_msg<'static, 'static> {
    their_rpc::rpc_msg {
        xid: h.xid,
        body: their_rpc::msg_body::CALL(their_rpc::call_body {
            rpcvers: 2,
            prog: h.program,
            vers: h.version,
            proc: h.procedure,
            cred: h.cred.to(),
            verf: h.verf.to(),
        }),
    }
}

fn their_reply(xid: u32, body: their_rpc::reply_body<'static>) -> their_rpc::rpc_msg<'static, 'static> {
    their_rpc::rpc_msg {
        xid,
        body: their_rpc::msg_body::REPLY(body),
    }
}

fn their_accepted(data: their_rpc::accept_stat_data) -> their_rpc::reply_body<'static> {
    let verf = their_rpc::opaque_auth::default();
    their_rpc::reply_body::MSG_ACCEPTED(their_rpc::accepted_reply {
        verf,
        reply_data: data,
    })
}

/// Each refusal that RFC 5531 has, in our words and in theirs.
fn refusal() -> impl Strategy<Value = RpcError> {
    prop_oneof![
        Just(RpcError::ProgUnavail),
        any::<(u32, u32)>().prop_map(|(low, high)| RpcError::ProgMismatch { low, high }),
        Just(RpcError::ProcUnavail),
        Just(RpcError::GarbageArgs),
        Just(RpcError::SystemErr),
        any::<(u32, u32)>().prop_map(|(low, high)| RpcError::RpcMismatch { low, high }),
        AuthStat::any().prop_map(RpcError::Auth),
    ]
}

fn their_refusal(error: RpcError) -> their_rpc::reply_body<'static> {
    use their_rpc::{accept_stat_data as accept, rejected_reply as reject, reply_body::MSG_DENIED};
    match error {
        RpcError::ProgUnavail => their_accepted(accept::PROG_UNAVAIL),
        RpcError::ProgMismatch { low, high } => their_accepted(accept::PROG_MISMATCH { low, high }),
        RpcError::ProcUnavail => their_accepted(accept::PROC_UNAVAIL),
        RpcError::GarbageArgs => their_accepted(accept::GARBAGE_ARGS),
        RpcError::SystemErr => their_accepted(accept::SYSTEM_ERR),
        RpcError::RpcMismatch { low, high } => MSG_DENIED(reject::RPC_MISMATCH { low, high }),
        RpcError::Auth(stat) => MSG_DENIED(reject::AUTH_ERROR(stat.to())),
        RpcError::Unknown(stat) => panic!("RFC 5531 has no accept_stat {stat}"),
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn call_header(
        numbers in any::<[u32; 4]>(),
        cred in auth(),
        verf in auth(),
        cut in any::<prop::sample::Index>(),
    ) {
        let [xid, program, version, procedure] = numbers;
        let ours = CallHeader { xid, program, version, procedure, cred, verf };
        let theirs = their_call(&ours);
        let bytes = xdr::to_bytes(&ours);
        prop_assert_eq!(&pack(&theirs)[..], &bytes[..]);
        let decoded = unpack::<their_rpc::rpc_msg<'static, 'static>>(&bytes);
        prop_assert_eq!(format!("{decoded:?}"), format!("{:?}", Some(theirs)));
        prop_assert_eq!(CallHeader::read(&mut Reader::new(&bytes)), Ok(ours));
        let less = &bytes[..cut.index(bytes.len())];
        prop_assert!(unpack::<their_rpc::rpc_msg<'static, 'static>>(less).is_none());
        prop_assert!(CallHeader::read(&mut Reader::new(less)).is_err());
    }

    #[test]
    fn auth_sys(
        numbers in any::<[u32; 3]>(),
        name in <Opaque<'static, { msg::MAX_MACHINE_NAME }> as Sample>::any(),
        gids in prop::collection::vec(any::<u32>(), 0..=16),
        cut in any::<prop::sample::Index>(),
    ) {
        let [stamp, uid, gid] = numbers;
        let words: Vec<_> = gids.iter().map(|gid| gid.to_be_bytes()).collect();
        let ours = AuthSys { stamp, machine_name: name, uid, gid, gids: &words };
        let theirs = their_rpc::auth_unix { stamp, machinename: name.to(), uid, gid, gids };
        let bytes = xdr::to_bytes(&ours);
        prop_assert_eq!(&pack(&theirs)[..], &bytes[..]);
        let decoded = unpack::<their_rpc::auth_unix>(&bytes);
        prop_assert_eq!(format!("{decoded:?}"), format!("{:?}", Some(theirs)));
        prop_assert_eq!(xdr::from_bytes::<AuthSys<'_>>(&bytes), Ok(ours));
        let less = &bytes[..cut.index(bytes.len())];
        prop_assert!(unpack::<their_rpc::auth_unix>(less).is_none());
        prop_assert!(xdr::from_bytes::<AuthSys<'_>>(less).is_err());
    }

    #[test]
    fn refusals(xid in any::<u32>(), error in refusal()) {
        let theirs = their_reply(xid, their_refusal(error));
        let mut w = Writer::new();
        msg::refused(&mut w, xid, error);
        let bytes = w.into_bytes();
        prop_assert_eq!(&pack(&theirs)[..], &bytes[..]);
        let decoded = unpack::<their_rpc::rpc_msg<'static, 'static>>(&bytes);
        prop_assert_eq!(format!("{decoded:?}"), format!("{:?}", Some(theirs)));
        prop_assert_eq!(Reply::read(&bytes), Ok(Reply { xid, result: Err(error) }));
    }

    /// A result with a verifier that we would not send, but must skip.
    #[test]
    fn results(xid in any::<u32>(), verf in auth(), result in bytes(0..=64)) {
        let header = their_rpc::accepted_reply {
            verf: verf.to(),
            reply_data: their_rpc::accept_stat_data::SUCCESS,
        };
        let theirs = pack(&their_reply(xid, their_rpc::reply_body::MSG_ACCEPTED(header)));
        let message = bytes::Bytes::from([&theirs[..], result].concat());
        prop_assert_eq!(
            Reply::read(&message),
            Ok(Reply { xid, result: Ok(bytes::Bytes::from_static(result)) })
        );
        let mut w = Writer::new();
        msg::accepted(&mut w, xid);
        let plain = their_reply(xid, their_accepted(their_rpc::accept_stat_data::SUCCESS));
        prop_assert_eq!(&pack(&plain)[..], &w.into_bytes()[..]);
    }
}

// --- limits -----------------------------------------------------------------------------------------

/// Bytes that the oracle, which has no limits, writes for an opaque item of this length.
fn their_opaque(len: usize) -> Vec<u8> {
    pack(&TheirOpaque::owned(vec![0x61; len]))
}

#[track_caller]
fn check_limit<'a, const MAX: usize>(at: &'a [u8], beyond: &'a [u8]) {
    let taken = xdr::from_bytes::<Opaque<'a, MAX>>(at).expect("an item as long as the limit is taken");
    assert_eq!(taken.len(), MAX);
    assert_eq!(
        xdr::from_bytes::<Opaque<'a, MAX>>(beyond),
        Err(too_long("opaque data", MAX + 1, MAX)),
        "an item of one byte more is not"
    );
}

fn too_long(what: &'static str, len: usize, limit: usize) -> DecodeError {
    DecodeError {
        what,
        offset: 0,
        kind: DecodeErrorKind::TooLong { len, limit },
    }
}

#[test]
fn each_limit_is_kept_to_the_byte() {
    macro_rules! limits {
        ($($limit:expr => $($rfc:literal)+,)*) => {$(
            assert_eq!($limit, $($rfc)+);
            check_limit::<{ $limit }>(&their_opaque($limit), &their_opaque($limit + 1));
        )*};
    }
    limits! {
        nfs3::NFS3_FHSIZE => 64,
        mount::MNTPATHLEN => 1024,
        mount::MNTNAMLEN => 255,
        proto::nlm::MAXNETOBJ_SZ => 1024,
        proto::nlm::MAXSTRLEN => 1024,
        proto::nsm::SM_MAXSTRLEN => 1024,
        msg::MAX_AUTH_BYTES => 400,
        msg::MAX_MACHINE_NAME => 255,
    }
}

#[test]
fn seventeen_groups_are_one_too_many() {
    let credential = |groups: usize| {
        pack(&their_rpc::auth_unix {
            gids: vec![7; groups],
            ..their_rpc::auth_unix::default()
        })
    };
    assert_eq!(
        xdr::from_bytes::<AuthSys<'_>>(&credential(16))
            .expect("sixteen are taken")
            .gids,
        [[0, 0, 0, 7]; 16]
    );
    let refused = xdr::from_bytes::<AuthSys<'_>>(&credential(17)).expect_err("seventeen are not");
    assert_eq!(refused.kind, DecodeErrorKind::TooLong { len: 17, limit: 16 });
}

/// A name over 255 bytes is the file system's to refuse (NFS3ERR_NAMETOOLONG), not the codec's.
#[test]
fn file_names_have_no_limit_but_the_record() {
    let long = their_opaque(70_000);
    let taken = xdr::from_bytes::<nfs3::Filename3<'_>>(&long).expect("any name is taken");
    assert_eq!(taken.len(), 70_000);
}

/// What they refuse and we keep: a value that no specification has.
#[test]
fn an_unknown_status_is_kept_as_it_is() {
    let bytes = 77_u32.to_be_bytes();
    assert!(unpack::<their_nfs::nfsstat3>(&bytes).is_none());
    assert_eq!(xdr::from_bytes::<Nfsstat3>(&bytes), Ok(Nfsstat3(77)));
    assert_eq!(xdr::to_bytes(&Nfsstat3(77)), bytes[..]);
}
