//! Every limit of the lock service and of the client, in one place. Nothing here grows without one of them, because the
//! peer may be hostile.

/// Calls that wait for a worker. Beyond it calls are dropped unanswered, as by a full socket buffer; the
/// client sends them again. Linux has no such number: the limit there is the buffers of its sockets.
pub const QUEUED_CALLS: usize = 16_384;

/// Locks held in the whole table. Beyond it LOCK is answered NLM4_DENIED_NOLOCKS.
pub const HELD_LOCKS: usize = 16_000_000;

/// Requests that wait for a lock. Beyond it a blocking LOCK is answered NLM4_DENIED_NOLOCKS.
pub const WAITERS: usize = 131_072;

/// Share reservations. Beyond it SHARE is answered NLM4_DENIED_NOLOCKS.
pub const SHARES: usize = 65_536;

/// Hosts (a host is a peer address with a transport, a version and a server address) and, apart from
/// them, caller names. Beyond it, those without locks are forgotten; if there are none, LOCK is answered
/// NLM4_DENIED_NOLOCKS.
pub const HOSTS: usize = 65_536;

/// Steps in the search for cycles of owners that wait for each other. Beyond it the search is given up, and says so.
pub const GRAPH_STEPS: usize = 8_000_000;

/// Lock holders that are listed for one waiter.
pub const HOLDERS_SHOWN: usize = 16;

/// Client: requests under way, those included that are being given up. Beyond it LOCK and TEST are refused with
/// ENOLCK.
pub const CLIENT_REQUESTS: usize = 16_384;

/// Client: locks held on one server. Beyond it LOCK is refused with ENOLCK.
pub const CLIENT_HELD: usize = 1_000_000;

/// Client: reclaims that are under way at once after a reboot of the server. Linux has one.
pub const CLIENT_RECLAIMS: usize = 16;

/// Client: bytes of its own name that are used, so that the owner handle fits (`MAXNETOBJ_SZ`). Linux has 64.
pub const CALLER_NAME: usize = 255;
