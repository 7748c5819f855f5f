//! The other side: asking a client's port mapper where its lock manager or status monitor listens.

use proto::portmap::{Mapping, PmapProc, V2};
use proto::rpcbind::{Netid, PROGRAM, Rpcb, RpcbProc, Text, V4, from_uaddr};
use rpc::client::{CallError, Client, Target};
use rpc::msg::Transport;
use rpc::xdr;
use std::time::Duration;

/// The port of a program at the other end, for the transport by which `client` has connected to its port
/// mapper; `None`: the port mapper does not know it.
///
/// On IPv4 the question is GETPORT of version 2, as Linux asks it. rpcbind does not offer that on IPv6; there it is
/// GETADDR of version 4.
///
/// # Errors
/// Those of the call.
pub async fn port_of(
    client: &Client,
    transport: Transport,
    (program, version): (u32, u32),
    patience: Duration,
) -> Result<Option<u16>, CallError> {
    let netid = Netid::of(transport, client.peer().ip());
    let port = if netid.is_v6() {
        let question = Rpcb {
            r_prog: program,
            r_vers: version,
            r_netid: netid.name().into(),
            r_addr: "".into(),
            r_owner: "".into(),
        };
        let getaddr = Target::new(PROGRAM, V4, RpcbProc::RPCBPROC_GETADDR.0);
        let answer = client.call(getaddr, &question, patience).await?;
        from_uaddr(&xdr::from_bytes::<Text<'_>>(&answer)?).map(|address| address.port())
    } else {
        let question = Mapping {
            prog: program,
            vers: version,
            prot: super::ip_proto(transport),
            port: 0,
        };
        let getport = Target::new(PROGRAM, V2, PmapProc::PMAPPROC_GETPORT.0);
        let answer = client.call(getport, &question, patience).await?;
        u16::try_from(xdr::from_bytes::<u32>(&answer)?).ok()
    };
    Ok(port.filter(|port| *port != 0))
}
