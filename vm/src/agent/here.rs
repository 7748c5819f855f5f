//! A client without a machine of its own: namespaces of this kernel, with the
//! FUSE client for a mount.
//!
//! It has a list of processes, a tree of names and a host name of its own; the
//! kernel and the network are those of whoever started it. What it writes to
//! the tree (an overlay of this machine's, in memory) goes with it, and so does
//! everything that runs in it. Two processes begin it: the first enters the
//! namespaces, the second is process 1 in them.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use super::children::each_line;
use super::{Agent, MARKER, uptime_ms};
use crate::child::{LINK_FD, dies_with_us};
use crate::protocol::{Message, Mount, Setup};

/// Set for the process that is to enter the namespaces.
pub(crate) const ENTER: &str = "NFSLAB_CLIENT";

/// The value of [`MARKER`] for process 1.
const HERE: &str = "here";

/// Where the new tree is put together. Whatever is there is covered for us alone.
const WORKSHOP: &str = "/tmp";

/// Where our executable is in the new tree.
const PROGRAM: &str = "/usr/local/bin/nfslab";

/// What the FUSE client tells: what a kernel's client would.
const LOG: &str = "warn,fuse_client=info,fuser=error";

/// Whether this process is the first of such a client. Ask before anything
/// else is done, and call [`start`] if so.
pub fn is_client() -> bool {
    std::env::var_os(ENTER).is_some()
}

/// Enters the namespaces, starts their process 1 and ends when it ends.
pub fn start() -> ! {
    let code = match enter().and_then(|()| process_one()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!(
                "cannot make namespaces for a client: {e} (it needs root and overlayfs; see `nfslab doctor`)"
            );
            1
        }
    };
    std::process::exit(code)
}

/// Whether we are process 1 of namespaces rather than of a machine.
pub(super) fn is_here() -> bool {
    std::env::var_os(MARKER).is_some_and(|value| value == HERE)
}

const NONE: Option<&str> = None;

fn attach(kind: &str, target: &str, flags: MsFlags, data: Option<&str>) -> io::Result<()> {
    mount(Some(kind), target, Some(kind), flags, data)
        .map_err(|e| io::Error::other(format!("mounting a {kind} on {target}: {e}")))
}

/// Shows `source` at `target`, too.
fn bind(source: &str, target: &str, flags: MsFlags) -> io::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | flags, NONE)
        .map_err(|e| io::Error::other(format!("binding {source} to {target}: {e}")))
}

fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS)
        .map_err(|e| io::Error::other(format!("unshare: {e}")))?;
    // Nothing that is mounted here is to be seen outside.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    // Opened while it can be seen, and in our tree: what /proc/self/exe means lies in the tree that we have left.
    let executable = fs::File::open(std::env::current_exe()?)?;
    attach("tmpfs", WORKSHOP, MsFlags::MS_NOSUID, Some("mode=0755"))?;
    let part = |name: &str| format!("{WORKSHOP}/{name}");
    let [upper, work, root] = ["upper", "work", "root"].map(part);
    for folder in [&upper, &work, &root] {
        fs::create_dir(folder)?;
    }
    let layers = format!("lowerdir=/,upperdir={upper},workdir={work}");
    attach("overlay", &root, MsFlags::empty(), Some(&layers))?;
    for folder in ["/dev", "/sys"] {
        bind(folder, &format!("{root}{folder}"), MsFlags::MS_REC)?;
    }
    let program = format!("{root}{PROGRAM}");
    fs::create_dir_all(format!("{root}/usr/local/bin"))?;
    fs::write(&program, "")?;
    bind(
        &format!("/proc/self/fd/{}", executable.as_raw_fd()),
        &program,
        MsFlags::empty(),
    )?;
    nix::unistd::chroot(root.as_str())?;
    std::env::set_current_dir("/")
}

fn process_one() -> io::Result<i32> {
    let mut command = Command::new(PROGRAM);
    command.env_remove(ENTER).env(MARKER, HERE).stdin(Stdio::null());
    dies_with_us(&mut command, Signal::SIGKILL);
    let status = command.spawn()?.wait()?;
    Ok(status.code().unwrap_or(1))
}

/// What process 1 mounts before anything else, and its line to the host.
pub(super) fn begin() -> io::Result<fs::File> {
    attach("proc", "/proc", MsFlags::MS_NOSUID, None)?;
    attach("tmpfs", "/run", MsFlags::MS_NOSUID, Some("mode=0755"))?;
    attach("tmpfs", "/tmp", MsFlags::MS_NOSUID, Some("mode=1777"))?;
    // SAFETY: whoever started us has opened it for us; nobody else here knows of it.
    let link = unsafe { OwnedFd::from_raw_fd(LINK_FD) };
    fcntl(&link, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(link.into())
}

impl Agent {
    /// As [`Agent::setup`] in a guest, with `nfslab mount` for its mounts.
    pub(super) fn setup_here(self: &Arc<Self>, setup: &Setup, until: Instant) -> Result<(), String> {
        for mount in &setup.mounts {
            self.mount_here(mount, setup, until)?;
            self.link.send(&Message::Mounted {
                target: mount.target.clone(),
            });
        }
        Ok(())
    }

    fn mount_here(self: &Arc<Self>, mount: &Mount, setup: &Setup, until: Instant) -> Result<(), String> {
        let Mount {
            source,
            target,
            options,
            ..
        } = mount;
        fs::create_dir_all(target).map_err(|e| format!("creating {target}: {e}"))?;
        let mut options = options.clone();
        if let Some(addresses) = &setup.network {
            options.push_str(&format!(",clientaddr={}", addresses.guest));
        }
        if let Some(seconds) = setup.nlm_timeout {
            options.push_str(&format!(",nlmtimeout={seconds}"));
        }
        let what = format!("mounting {source} on {target} with {options}");
        let mut command = Command::new(PROGRAM);
        command
            .args(["mount", "-o", &options, source, target])
            .env_remove(MARKER)
            .env("NFSLAB_LOG", LOG)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut started = self
            .children
            .start(&mut command, None)
            .map_err(|e| format!("{what}: {e}"))?;
        let (tell, told) = channel();
        let (agent, stderr) = (self.clone(), started.child.stderr.take());
        let (complain, complaint) = channel();
        let listen = move || {
            each_line(stderr, |line| {
                let line = sentence(&line);
                let _ = complain.send(line.clone());
                agent.link.send(&Message::Kernel {
                    boot_us: uptime_ms() * 1000,
                    level: 4,
                    line,
                });
            });
        };
        let stdout = started.child.stdout.take();
        let wait = move || {
            let mut first = String::new();
            let mut stdout = stdout.map(BufReader::new);
            if let Some(stdout) = &mut stdout {
                let _ = stdout.read_line(&mut first);
            }
            let _ = tell.send(first);
            // Whatever else it says, it must not stand still for want of a reader.
            if let Some(mut stdout) = stdout {
                let _ = io::copy(&mut stdout.by_ref(), &mut io::sink());
            }
        };
        for work in [Box::new(listen) as Box<dyn FnOnce() + Send>, Box::new(wait)] {
            thread::Builder::new()
                .spawn(work)
                .map_err(|e| format!("no thread for it: {e}"))?;
        }
        match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(first) if first.contains(" is on ") => Ok(()),
            Ok(_) => {
                let last = complaint.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                Err(format!("{what}: {last}"))
            }
            Err(_) => Err(format!("{what}: not mounted within the deadline")),
        }
    }
}

/// What a line of the log says, without its time, level and module:
/// `2026-11-28T00:00:00Z  WARN fuse_client::line: lockd: server a OK`.
fn sentence(line: &str) -> String {
    let mut rest = line.trim_start();
    for _ in 0..3 {
        rest = rest.split_once(' ').map_or(rest, |(_, rest)| rest.trim_start());
    }
    match line.contains(" fuse_client::") {
        true => rest.to_owned(),
        false => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn a_line_of_the_log_is_told_as_a_kernel_would() {
        let told =
            "2026-11-28T00:00:00.1Z  WARN fuse_client::line: lockd: server a not responding, still trying";
        assert_eq!(sentence(told), "lockd: server a not responding, still trying");
        assert_eq!(sentence("nfslab: cannot mount"), "nfslab: cannot mount");
    }
}
