//! What is exported, to whom and as whom; and the way from a file handle to a file.

use crate::cx::{Caller, Cx};
use crate::handle::{By, FileKey, Handle, Handles};
use crate::perm;
use crate::vfs::{Result, Vfs};
use proto::nfs3::{Ftype3, Nfsstat3, Nfstime3};
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

/// What NLM must know of a file before it locks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockable {
    /// Whether the file is there and can be locked.
    pub file: Result<()>,
    /// Whether whoever asks may; yes, where the file cannot be.
    pub permitted: bool,
}

impl Lockable {
    /// Both at once; `NFS3ERR_ACCES` if it is the caller who may not.
    pub fn check(self) -> Result<()> {
        let permitted = self.permitted.then_some(()).ok_or(Nfsstat3::NFS3ERR_ACCES);
        self.file.and(permitted)
    }
}

/// Which callers become the anonymous user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Squash {
    /// None: `no_root_squash`. The default, because root in a test guest must work.
    #[default]
    None,
    /// Root: `root_squash`.
    Root,
    /// Everyone: `all_squash`.
    All,
}

/// Addresses with the same first bits, as in `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    prefix: u8,
}

impl Network {
    /// The addresses that agree with `addr` in the first `prefix` bits; none if there are not so many.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Network> {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Network { addr, prefix })
    }

    /// Whether `peer` is one of them. An IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let shared = match (self.addr.to_canonical(), peer.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Network, String> {
        let wrong = || format!("{text}: expected an address or address/prefix");
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
            None if addr.is_ipv4() => 32,
            None => 128,
        };
        Network::new(addr, prefix).ok_or_else(wrong)
    }
}

/// As `exportfs` and `showmount -e` write it: a single address without its prefix.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addr, self.prefix) {
            (IpAddr::V4(addr), 32) => write!(f, "{addr}"),
            (IpAddr::V6(addr), 128) => write!(f, "{addr}"),
            (addr, prefix) => write!(f, "{addr}/{prefix}"),
        }
    }
}

/// How an export is given out; the names are those of exports(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// `ro`: nothing may be changed.
    pub read_only: bool,
    /// `no_root_squash`, `root_squash`, `all_squash`.
    pub squash: Squash,
    /// `anonuid`.
    pub anon_uid: u32,
    /// `anongid`.
    pub anon_gid: u32,
    /// Who may mount and use it; empty: everyone.
    pub clients: Vec<Network>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        ExportOptions {
            read_only: false,
            squash: Squash::None,
            anon_uid: 65534,
            anon_gid: 65534,
            clients: Vec::new(),
        }
    }
}

/// A store under a name.
#[derive(Clone)]
pub struct Export {
    /// Goes into every handle: keep it the same over restarts if handles are to survive them.
    pub id: u32,
    /// What clients mount: an absolute path such as `/lab`.
    pub name: String,
    /// What is behind it.
    pub store: Arc<dyn Vfs>,
    /// How.
    pub options: ExportOptions,
}

impl Export {
    /// A store under a name, with the default options.
    pub fn new(id: u32, name: impl Into<String>, store: Arc<dyn Vfs>) -> Export {
        Export {
            id,
            name: name.into(),
            store,
            options: ExportOptions::default(),
        }
    }

    /// The same with other options.
    pub fn with_options(mut self, options: ExportOptions) -> Export {
        self.options = options;
        self
    }

    /// Whether `peer` may use it.
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.options.clients.is_empty() || self.options.clients.iter().any(|net| net.contains(peer))
    }

    /// Who the caller is here. The id -1 is nobody's anywhere.
    pub fn squash<'a>(&self, caller: &Caller<'a>) -> Squashed<'a> {
        let options = &self.options;
        let anonymous = caller.uid == u32::MAX || options.squash == Squash::All;
        if anonymous {
            return Squashed {
                uid: options.anon_uid,
                gid: options.anon_gid,
                groups: Cow::Borrowed(&[]),
            };
        }
        let foreign = |gid: u32| gid == u32::MAX || (gid == 0 && options.squash == Squash::Root);
        let group = |gid: u32| if foreign(gid) { options.anon_gid } else { gid };
        Squashed {
            uid: match caller.uid {
                0 if options.squash == Squash::Root => options.anon_uid,
                uid => uid,
            },
            gid: group(caller.gid),
            groups: if caller.groups.iter().any(|gid| foreign(u32::from_be_bytes(*gid))) {
                let group = |gid: &[u8; 4]| group(u32::from_be_bytes(*gid)).to_be_bytes();
                caller.groups.iter().map(group).collect()
            } else {
                Cow::Borrowed(caller.groups)
            },
        }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A caller as an export sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squashed<'a> {
    uid: u32,
    gid: u32,
    groups: Cow<'a, [[u8; 4]]>,
}

impl Squashed<'_> {
    /// For the store.
    pub fn caller(&self) -> Caller<'_> {
        Caller {
            uid: self.uid,
            gid: self.gid,
            groups: &self.groups,
        }
    }
}

/// Why a set of exports cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Names are absolute paths without empty parts, `.` or `..`.
    #[error("export name {0:?}: expected an absolute path such as /lab")]
    Name(String),
    /// Two exports have the same name.
    #[error("export {0} is there twice")]
    SameName(String),
    /// Two exports have the same id.
    #[error("exports {0} and {1} have the same id")]
    SameId(String, String),
    /// Two different exports have the same fsid: a client would take them for one file system.
    #[error("exports {0} and {1} have the same fsid")]
    SameFsid(String, String),
}

/// A file that a handle led to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The export it is in.
    pub export: &'a Export,
    /// The store's key of it.
    pub file: FileKey,
}

impl<'a> Target<'a> {
    /// Its store.
    pub fn store(&self) -> &'a dyn Vfs {
        &*self.export.store
    }

    fn path(&self) -> Option<String> {
        let mut path = self.export.name.trim_end_matches('/').to_string();
        push_escaped(&mut path, &self.store().path_of(&self.file)?);
        Some(match path.strip_suffix('/') {
            Some("") | None => path,
            Some(root) => root.to_string(),
        })
    }
}

/// A path that was found before.
struct KnownPath {
    by: By,
    handle: Handle,
    /// Its place in the list.
    export: usize,
    /// [`Vfs::paths_changed`] before it was found.
    changes: u64,
    path: Rc<str>,
}

thread_local! {
    /// The path that was asked for last in this thread: rules by the path ask for that of every call.
    static LATEST: RefCell<Option<KnownPath>> = const { RefCell::new(None) };
}

/// All exports of a server, and the key of their handles.
#[derive(Debug)]
pub struct Exports {
    handles: Handles,
    list: Vec<Export>,
}

impl Exports {
    /// These exports, with handles under this key. Export names lose a slash at the end.
    pub fn new(handle_key: &[u8; 16], mut list: Vec<Export>) -> std::result::Result<Exports, ExportError> {
        for export in &mut list {
            let trimmed = export.name.trim_end_matches('/').len();
            export.name.truncate(trimmed.max(1));
            let proper = |part: &str| !matches!(part, "" | "." | "..");
            let ok = match export.name.strip_prefix('/') {
                Some("") => true,
                Some(rest) => rest.split('/').all(proper),
                None => false,
            };
            if !ok || export.name.contains('\0') || export.name.len() > proto::mount::MNTPATHLEN {
                return Err(ExportError::Name(export.name.clone()));
            }
        }
        for (i, a) in list.iter().enumerate() {
            for b in list.iter().skip(i + 1) {
                if a.name == b.name {
                    return Err(ExportError::SameName(a.name.clone()));
                }
                if a.id == b.id {
                    return Err(ExportError::SameId(a.name.clone(), b.name.clone()));
                }
                if a.store.fsid() == b.store.fsid() && !Arc::ptr_eq(&a.store, &b.store) {
                    return Err(ExportError::SameFsid(a.name.clone(), b.name.clone()));
                }
            }
        }
        Ok(Exports {
            handles: Handles::new(handle_key),
            list,
        })
    }

    /// From now on every handle that was given out is stale, and every file has another. Returns the number of this
    /// epoch.
    pub fn expire_handles(&self) -> u32 {
        self.handles.expire()
    }

    /// From now on the handles from before the first [`expire_handles`](Self::expire_handles) are good again.
    pub fn renew_handles(&self) {
        self.handles.renew();
    }

    /// The same if the epoch with this number, as [`expire_handles`](Self::expire_handles) returned it, goes on still.
    /// Whether it did.
    pub fn renew_handles_after(&self, epoch: u32) -> bool {
        self.handles.renew_after(epoch)
    }

    /// The handle of what is at a path such as `/lab/d/f`, looked up as root.
    ///
    /// # Errors
    /// Those of LOOKUP; `NFS3ERR_NOENT` outside all exports.
    pub fn handle_at(&self, path: &[u8]) -> Result<Handle> {
        let cx = Cx::local(Caller::ROOT, Nfstime3::default());
        let (export, rest) = self.find(path).ok_or(Nfsstat3::NFS3ERR_NOENT)?;
        let mut file = export.store.root();
        for name in rest
            .split(|&b| b == b'/')
            .filter(|name| !matches!(*name, b"" | b"."))
        {
            file = export.store.lookup(&cx, &file, name)?.file;
        }
        Ok(self.seal(export, &file))
    }

    /// In the order given.
    pub fn list(&self) -> &[Export] {
        &self.list
    }

    /// Where a handle leads, if it was made here. Whether the file still exists, its store will say.
    pub fn resolve(&self, fh: &[u8]) -> Result<Target<'_>> {
        self.target(self.handles.open(fh)?)
    }

    fn target(&self, (id, file): (u32, FileKey)) -> Result<Target<'_>> {
        // A good code and no such export: the handle is ours, from a time with other exports.
        let export = self
            .list
            .iter()
            .find(|e| e.id == id)
            .ok_or(Nfsstat3::NFS3ERR_STALE)?;
        Ok(Target { export, file })
    }

    /// The same for a call from `peer`: `NFS3ERR_ACCES` if the export is not for them.
    pub fn resolve_for(&self, cx: &Cx<'_>, fh: &[u8]) -> Result<Target<'_>> {
        let target = self.resolve(fh)?;
        if target.export.admits(cx.peer) {
            Ok(target)
        } else {
            Err(Nfsstat3::NFS3ERR_ACCES)
        }
    }

    /// Whether what is asked of the file with this handle may wait for a disk. The handle is taken at its word: its code
    /// is computed when the file is looked for, and once is enough.
    pub fn may_block(&self, fh: &[u8]) -> bool {
        let id = Handles::claimed_export(fh);
        self.list
            .iter()
            .any(|export| Some(export.id) == id && export.store.may_block())
    }

    /// The handle of a file.
    pub fn seal(&self, export: &Export, file: &FileKey) -> Handle {
        self.handles.seal(export.id, file)
    }

    /// The handle of an export's root.
    pub fn root_handle(&self, name: &str) -> Option<Handle> {
        let export = self.list.iter().find(|e| e.name == name)?;
        Some(self.seal(export, &export.store.root()))
    }

    /// The export that `path` is in, the longest name first, and what is left of the path.
    pub fn find<'p>(&self, path: &'p [u8]) -> Option<(&Export, &'p [u8])> {
        self.list
            .iter()
            .filter_map(|export| {
                let rest = path.strip_prefix(export.name.trim_end_matches('/').as_bytes())?;
                matches!(rest.first(), None | Some(b'/')).then_some((export, rest))
            })
            .max_by_key(|(export, _)| export.name.len())
    }

    /// What NLM must know of a file before it locks it. As on Linux knfsd, whoever asks must be able to read the file,
    /// or own it, whatever the kind of the lock.
    pub fn lockable(&self, caller: &Caller<'_>, fh: &[u8]) -> Lockable {
        let refused = |error| Lockable {
            file: Err(error),
            permitted: true,
        };
        let target = match self.resolve(fh) {
            Ok(target) => target,
            Err(error) => return refused(error),
        };
        let cx = Cx::local(Caller::ROOT, Nfstime3::default());
        let attr = match target.store().getattr(&cx, &target.file) {
            Ok(attr) => attr,
            Err(error) => return refused(error),
        };
        let squashed = target.export.squash(caller);
        let caller = squashed.caller();
        Lockable {
            file: match attr.ftype {
                Ftype3::NF3REG if target.export.options.read_only => Err(Nfsstat3::NFS3ERR_ROFS),
                Ftype3::NF3REG => Ok(()),
                Ftype3::NF3DIR => Err(Nfsstat3::NFS3ERR_ISDIR),
                _ => Err(Nfsstat3::NFS3ERR_INVAL),
            },
            permitted: caller.is_root() || perm::may_read(&caller, &attr).is_ok(),
        }
    }

    /// A path for people to read, such as `/lab/w1.lock`: the export's name and one of the file's. Of a stale handle too:
    /// locks may be held by one.
    pub fn path_of(&self, fh: &[u8]) -> Option<Rc<str>> {
        let by = self.handles.by();
        let changes = |export: usize| self.list.get(export)?.store.paths_changed();
        LATEST.with_borrow_mut(|latest| {
            if let Some(known) = latest
                && known.by == by
                && known.handle.is(fh)
                && Some(known.changes) == changes(known.export)
            {
                return Some(known.path.clone());
            }
            let (id, file, _) = self.handles.open_in_any_epoch(fh).ok()?;
            let export = self.list.iter().position(|export| export.id == id)?;
            // Before the path is looked for: if it changes meanwhile, what was found is not kept as good.
            let changes = changes(export);
            let target = Target {
                export: self.list.get(export)?,
                file,
            };
            let path = Rc::<str>::from(target.path()?);
            *latest = changes.and_then(|changes| {
                Some(KnownPath {
                    by,
                    handle: Handle::new(fh)?,
                    export,
                    changes,
                    path: path.clone(),
                })
            });
            Some(path)
        })
    }
}

/// Appends a path as rules and logs have it: what is not plain ASCII is escaped. Most are plain, and rules by the path ask
/// for that of every call.
fn push_escaped(text: &mut String, path: &[u8]) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'\\' | b'\'' | b'"');
    match std::str::from_utf8(path) {
        Ok(path) if path.bytes().all(|byte| plain(&byte)) => text.push_str(path),
        _ => text.push_str(&path.escape_ascii().to_string()),
    }
}

#[cfg(test)]
mod tests;
