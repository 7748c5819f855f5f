//! Process 1 of a guest: the same executable as on the host, which finds
//! itself in another world.
//!
//! It mounts the kernel's file systems, loads the modules, greets the host on
//! a virtio serial port, and from then on does what it is told (see
//! `protocol.rs`). Each call runs in a thread of its own, so that one
//! that hangs holds up nobody.
//!
//! Invariant: the agent's own threads never touch an NFS mount. They start
//! programs that do, and look at those through `/proc`, where reading a state,
//! a wait channel or a stack never waits for the process.

mod calls;
mod children;
mod files;
mod here;
mod kmsg;
mod link;
mod processes;
mod setup;

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::reboot::{RebootMode, reboot};

use crate::initramfs::MODULES;
use crate::modules::LINK_MODULE;
use crate::protocol::{Call, Lines, MAX_LINE, Message, VERSION};

/// Set on the kernel's command line; the kernel hands what it does not know to
/// process 1 as its environment.
pub(crate) const MARKER: &str = "NFSLAB_GUEST";

/// The port that carries the protocol: the only one of the only virtio-serial
/// device. (An ISA serial port would need no module, and takes three seconds
/// for a megabyte.)
const PORT: &str = "vport0p1";

/// How long the port may take to appear once its module is loaded.
const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// Everything the agent's threads share.
pub(crate) struct Agent {
    link: link::Link,
    children: children::Children,
}

pub(crate) use here::ENTER;
pub use here::{is_client, start as start_client};

/// Whether this process is process 1 of a guest. Ask before anything else is
/// done, and call [`main`] if so.
pub fn is_guest_init() -> bool {
    std::process::id() == 1 && std::env::var_os(MARKER).is_some()
}

/// The guest's process 1. Never returns: it ends by switching the machine off.
pub fn main() -> ! {
    if let Err(e) = run() {
        // The host watches the console.
        eprintln!("nfslab agent failed: {e}");
    }
    power_off()
}

fn run() -> io::Result<()> {
    if here::is_here() {
        return serve(here::begin()?, std::iter::empty());
    }
    file_systems()?;
    // SAFETY: no other thread exists yet.
    unsafe {
        std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        std::env::set_var("HOME", "/root");
        std::env::set_var("TERM", "linux");
    }
    let order = fs::read_to_string(Path::new("/").join(MODULES).join("order"))?;
    let mut modules = order.lines();
    // The first ones bring the line to the host; it hears of trouble with the
    // others.
    let dev = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    dev.add_watch("/dev", AddWatchFlags::IN_CREATE)?;
    for name in modules.by_ref() {
        load_module(name)?;
        if name == LINK_MODULE {
            break;
        }
    }
    serve(open_port(&dev)?, modules)
}

/// Greets the host, loads the `modules` that are left, and does what it is told until the host closes the line.
fn serve<'a>(mut port: fs::File, mut modules: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let agent = Arc::new(Agent {
        link: link::Link::new(port.try_clone()?),
        children: children::Children::new(),
    });
    agent.link.send(&Message::Hello {
        version: VERSION,
        boot_ms: uptime_ms(),
    });
    modules.try_for_each(load_module)?;
    agent.clone().start_reaper();

    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = port.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("the host closed the line"));
        }
        for line in lines.push(buffer.get(..count).unwrap_or_default(), MAX_LINE) {
            agent.clone().take(&line);
        }
    }
}

impl Agent {
    /// A line from the host: a call, or junk.
    fn take(self: Arc<Self>, line: &[u8]) {
        match serde_json::from_slice::<Call>(line) {
            Ok(call) => {
                let id = call.id;
                let agent = self.clone();
                let started = thread::Builder::new().spawn(move || agent.answer(call));
                if let Err(e) = started {
                    self.link.refuse(id, &format!("no thread for it: {e}"));
                }
            }
            Err(_) if line.is_empty() => {}
            Err(e) => self.link.send(&Message::Complaint {
                problem: format!("{} bytes that are no call: {e}", line.len()),
            }),
        }
    }
}

/// What every program expects to be mounted.
fn file_systems() -> io::Result<()> {
    let none: Option<&str> = None;
    for (kind, target, data) in [
        ("proc", "/proc", none),
        ("sysfs", "/sys", none),
        ("devtmpfs", "/dev", none),
        ("tmpfs", "/run", Some("mode=0755")),
        ("tmpfs", "/tmp", Some("mode=1777")),
    ] {
        match mount(Some(kind), target, Some(kind), MsFlags::MS_NOSUID, data) {
            // A kernel may mount devtmpfs by itself.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(e) => return Err(io::Error::other(format!("mounting {target}: {e}"))),
        }
    }
    for folder in ["/dev/pts", "/dev/shm", "/run/rpcbind", "/run/lock"] {
        fs::create_dir_all(folder)?;
    }
    // Comforts, not needs.
    let _ = mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        MsFlags::MS_NOSUID,
        none,
    );
    let _ = mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::MS_NOSUID, none);
    for (link, target) in [
        ("fd", "self/fd"),
        ("stdin", "self/fd/0"),
        ("stdout", "self/fd/1"),
        ("stderr", "self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(format!("/proc/{target}"), format!("/dev/{link}"));
    }
    Ok(())
}

/// Loads a module. The host wrote down their order, so that nothing needs
/// resolving here.
fn load_module(name: &str) -> io::Result<()> {
    let file = fs::File::open(Path::new("/").join(MODULES).join(format!("{name}.ko")))?;
    match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(io::Error::other(format!("loading module {name}: {e}"))),
    }
}

/// Opens the port, which appears some time after its module is loaded.
fn open_port(dev: &Inotify) -> io::Result<fs::File> {
    let path = Path::new("/dev").join(PORT);
    let until = Instant::now() + PORT_DEADLINE;
    loop {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) && Instant::now() < until => {
            }
            result => {
                return result.map_err(|e| io::Error::other(format!("opening {}: {e}", path.display())));
            }
        }
        // Something new in /dev, or a moment later in any case.
        let _ = poll(
            &mut [PollFd::new(dev.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(100u8),
        );
        let _ = dev.read_events();
    }
}

/// Milliseconds since the kernel began to count.
fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(0.0);
    (seconds * 1000.0) as u64
}

/// Off, at once: no sync, which would wait for a hung server.
fn power_off() -> ! {
    if here::is_here() {
        // With process 1 go all the others.
        std::process::exit(0);
    }
    loop {
        let _ = reboot(RebootMode::RB_POWER_OFF);
        // Only if the machine has no way to switch itself off.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
        thread::park();
    }
}
