//! The status monitor on the wire: decodes NSM calls for the pure `nsm::Monitor` and carries out its effects.

use super::Node;
use super::dispatch::{Answer, Incoming, Refusal};
use rpc::xdr::Writer;
use std::net::IpAddr;
use std::sync::Arc;

pub struct Statd;
impl Statd {
    pub fn new() -> Self { Statd }
    pub fn call(&self, _node: &Node, _call: &Incoming<'_>, _out: &mut Writer) -> Result<Answer, Refusal> { Ok(Answer::Later) }
    pub fn monitor(&self, _node: &Node, _peer: IpAddr, _name: &str) -> bool { true }
    pub fn unmonitor(&self, _node: &Node, _peer: IpAddr) {}
}
pub async fn drive(_node: Arc<Node>) {}
