//! Network interfaces by the oldest of the kernel's interfaces for them, the
//! ioctls: three calls of no more than an address and a name, needed on both
//! sides (the namespace here, process 1 there).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

mod sys {
    nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_address, libc::SIOCSIFADDR, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_netmask, libc::SIOCSIFNETMASK, libc::ifreq);
    nix::ioctl_write_ptr_bad!(add_route, libc::SIOCADDRT, libc::rtentry);
}

/// Any socket will do: these calls act on the namespace that it belongs to.
fn control() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

pub(crate) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain data; all zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the name's end.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!(
            "{name:?} cannot be an interface's name"
        )));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of the same size; the kernel reads the one
    // as the other by its family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// Switches an interface on.
pub(crate) fn up(name: &str) -> io::Result<()> {
    let control = control()?;
    let mut request = request(name)?;
    // SAFETY: the descriptor is a socket, the request a valid ifreq that names
    // an interface; get_flags fills the union's flags, which we then read.
    unsafe {
        sys::get_flags(control.as_raw_fd(), &mut request)?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        sys::set_flags(control.as_raw_fd(), &request)?;
    }
    Ok(())
}

/// Gives an interface its address.
///
/// The kernel takes the prefix in a second call; between the two the address has that of its class, 10.0.0.0/8. One that
/// another thread gives within it meanwhile counts as its secondary, and goes when the prefix is mended. So they go one by one.
pub(crate) fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let control = control()?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_addr = socket_address(address);
    // SAFETY: as above; both calls read the union's address.
    unsafe { sys::set_address(control.as_raw_fd(), &request)? };
    request.ifr_ifru.ifru_netmask = socket_address(netmask(prefix));
    // SAFETY: as above.
    unsafe { sys::set_netmask(control.as_raw_fd(), &request)? };
    Ok(())
}

/// Adds a route to one host through an interface.
pub(crate) fn add_host_route(host: Ipv4Addr, through: &str) -> io::Result<()> {
    let control = control()?;
    let mut name = request(through)?.ifr_name;
    // SAFETY: an rtentry is plain data; all zeros is a valid one.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(host);
    route.rt_genmask = socket_address(Ipv4Addr::BROADCAST);
    route.rt_flags = libc::RTF_UP | libc::RTF_HOST;
    route.rt_dev = name.as_mut_ptr();
    // SAFETY: the entry is valid, and the name it points to outlives the call.
    unsafe { sys::add_route(control.as_raw_fd(), &route)? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(netmask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(netmask(32), Ipv4Addr::BROADCAST);
        assert_eq!(netmask(0), Ipv4Addr::UNSPECIFIED);
    }

    /// Needs root, as all that enters a namespace here.
    #[test]
    fn addresses_given_at_once_all_stay() {
        let in_a_namespace = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("a network namespace: run as root");
            up("lo").expect("lo");
            for _ in 0..100 {
                let given = std::thread::scope(|scope| {
                    let give = |n: u8| set_address(&format!("lo:c{n}"), Ipv4Addr::new(10, 77, 0, n), 32);
                    let threads: Vec<_> = (2..6).map(|n| scope.spawn(move || give(n))).collect();
                    threads
                        .into_iter()
                        .map(|thread| thread.join().expect("a thread"))
                        .collect::<Vec<_>>()
                });
                for given in given {
                    given.expect("an address");
                }
                for n in 2..6 {
                    std::net::UdpSocket::bind((Ipv4Addr::new(10, 77, 0, n), 0))
                        .expect("the address is there");
                    // 0.0.0.0 takes it away.
                    set_address(&format!("lo:c{n}"), Ipv4Addr::UNSPECIFIED, 32).ok();
                }
            }
        };
        std::thread::spawn(in_a_namespace).join().expect("every address");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(request("nfslab-a-long-name").is_err() && request("").is_err());
    }
}
