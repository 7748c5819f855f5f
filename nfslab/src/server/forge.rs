//! Answers that no handler gave: a status on command, and "done" without having done it.

use faults::Service;
use faults::action::has_status;
use proto::nfs3::{Nfs3Proc, StableHow, Write3Args};
use proto::nlm::NlmProc;
use proto::nsm::SmProc;
use rpc::msg::CallHeader;
use rpc::xdr::{self, Decode, Encode, Reader, Writer};

/// A result with this status and nothing else in it: no attributes, no holder. As the failure arms of RFC 1813, or as
/// the results of NLM with the call's own cookie. Void, if the result of this procedure has no status.
pub fn answer(out: &mut Writer, service: Service, header: &CallHeader<'_>, args: &[u8], status: u32) {
    if !has_status(service, header.procedure) {
        return;
    }
    match service {
        Service::Nfs => {
            out.u32(status);
            (0..absent_attributes(Nfs3Proc(header.procedure))).for_each(|_| out.bool(false));
        }
        Service::Lockd => nlm(out, header.version, NlmProc(header.procedure), args, status),
        Service::Statd if matches!(SmProc(header.procedure), SmProc::SM_STAT | SmProc::SM_MON) => {
            out.u32(status);
            out.u32(0); // the state number, which means nothing with a failure
        }
        Service::Mount | Service::Statd | Service::Portmap => out.u32(status),
    }
}

/// How many optional attributes stand in a failed result of a procedure (RFC 1813, section 3.3): one for
/// `post_op_attr`, two for `wcc_data`.
fn absent_attributes(procedure: Nfs3Proc) -> usize {
    match procedure {
        Nfs3Proc::NFSPROC3_NULL | Nfs3Proc::NFSPROC3_GETATTR => 0,
        Nfs3Proc::NFSPROC3_SETATTR
        | Nfs3Proc::NFSPROC3_WRITE
        | Nfs3Proc::NFSPROC3_CREATE
        | Nfs3Proc::NFSPROC3_MKDIR
        | Nfs3Proc::NFSPROC3_SYMLINK
        | Nfs3Proc::NFSPROC3_MKNOD
        | Nfs3Proc::NFSPROC3_REMOVE
        | Nfs3Proc::NFSPROC3_RMDIR
        | Nfs3Proc::NFSPROC3_COMMIT => 2,
        Nfs3Proc::NFSPROC3_LINK => 3,
        Nfs3Proc::NFSPROC3_RENAME => 4,
        _ => 1,
    }
}

fn nlm(out: &mut Writer, version: u32, procedure: NlmProc, args: &[u8], status: u32) {
    // Every call that has a result begins with the cookie.
    let cookie = proto::nlm::Netobj::decode(&mut Reader::new(args)).unwrap_or_default();
    cookie.encode(out);
    out.u32(status);
    match procedure {
        NlmProc::NLM_TEST if status == proto::nlm::Nlm4Stat::NLM4_DENIED.0 => {
            // A holder of whom nothing is known: exclusive, owner 0, everything.
            out.bool(true);
            out.u32(0);
            out.opaque(b"");
            // Offset and length: 64 bits each in version 4, 32 before it.
            (0..if version == proto::nlm::V4 { 4 } else { 2 }).for_each(|_| out.u32(0));
        }
        NlmProc::NLM_SHARE | NlmProc::NLM_UNSHARE => out.u32(0), // sequence
        _ => {}
    }
}

/// "Done", for those calls to which it can be said without executing them
/// ([`faults::action::can_be_acknowledged`]).
pub fn acknowledge(
    out: &mut Writer,
    service: Service,
    header: &CallHeader<'_>,
    args: &[u8],
    write_verf: [u8; 8],
) {
    answer(out, service, header, args, 0);
    if service != Service::Nfs {
        return;
    }
    match Nfs3Proc(header.procedure) {
        Nfs3Proc::NFSPROC3_WRITE => {
            let asked = xdr::from_bytes::<Write3Args<'_>>(args)
                .map_or((0, StableHow::UNSTABLE), |args| (args.count, args.stable));
            out.u32(asked.0);
            asked.1.encode(out);
            out.fixed(&write_verf);
        }
        Nfs3Proc::NFSPROC3_COMMIT => out.fixed(&write_verf),
        _ => {}
    }
}
