//! When are two names the same host?
//!
//! rpc.statd asks the name service, in its only thread: a slow name service is a slow statd, and a slow
//! statd stalls the lock manager. Here the name service is an argument. Text that is an IP address needs none.

use std::net::IpAddr;

/// The name service.
///
/// A closure `|name: &[u8]| …` will do.
pub trait Names {
    /// The addresses of a name that is not the text of one; none if it has none.
    fn addresses(&self, name: &[u8]) -> Vec<IpAddr>;
}

impl<F: Fn(&[u8]) -> Vec<IpAddr>> Names for F {
    fn addresses(&self, name: &[u8]) -> Vec<IpAddr> {
        self(name)
    }
}

/// A name service that knows no name. Linux clients and servers monitor each other by the text of their
/// addresses unless told otherwise (`nsm_use_hostnames`), so this is often enough.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn addresses(&self, _: &[u8]) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// The address that this is the text of.
pub fn as_address(name: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// All addresses of a name or of the text of one.
pub(crate) fn addresses(name: &[u8], names: &dyn Names) -> Vec<IpAddr> {
    match as_address(name) {
        Some(address) => vec![address],
        None => names.addresses(name),
    }
}

/// Whether two names mean the same host: the same name in any case of its letters, or a common address.
pub(crate) fn same_host(one: &[u8], other: &[u8], names: &dyn Names) -> bool {
    if one.eq_ignore_ascii_case(other) {
        return true;
    }
    let theirs = addresses(other, names);
    addresses(one, names)
        .iter()
        .any(|address| theirs.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_one_host_are_the_same() {
        let dns = |name: &[u8]| match name {
            b"client1" | b"client1.lab" => vec![[10, 77, 0, 2].into()],
            _ => Vec::new(),
        };
        assert!(same_host(b"10.77.0.2", b"client1", &dns));
        assert!(same_host(b"client1", b"client1.lab", &dns));
        assert!(same_host(b"Client9", b"client9", &dns));
        assert!(!same_host(b"client1", b"client9", &dns));
        assert!(
            !same_host(b"client8", b"client9", &dns),
            "two names without addresses have none in common"
        );
        assert!(same_host(b"::1", b"0:0:0:0:0:0:0:1", &NoNames));
        assert!(!same_host(b"\xff", b"client1", &NoNames));
    }
}
