//! The network between server and guests: a namespace of our own, with one TAP
//! device per guest.
//!
//! NLM calls its client back, and each side asks the *other's* port 111. With
//! QEMU's user-mode network those callbacks would reach this machine's own
//! portmapper. In a namespace the ports 111 and 2049 are free, and nothing of
//! this machine is touched.
//!
//! The server is 10.77.0.1, on the loopback device, so that it can listen before
//! any guest exists; guest N is 10.77.0.(N+1), reached by a host route through
//! its TAP. No bridge is needed, since guests have nothing to say to each other.
//! The devices are not persistent: they go when their guest's QEMU goes, and
//! the namespace with the last process in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::{Error, Result};
use crate::ifconfig;

/// The server's address, the same for every guest.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The length of the network's prefix as guests see it.
pub const PREFIX: u8 = 24;

/// The network of [`add_peers`]: any of its 254 addresses is ours.
pub const PEERS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 0);

/// Guests that fit.
pub const MOST_GUESTS: u8 = 200;

const TUN: &str = "/dev/net/tun";

pub(crate) const MEND: &str = "run as root; or as an ordinary user where user namespaces are allowed \
                    (sysctl kernel.unprivileged_userns_clone=1) and /dev/net/tun may be opened (chmod 666, module tun)";

/// Proof that this process is in a network namespace of its own. Guests with
/// a network need it.
#[derive(Clone, Copy, Debug)]
pub struct Namespace(());

/// Puts this process into a network namespace of its own: as root directly, as
/// an ordinary user together with a user namespace.
///
/// Call it first in `main`, before any thread exists: a namespace belongs to a
/// thread, and only those started later inherit it. What needs the real network
/// (fetching kernels) is done before.
pub fn enter_namespace() -> Result<Namespace> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(Error::Network {
            problem: format!("entering a namespace with {threads} threads running"),
            cause: io::Error::other("the other threads would stay outside"),
            mend: "call enter_namespace first in main, before a runtime is started".into(),
        });
    }
    if geteuid().is_root() {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("creating a network namespace", e))?;
    } else {
        enter_user_namespace()?;
    }
    ifconfig::up("lo").map_err(|e| failed("bringing up lo", e))?;
    // An alias: the device keeps 127.0.0.1.
    ifconfig::set_address("lo:1", SERVER, 32)
        .map_err(|e| failed(&format!("giving lo the address {SERVER}"), e))?;
    Ok(Namespace(()))
}

/// Gives the namespace a network full of addresses, [`PEERS`], for whoever plays several machines to a guest. Guests
/// reach it by a route through [`SERVER`], which they have to be given.
pub fn add_peers(_proof: Namespace) -> Result<()> {
    // On the loopback device a prefix makes all its addresses local.
    ifconfig::set_address("lo:2", peer(1), 24).map_err(|e| failed("giving lo a network of peers", e))
}

/// Gives the namespace the address of guest N, for a client that has no machine.
pub(crate) fn add_client(_proof: Namespace, index: u8) -> Result<()> {
    let address = guest_address(index);
    ifconfig::set_address(&format!("lo:c{index}"), address, 32)
        .map_err(|e| failed(&format!("giving lo the address {address}"), e))
}

/// An address of [`PEERS`].
pub fn peer(number: u8) -> Ipv4Addr {
    let [a, b, c, _] = PEERS.octets();
    Ipv4Addr::new(a, b, c, number)
}

fn enter_user_namespace() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|e| failed("creating a user and network namespace", e))?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ] {
        fs::write(file, text).map_err(|e| failed(&format!("writing {file}"), e))?;
    }
    Ok(())
}

fn failed(problem: &str, cause: impl Into<io::Error>) -> Error {
    Error::Network {
        problem: problem.to_owned(),
        cause: cause.into(),
        mend: MEND.to_owned(),
    }
}

/// The address of guest N, counted from 1.
pub fn guest_address(index: u8) -> Ipv4Addr {
    let [a, b, c, d] = SERVER.octets();
    Ipv4Addr::new(a, b, c, d.saturating_add(index))
}

/// A guest's network card, our end of it. Gone when every descriptor of it is
/// closed.
pub(crate) struct Tap {
    file: File,
}

impl Tap {
    /// The device of guest N, with the route to it.
    pub(crate) fn open(_proof: Namespace, index: u8) -> Result<Self> {
        let name = format!("nfslab{index}");
        let address = guest_address(index);
        let file = create(&name).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::Network {
                problem: format!("creating the TAP device {name}"),
                cause: e,
                mend: format!(
                    "guest {index} still runs: await its shutdown or kill, or give the new one another index"
                ),
            },
            _ => failed(&format!("creating the TAP device {name}"), e),
        })?;
        ifconfig::set_address(&name, SERVER, 32)
            .and_then(|()| ifconfig::up(&name))
            .and_then(|()| ifconfig::add_host_route(address, &name))
            .map_err(|e| failed(&format!("routing {address} through {name}"), e))?;
        Ok(Self { file })
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

mod sys {
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
}

fn create(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN)
        .map_err(|e| io::Error::new(e.kind(), format!("opening {TUN}: {e}")))?;
    let mut request = ifconfig::request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is the tun device, the request a valid ifreq.
    unsafe { sys::set_interface(file.as_raw_fd(), &request)? };
    Ok(file)
}

/// Tries, in a child, whether a namespace and a TAP device can be had.
pub(crate) fn try_in_child() -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let root = geteuid().is_root();
    let attempt = move || {
        let mut request = ifconfig::request("nfslab-try")?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        let flags = if root {
            libc::CLONE_NEWNET
        } else {
            libc::CLONE_NEWNET | libc::CLONE_NEWUSER
        };
        // SAFETY: plain system calls on constants and on a valid request; they
        // are allowed between fork and exec.
        unsafe {
            if libc::unshare(flags) < 0 {
                return Err(io::Error::last_os_error());
            }
            let tun = libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if tun < 0 || libc::ioctl(tun, libc::TUNSETIFF as _, &request) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    let mut command = std::process::Command::new("true");
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(attempt) };
    command.status().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_follow_the_server() {
        assert_eq!(guest_address(1), Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(guest_address(MOST_GUESTS), Ipv4Addr::new(10, 77, 0, 201));
    }

    #[test]
    fn with_threads_running_it_is_refused() {
        // The test harness runs this one in a thread.
        let error = std::thread::scope(|s| s.spawn(|| enter_namespace().unwrap_err()).join().unwrap());
        assert!(error.to_string().contains("before a runtime"), "{error}");
    }
}
