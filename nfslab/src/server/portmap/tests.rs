use super::*;
use proto::portmap::{IpProto, PmapList, V2};
use proto::rpcbind::{List, Netbuf, RpcbEntryList, RpcbRmtcallargs, RpcbStatByvers, Rpcblist, Text, V3, V4};
use rpc::xdr::{self, Encode};

const NLM: u32 = proto::nlm::PROGRAM;

fn asker(peer: &str, local: &str, transport: Transport) -> Asker {
    Asker {
        peer: SocketAddr::new(peer.parse().unwrap(), 900),
        local: SocketAddr::new(local.parse().unwrap(), 111),
        transport,
    }
}

fn here() -> Asker {
    asker("127.0.0.1", "127.0.0.1", Transport::Tcp)
}

fn elsewhere() -> Asker {
    asker("10.77.0.2", "10.77.0.1", Transport::Tcp)
}

fn here6() -> Asker {
    asker("::1", "::1", Transport::Udp)
}

/// With NLM 4 on `address`, both transports.
fn registry(address: &str) -> Registry {
    let registry = Registry::default();
    for transport in [Transport::Tcp, Transport::Udp] {
        let address = SocketAddr::new(address.parse().unwrap(), 32803);
        registry.register(Service::Lockd, NLM, 4, transport, address);
    }
    registry
}

fn answer(registry: &Registry, who: Asker, version: u32, procedure: u32, args: &dyn Encode) -> bytes::Bytes {
    let mut w = Writer::new();
    let args = xdr::to_bytes(args);
    assert_eq!(registry.call(who, version, procedure, &args, &mut w), Ok(true));
    w.into_bytes()
}

fn pmap(registry: &Registry, who: Asker, procedure: PmapProc, vers: u32, port: u32) -> u32 {
    let mapping = Mapping {
        prog: NLM,
        vers,
        prot: IpProto::IPPROTO_TCP,
        port,
    };
    xdr::from_bytes(&answer(registry, who, V2, procedure.0, &mapping)).unwrap()
}

fn rpcb<'a>(vers: u32, netid: &'a str, addr: &'a str) -> Rpcb<'a> {
    Rpcb {
        r_prog: NLM,
        r_vers: vers,
        r_netid: netid.into(),
        r_addr: addr.into(),
        r_owner: "me".into(),
    }
}

fn set(registry: &Registry, who: Asker, procedure: RpcbProc, rpcb: &Rpcb<'_>) -> bool {
    xdr::from_bytes(&answer(registry, who, V3, procedure.0, rpcb)).unwrap()
}

fn address(registry: &Registry, who: Asker, procedure: RpcbProc, vers: u32) -> String {
    let bytes = answer(registry, who, V4, procedure.0, &rpcb(vers, "ignored", ""));
    xdr::from_bytes::<Text<'_>>(&bytes).unwrap().to_string()
}

const GETPORT: PmapProc = PmapProc::PMAPPROC_GETPORT;
const GETADDR: RpcbProc = RpcbProc::RPCBPROC_GETADDR;
const GETVERSADDR: RpcbProc = RpcbProc::RPCBPROC_GETVERSADDR;

#[test]
fn a_program_is_found_until_its_service_withdraws() {
    let registry = registry("0.0.0.0");
    assert_eq!(pmap(&registry, elsewhere(), GETPORT, 4, 0), 32803);
    assert_eq!(
        pmap(&registry, elsewhere(), GETPORT, 3, 0),
        32803,
        "another version"
    );
    assert_eq!(address(&registry, elsewhere(), GETADDR, 3), "10.77.0.1.128.35");
    assert_eq!(
        address(&registry, elsewhere(), GETVERSADDR, 4),
        "10.77.0.1.128.35"
    );
    assert_eq!(address(&registry, elsewhere(), GETVERSADDR, 3), "");
    registry.withdraw(Service::Lockd);
    assert_eq!(pmap(&registry, elsewhere(), GETPORT, 4, 0), 0);
    assert_eq!(address(&registry, elsewhere(), GETADDR, 4), "");
}

#[test]
fn only_this_host_registers_and_nobody_removes_our_own() {
    let registry = registry("127.0.0.1");
    let (set2, unset2) = (PmapProc::PMAPPROC_SET, PmapProc::PMAPPROC_UNSET);
    assert_eq!(pmap(&registry, elsewhere(), set2, 1, 9), 0);
    assert_eq!(pmap(&registry, here(), set2, 1, 70_000), 0, "no port");
    assert_eq!(pmap(&registry, here(), set2, 1, 9), 1);
    assert_eq!(pmap(&registry, here(), set2, 1, 9), 1, "it is so already");
    assert_eq!(pmap(&registry, here(), set2, 1, 10), 0, "taken");
    assert_eq!(pmap(&registry, here(), unset2, 4, 0), 0, "ours");
    assert_eq!(pmap(&registry, elsewhere(), unset2, 1, 0), 0);
    assert_eq!(pmap(&registry, here(), unset2, 1, 0), 1);

    let (set3, unset3) = (RpcbProc::RPCBPROC_SET, RpcbProc::RPCBPROC_UNSET);
    let tcp = rpcb(1, "tcp", "127.0.0.1.0.9");
    assert!(!set(&registry, elsewhere(), set3, &tcp));
    for wrong in [
        ("tcp", "127.0.0.1"),
        ("tcp6", "127.0.0.1.0.9"),
        ("local", "/run/x"),
    ] {
        assert!(!set(&registry, here(), set3, &rpcb(1, wrong.0, wrong.1)));
    }
    assert!(set(&registry, here(), set3, &tcp));
    assert!(set(&registry, here(), set3, &rpcb(1, "udp", "0.0.0.0.0.9")));
    assert!(set(&registry, here(), set3, &rpcb(1, "udp6", "::.0.9")));
    assert!(set(&registry, here(), unset3, &rpcb(1, "tcp", "")));
    assert!(!set(&registry, here(), unset3, &rpcb(1, "tcp", "")));
    assert!(!set(&registry, elsewhere(), unset3, &rpcb(1, "", "")));
    assert!(!set(&registry, here(), unset3, &rpcb(1, "local", "")));
    assert!(set(&registry, here(), unset3, &rpcb(1, "", "")));
    assert!(!set(&registry, here(), unset3, &rpcb(4, "", "")), "ours");
}

#[test]
fn each_family_and_transport_has_its_own_answer() {
    let v6 = registry("::1");
    assert_eq!(address(&v6, here6(), GETADDR, 4), "::1.128.35");
    assert_eq!(address(&v6, here(), GETADDR, 4), "", "not on IPv4");
    assert_eq!(pmap(&v6, here6(), GETPORT, 4, 0), 32803);
    assert_eq!(pmap(&v6, here(), GETPORT, 4, 0), 0);

    let both = registry("::");
    let clothed = asker("::ffff:10.77.0.2", "::ffff:10.77.0.1", Transport::Tcp);
    assert_eq!(address(&both, clothed, GETADDR, 4), "10.77.0.1.128.35");
    // A datagram socket of all addresses: the route decides.
    let datagram = asker("::1", "::", Transport::Udp);
    assert_eq!(address(&both, datagram, GETADDR, 4), "::1.128.35");
    let datagram = asker("127.0.0.1", "0.0.0.0", Transport::Udp);
    assert_eq!(address(&both, datagram, GETADDR, 4), "127.0.0.1.128.35");
}

#[test]
fn lists_say_what_there_is() {
    let registry = registry("::");
    let foreign = rpcb(1, "tcp", "127.0.0.1.0.9");
    assert!(set(&registry, here(), RpcbProc::RPCBPROC_SET, &foreign));
    let bytes = answer(&registry, elsewhere(), V4, RpcbProc::RPCBPROC_DUMP.0, &());
    let dump: Rpcblist<'_> = xdr::from_bytes(&bytes).unwrap();
    let lines: Vec<_> = dump
        .0
        .iter()
        .map(|r| format!("{} {} {} {}", r.r_vers, r.r_netid, r.r_addr, r.r_owner))
        .collect();
    let expected = [
        "1 tcp 127.0.0.1.0.9 unknown",
        "4 udp 0.0.0.0.128.35 superuser",
        "4 tcp 0.0.0.0.128.35 superuser",
        "4 udp6 ::.128.35 superuser",
        "4 tcp6 ::.128.35 superuser",
    ];
    assert_eq!(lines, expected);

    let bytes = answer(&registry, elsewhere(), V2, PmapProc::PMAPPROC_DUMP.0, &());
    let dump: PmapList = xdr::from_bytes(&bytes).unwrap();
    assert_eq!(dump.0.len(), 3, "version 2 knows nothing of IPv6");

    let args = rpcb(4, "", "");
    let bytes = answer(
        &registry,
        elsewhere(),
        V4,
        RpcbProc::RPCBPROC_GETADDRLIST.0,
        &args,
    );
    let list: RpcbEntryList<'_> = xdr::from_bytes(&bytes).unwrap();
    let lines: Vec<_> = list
        .0
        .iter()
        .map(|e| {
            format!(
                "{} {} {} {} {}",
                e.r_maddr, e.r_nc_netid, e.r_nc_semantics, e.r_nc_protofmly, e.r_nc_proto
            )
        })
        .collect();
    let expected = [
        "10.77.0.1.128.35 udp NC_TPI_CLTS inet udp",
        "10.77.0.1.128.35 tcp NC_TPI_COTS_ORD inet tcp",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn transport_addresses_go_both_ways() {
    let registry = Registry::default();
    let ask = |procedure: RpcbProc, args: &dyn Encode| answer(&registry, here(), V3, procedure.0, args);
    for (uaddr, len) in [
        ("10.77.0.1.8.1", 16),
        ("fe80::1.8.1", 28),
        ("10.77.0.1", 0),
        ("", 0),
    ] {
        let bytes = ask(RpcbProc::RPCBPROC_UADDR2TADDR, &Text::from(uaddr));
        let netbuf: Netbuf<'_> = xdr::from_bytes(&bytes).unwrap();
        assert_eq!((netbuf.maxlen, netbuf.buf.len()), (len, len as usize));
        let back = ask(RpcbProc::RPCBPROC_TADDR2UADDR, &netbuf);
        let expected = if len == 0 { "" } else { uaddr };
        assert_eq!(xdr::from_bytes::<Text<'_>>(&back).unwrap().to_string(), expected);
    }
}

#[test]
fn nothing_is_forwarded_and_everything_is_counted() {
    let registry = registry("0.0.0.0");
    let mut w = Writer::new();
    let mut call = |version, procedure: u32, args: &[u8]| {
        let answered = registry.call(elsewhere(), version, procedure, args, &mut w);
        assert!(w.is_empty());
        answered
    };
    let args = xdr::to_bytes(&RpcbRmtcallargs {
        prog: NLM,
        vers: 4,
        proc: 0,
        args: "".into(),
    });
    assert_eq!(call(2, 5, &args), Ok(false));
    assert_eq!(call(3, 5, &args), Ok(false));
    assert_eq!(call(4, 5, &args), Ok(false));
    assert_eq!(call(4, 10, &args), Err(RpcError::ProcUnavail));
    assert_eq!(call(3, 9, &args), Err(RpcError::ProcUnavail), "version 4 only");
    assert_eq!(call(4, 13, &args), Err(RpcError::ProcUnavail));
    assert_eq!(call(4, 3, &[0, 0]), Err(RpcError::GarbageArgs));
    assert_eq!(address(&registry, elsewhere(), GETADDR, 4).len(), 16);
    assert_eq!(address(&registry, elsewhere(), GETVERSADDR, 1), "");
    let bytes = answer(&registry, elsewhere(), V4, RpcbProc::RPCBPROC_GETSTAT.0, &());
    let RpcbStatByvers([v2, v3, v4]) = xdr::from_bytes(&bytes).unwrap();
    assert_eq!((v2.info[5], v3.info[5]), (1, 1));
    assert_eq!(v4.info, [0, 0, 0, 2, 0, 1, 0, 0, 0, 1, 1, 0, 1]);
    let List(asked) = v4.addrinfo;
    let asked: Vec<_> = asked.iter().map(|a| (a.vers, a.success, a.failure)).collect();
    assert_eq!(asked, [(1, 0, 1), (4, 1, 0)]);
    let List(forwards) = v4.rmtinfo;
    assert_eq!((forwards[0].failure, forwards[0].indirect), (2, 1));
}

/// The question that callbacks and notifications ask, to a port mapper of each family: ours.
#[tokio::test]
async fn ports_are_asked_for_in_the_version_of_the_family() {
    use crate::server::{Config, Ports, Server};
    use rpc::client::{Client, Identity, Options};
    let patience = std::time::Duration::from_secs(10);
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        let config = Config {
            bind: vec![host],
            ports: Ports::AUTO,
            ..Config::default()
        };
        let server = Server::start(config).await.unwrap();
        let mapper = SocketAddr::new(host, server.port(Service::Portmap));
        for transport in [Transport::Tcp, Transport::Udp] {
            let options = Options {
                from: None,
                identity: Identity::None,
                first_xid: 1,
                patience,
                tap: None,
            };
            let client = Client::connect(transport, mapper, options).await.unwrap();
            let ask = async |program| port_of(&client, transport, program, patience).await.unwrap();
            assert_eq!(ask((NLM, 4)).await, Some(server.port(Service::Lockd)));
            assert_eq!(ask((400_000, 1)).await, None);
        }
        let getport_or_getaddr = 3;
        let version = if host.is_ipv4() { V2 } else { V4 };
        let asked = server
            .node()
            .registry
            .stats
            .lock()
            .calls(version, getport_or_getaddr);
        assert_eq!(asked, 4, "in version {version}");
        server.stop().await;
    }
}

/// A server of ours, without a lock service, plays the port mapper of the host.
#[tokio::test]
async fn programs_are_registered_with_the_port_mapper_of_the_host() {
    use crate::server::{Config, Ports, Server};
    let mut config = Config {
        ports: Ports::AUTO,
        ..Config::default()
    };
    config.conditions.set(Service::Lockd, faults::Condition::Absent);
    let server = Server::start(config).await.unwrap();
    let at = SocketAddr::new(here().peer.ip(), server.port(Service::Portmap));
    let registry = &server.node().registry;
    let (system, other) = (System::at(at), System::at(at));
    system.register(NLM, &[1, 4], 9).await.unwrap();
    system.register(NLM, &[1, 4], 9).await.unwrap();
    for (version, netid) in [(1, Netid::Tcp), (4, Netid::Udp)] {
        let address = registry.exact((NLM, version, netid));
        assert_eq!(address.map(|address| address.port()), Some(9));
    }
    let error = other.register(NLM, &[3, 4], 10).await.unwrap_err().to_string();
    assert!(error.contains("rpcinfo -d 100021 4"), "{error}");
    assert_eq!(registry.exact((NLM, 3, Netid::Tcp)), None, "all or none");
    assert!(registry.exact((NLM, 4, Netid::Tcp)).is_some(), "the first one's");
    system.withdraw(NLM).await;
    assert_eq!(registry.any_version((NLM, 4, Netid::Udp)), None);
    server.stop().await;
    let error = format!("{:#}", other.register(NLM, &[3], 10).await.unwrap_err());
    assert!(error.contains("start rpcbind"), "{error}");
}
