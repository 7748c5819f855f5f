//! QEMU as a child process: its command line, its life, its end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::Signal;
use shared_child::SharedChild;
use tokio::sync::oneshot;

use crate::agent::MARKER;
use crate::error::{Context, Error, Result, find_program};

/// How the processor is run, once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Kvm,
    Tcg,
}

/// The descriptors that QEMU gets, by number.
const CONSOLE_FD: i32 = 3;
const LINK_FD: i32 = 4;
const NETWORK_FD: i32 = 5;

/// How long a killed QEMU is waited for.
const LONGEST_DEATH: Duration = Duration::from_secs(2);

/// A machine to switch on.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Further words for the kernel.
    pub(crate) append: String,
    /// The TAP device, and the last byte of the card's address.
    pub(crate) network: Option<(OwnedFd, u8)>,
}

/// The QEMU process: this child of ours, and no other that its number may come
/// to mean.
pub(crate) struct Process {
    child: SharedChild,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Process {
    /// Ends it as a power failure would.
    pub(crate) fn kill(&self) {
        let _ = self.child.kill();
    }

    /// Ends it, and returns when it is gone, which takes milliseconds: only
    /// then is its TAP device free again.
    pub(crate) fn kill_and_wait(&self) {
        self.kill();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(ended, LONGEST_DEATH, |ended| !*ended),
        );
    }

    fn wait(&self) -> String {
        let status = self
            .child
            .wait()
            .map_or_else(|e| e.to_string(), |s| s.to_string());
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        status
    }
}

/// A machine that runs.
pub(crate) struct Running {
    pub(crate) child: Arc<Process>,
    /// Its first serial port: the console.
    pub(crate) console: UnixStream,
    /// Its virtio serial port: the protocol.
    pub(crate) link: UnixStream,
    /// Tells how QEMU ended.
    pub(crate) ended: oneshot::Receiver<String>,
}

/// Finds QEMU.
pub(crate) fn program() -> Result<PathBuf> {
    find_program("qemu-system-x86_64", "qemu-system-x86")
}

/// The kernel's command line. What is there for speed: `no_timer_check`,
/// `tsc=reliable` and `nowatchdog` skip measurements that an emulated machine
/// makes long, `cryptomgr.notests` skips 0.4 s of self-tests, and
/// `mitigations=off` guards nothing here and costs.
fn kernel_words(append: &str) -> String {
    let words = [
        "console=ttyS0",
        "quiet",
        // A panic ends the machine at once; so does an oops, which is never
        // what a test wants to go on after.
        "panic=-1",
        "oops=panic",
        "no_timer_check",
        "tsc=reliable",
        "nowatchdog",
        "cryptomgr.notests",
        "mitigations=off",
        "random.trust_cpu=on",
        "ipv6.disable=1",
        "net.ifnames=0",
    ];
    format!("{} {MARKER}=1 {append}", words.join(" "))
        .trim_end()
        .to_owned()
}

fn arguments(machine: &Machine) -> Vec<String> {
    let path = |p: &Path| p.display().to_string();
    let mut words: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| words.extend(parts.iter().map(|p| (*p).to_owned()));
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-smp",
        "1",
    ]);
    add(match machine.engine {
        Engine::Kvm => &["-accel", "kvm", "-cpu", "host"],
        // Without five-level page tables: emulated, each level costs.
        Engine::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max,-la57"],
    });
    add(&["-m", &machine.memory_mib.to_string()]);
    add(&[
        "-chardev",
        &format!("socket,id=console,fd={CONSOLE_FD}"),
        "-serial",
        "chardev:console",
    ]);
    add(&[
        "-chardev",
        &format!("socket,id=link,fd={LINK_FD}"),
        "-device",
        "virtio-serial-pci,max_ports=2",
    ]);
    add(&["-device", "virtserialport,chardev=link,name=nfslab"]);
    if let Some((_, last_byte)) = &machine.network {
        add(&["-netdev", &format!("tap,id=net,fd={NETWORK_FD}")]);
        // No boot ROM: nothing boots from the network here.
        add(&[
            "-device",
            &format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:0a:4d:{last_byte:02x}"),
        ]);
    }
    add(&[
        "-kernel",
        &path(&machine.kernel),
        "-initrd",
        &path(&machine.initramfs),
    ]);
    add(&["-append", &kernel_words(&machine.append)]);
    words
}

/// Switches a machine on. Needs no runtime, but one must exist to await its
/// end.
pub(crate) fn start(name: &str, machine: Machine) -> Result<Running> {
    let program = program()?;
    let pair = || UnixStream::pair().context(|| "creating a socket pair for QEMU".into());
    let (console, console_theirs) = pair()?;
    let (link, link_theirs) = pair()?;
    let complaints = tempfile::tempfile().context(|| "creating a file for QEMU's messages".into())?;
    let stderr = complaints
        .try_clone()
        .context(|| "duplicating a descriptor".into())?;

    let mut command = Command::new(&program);
    command
        .args(arguments(&machine))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let mut mappings = vec![
        FdMapping {
            parent_fd: console_theirs.into(),
            child_fd: CONSOLE_FD,
        },
        FdMapping {
            parent_fd: link_theirs.into(),
            child_fd: LINK_FD,
        },
    ];
    mappings.extend(machine.network.map(|(fd, _)| FdMapping {
        parent_fd: fd,
        child_fd: NETWORK_FD,
    }));
    command.fd_mappings(mappings).map_err(|e| Error::Io {
        action: "handing descriptors to QEMU".into(),
        cause: io::Error::other(e.to_string()),
    })?;
    dies_with_us(&mut command, Signal::SIGKILL);
    let (child, ended) = watch(name, command, complaints)?;
    Ok(Running {
        child,
        console,
        link,
        ended,
    })
}

/// The kernel tells the child when the *thread* that started it ends. So a
/// thread of its own starts it and stays until it has ended: a runtime's
/// threads come and go.
fn watch(
    name: &str,
    mut command: Command,
    complaints: File,
) -> Result<(Arc<Process>, oneshot::Receiver<String>)> {
    let (tell_started, started) = std::sync::mpsc::channel();
    let (tell_ended, ended) = oneshot::channel();
    let life = move || {
        let child = SharedChild::spawn(&mut command);
        let child = child.map(|child| {
            Arc::new(Process {
                child,
                ended: Mutex::new(false),
                changed: Condvar::new(),
            })
        });
        // Our copies of the child's descriptors go with it: only when every
        // one is closed do we see the end of the console.
        drop(command);
        let waiting = child.as_ref().ok().cloned();
        let _ = tell_started.send(child);
        if let Some(child) = waiting {
            let status = child.wait();
            let _ = tell_ended.send(format!("QEMU ended ({status}){}", said(complaints)));
        }
    };
    thread::Builder::new()
        .name(format!("qemu-{name}"))
        .spawn(life)
        .context(|| "starting a thread for QEMU".into())?;
    let child = started
        .recv()
        .map_err(|_| io::Error::other("its thread ended"))
        .and_then(|c| c);
    Ok((child.context(|| "starting QEMU".into())?, ended))
}

/// Has the kernel send the child a signal when the thread that starts it ends.
pub fn dies_with_us(command: &mut Command, signal: Signal) {
    let us = std::process::id();
    let prepare = move || {
        // SAFETY: two plain system calls, allowed between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_int) < 0 {
                return Err(io::Error::last_os_error());
            }
            // We may have died before the call.
            if libc::getppid() != us.cast_signed() {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// What QEMU wrote, for an error's text.
fn said(mut complaints: File) -> String {
    let mut text = String::new();
    let read = complaints
        .seek(SeekFrom::Start(0))
        .and_then(|_| complaints.take(4096).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => format!(": {}", text.trim().replace('\n', "; ")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(engine: Engine) -> Machine {
        Machine {
            engine,
            memory_mib: 512,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            append: "extra=1".into(),
            network: None,
        }
    }

    #[test]
    fn the_command_line_says_what_was_asked() {
        let words = arguments(&machine(Engine::Tcg)).join(" ");
        for part in [
            "-accel tcg,thread=multi -cpu max,-la57",
            "-m 512",
            "-kernel /k -initrd /i",
            "-no-reboot",
        ] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        assert!(words.ends_with("NFSLAB_GUEST=1 extra=1"), "{words}");
        assert!(!words.contains("-netdev"));
        assert!(
            arguments(&machine(Engine::Kvm))
                .join(" ")
                .contains("-accel kvm -cpu host")
        );
    }

    #[test]
    fn each_guest_has_a_card_of_its_own() {
        let tap = File::open("/dev/null").unwrap().into();
        let words = arguments(&Machine {
            network: Some((tap, 17)),
            ..machine(Engine::Tcg)
        })
        .join(" ");
        assert!(words.contains("mac=52:54:00:0a:4d:11"), "{words}");
    }
}
