//! The guest's root file system: our agent as process 1, the programs, the
//! libraries that both need, the kernel modules, and a little `/etc`.
//!
//! It is not compressed: under emulation the kernel copies faster than it
//! unpacks. Built once for each (kernel, programs, agent) and kept.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::Cache;
use crate::elf;
use crate::error::{Context, Error, Result, read};
use crate::image::{Image, merged};
use crate::kernels::Kernel;
use crate::modules;
use crate::userland::{Userland, digest, identity};

/// Where libraries lie in the guest.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Where they may lie in a root.
const LIBRARY_FOLDERS: [&str; 6] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
];

/// The parts of the C library: they must all be of one build.
const C_LIBRARY: [&str; 9] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libnss_files.so.2",
];

/// The folder that lists the modules in their order, and holds them.
pub(crate) const MODULES: &str = "usr/lib/nfslab/modules";

/// Users that the daemons drop their privileges to.
const STATD: u32 = 100;
const RPCBIND: u32 = 101;

/// This many built images are kept; the oldest go.
const KEPT: usize = 12;

/// The initramfs for this kernel, these programs and this agent, built if it
/// is not in the cache.
pub fn build(cache: &Cache, kernel: &Kernel, userland: &Userland, agent: &Path) -> Result<PathBuf> {
    let this = std::env::current_exe().context(|| "finding our own executable".into())?;
    let parts = [
        kernel.modules_dir.display().to_string(),
        userland.key(),
        identity(agent),
        identity(&this),
    ];
    let name = format!("initramfs/{}-{}.cpio", kernel.series, digest(&parts.join("\n")));
    cache.build_file(&name, |file| {
        let image = assemble(cache, kernel, userland, agent)?;
        let what = || format!("writing {}", file.display());
        let mut out = BufWriter::new(File::create(file).context(what)?);
        image.write(&mut out).context(what)?;
        out.flush().context(what)?;
        prune(&cache.path("initramfs"));
        Ok(())
    })
}

fn assemble(cache: &Cache, kernel: &Kernel, userland: &Userland, agent: &Path) -> Result<Image> {
    let mut image = Image::default();
    skeleton(&mut image);
    etc(&mut image);
    add_modules(&mut image, &kernel.modules_dir, userland.modules())?;

    let mut libraries = Libraries::new(Path::new("/"), userland.sysroot());
    let stripped = strip(cache, agent)?;
    libraries.needed_by("the guest agent", &stripped, Root::Host)?;
    image.file("init", 0o755, stripped);
    for (source, target) in userland.files()? {
        add_file(&mut image, &mut libraries, userland, &source, &merged(&target))?;
    }
    libraries.pack(&mut image)?;
    image.link("usr/bin/sh", "dash");
    for applet in userland.applets()? {
        let taken = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|d| image.contains(&format!("{d}/{applet}")));
        if !taken {
            image.link(&format!("usr/bin/{applet}"), "busybox");
        }
    }
    Ok(image)
}

fn add_file(
    image: &mut Image,
    libraries: &mut Libraries,
    userland: &Userland,
    source: &Path,
    target: &str,
) -> Result<()> {
    let what = || format!("reading {}", source.display());
    let meta = fs::symlink_metadata(source).context(what)?;
    let in_sysroot = source.starts_with(userland.sysroot());
    if meta.is_symlink() && in_sysroot {
        image.link(target, &fs::read_link(source).context(what)?.to_string_lossy());
        return Ok(());
    }
    let data = read(source)?;
    if elf::is_elf(&data) {
        let root = if in_sysroot { Root::Packages } else { Root::Host };
        libraries.needed_by(&source.display().to_string(), &data, root)?;
    }
    let is_program = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0;
    image.file(target, if is_program { 0o755 } else { 0o644 }, data);
    Ok(())
}

fn skeleton(image: &mut Image) {
    for folder in [
        "proc", "sys", "dev", "mnt", "root", "run", "usr/bin", "usr/sbin", LIBRARIES, "var/lib",
    ] {
        image.folder(folder);
    }
    image.folder_of("tmp", 0o1777, 0);
    for folder in ["var/lib/nfs", "var/lib/nfs/sm", "var/lib/nfs/sm.bak"] {
        image.folder_of(folder, 0o755, STATD);
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", LIBRARIES),
        ("usr/lib64", "lib/x86_64-linux-gnu"),
        ("var/run", "/run"),
        ("var/tmp", "/tmp"),
        ("etc/mtab", "/proc/self/mounts"),
    ] {
        image.link(link, target);
    }
}

fn etc(image: &mut Image) {
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/sh\nstatd:x:{STATD}:65534::/var/lib/nfs:/bin/false\n\
         _rpc:x:{RPCBIND}:65534::/run/rpcbind:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    );
    image.file("etc/passwd", 0o644, passwd);
    image.file("etc/group", 0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
    let databases = [
        "passwd",
        "group",
        "hosts",
        "networks",
        "protocols",
        "services",
        "rpc",
        "netgroup",
    ];
    let nsswitch: String = databases.iter().map(|d| format!("{d}: files\n")).collect();
    image.file("etc/nsswitch.conf", 0o644, nsswitch);
    image.file("etc/hosts", 0o644, "127.0.0.1 localhost\n");
    image.file("etc/fstab", 0o644, "");
    image.file("etc/nfs.conf", 0o644, "");
    image.file("etc/profile", 0o644, "PS1='\\u@\\h:\\w# '\n");
}

fn add_modules(image: &mut Image, dir: &Path, further: &[String]) -> Result<()> {
    let mut order = String::new();
    for module in modules::load_order(dir, further)? {
        order.push_str(&module.name);
        order.push('\n');
        image.file(&format!("{MODULES}/{}.ko", module.name), 0o644, module.image);
    }
    image.file(&format!("{MODULES}/order"), 0o644, order);
    Ok(())
}

/// The agent without its debug information. Without a `strip` it goes in as it
/// is: larger, not wrong.
fn strip(cache: &Cache, agent: &Path) -> Result<Vec<u8>> {
    let scratch = cache.scratch()?;
    let out = scratch.path().join("agent");
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&out)
        .arg(agent)
        .stderr(Stdio::null())
        .status();
    match stripped {
        Ok(status) if status.success() => read(&out),
        _ => read(agent),
    }
}

/// Whose program or library it is: this machine's, or the packages'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Host,
    Packages,
}

/// The libraries of everything that goes in. This machine's agent and the
/// packages' programs share one set: the C library is the newer of the two,
/// any other comes from the root of whoever asked first.
struct Libraries<'a> {
    host: &'a Path,
    packages: &'a Path,
    found: Vec<(String, PathBuf)>,
    seen: BTreeSet<String>,
    c_library: Root,
}

impl<'a> Libraries<'a> {
    fn new(host: &'a Path, packages: &'a Path) -> Self {
        let minor = |root: &Path| {
            find_library(root, "libc.so.6")
                .and_then(|p| fs::read(p).ok())
                .map_or(0, |data| elf::glibc_minor(&data))
        };
        let c_library = if minor(packages) >= minor(host) {
            Root::Packages
        } else {
            Root::Host
        };
        Self {
            host,
            packages,
            found: Vec::new(),
            seen: BTreeSet::new(),
            c_library,
        }
    }

    /// Adds what this program needs, and what those need.
    fn needed_by(&mut self, name: &str, data: &[u8], root: Root) -> Result<()> {
        let elf::Needed {
            libraries: mut names,
            folders,
        } = elf::needed(name, data)?;
        if let Some(interpreter) = elf::interpreter(name, data)? {
            names.extend(
                Path::new(&interpreter)
                    .file_name()
                    .map(|f| f.to_string_lossy().into_owned()),
            );
        }
        for library in names {
            if self.seen.insert(library.clone()) {
                let path = self
                    .find(&library, root, &folders)
                    .ok_or_else(|| Error::Missing {
                        what: format!("library {library}, which {name} needs,"),
                        mend: "it lies neither in the unpacked packages nor in the system's library folders"
                            .into(),
                    })?;
                self.found.push((library, path.clone()));
                self.needed_by(&path.display().to_string(), &read(&path)?, root)?;
            }
        }
        Ok(())
    }

    /// All libraries are packed into one folder, so a program's own `folders` matter only here.
    fn find(&self, library: &str, root: Root, folders: &[String]) -> Option<PathBuf> {
        let first = if C_LIBRARY.contains(&library) {
            self.c_library
        } else {
            root
        };
        let (first, second) = match first {
            Root::Host => (self.host, self.packages),
            Root::Packages => (self.packages, self.host),
        };
        let absolute = folders.iter().filter_map(|f| f.strip_prefix('/'));
        absolute
            .map(|folder| first.join(folder).join(library))
            .find(|path| path.is_file())
            .or_else(|| find_library(first, library))
            .or_else(|| find_library(second, library))
    }

    fn pack(self, image: &mut Image) -> Result<()> {
        for (name, path) in self.found {
            image.file(&format!("{LIBRARIES}/{name}"), 0o755, read(&path)?);
        }
        Ok(())
    }
}

fn find_library(root: &Path, name: &str) -> Option<PathBuf> {
    LIBRARY_FOLDERS
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.is_file())
}

/// Rebuilt agents leave old images behind. One that QEMU still reads stays
/// readable for it.
fn prune(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut images: Vec<_> = entries
        .flatten()
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    images.sort();
    for (_, path) in images.iter().rev().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}
