//! Requests that wait for a lock, and grants that the client has not acknowledged.
//!
//! Linux calls one of these a *block* (`struct nlm_block`, fs/lockd/svclock.c). It is born when a blocking
//! LOCK meets a conflict. When the lock comes free the server takes it *first* and tells the client
//! *then* (GRANTED_MSG); until the client has answered (GRANTED_RES), the block stays, and the call is repeated.
//!
//! Requests of a file are tried in the order in which they came. Whether a LOCK that comes later may overtake
//! them is a policy ([`QueueOrder`](crate::personality::QueueOrder)).
//!
//! Invariants: a block is found by file, owner, range and kind, and there is at most one for these four,
//! so a repeated LOCK is never queued twice; a block that waits has a lock of another owner in its way or,
//! if the queue is fair, another's request that waits longer (the service tries it whenever that changes).

use crate::Now;
use crate::hosts::HostId;
use crate::range::{Kind, Range};
use crate::short::ShortBytes;
use crate::table::{Handle, OwnerId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A request that waits or waited for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a block is about: there is at most one block for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Want {
    pub(crate) owner: OwnerId,
    pub(crate) fh: Handle,
    pub(crate) range: Range,
    pub(crate) kind: Kind,
}

impl Want {
    /// Whether two owners cannot have both of these.
    pub(crate) fn conflicts(&self, other: &Want) -> bool {
        self.owner != other.owner
            && self.fh == other.fh
            && self.kind.conflicts(other.kind)
            && self.range.overlaps(other.range)
    }
}

/// How far a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// The lock is held by someone else.
    Waiting,
    /// The lock is taken; the client has not said that it knows.
    Granting {
        /// How often GRANTED was asked for.
        attempts: u32,
        /// What the driver reported of the last one, and when.
        last: Option<(Now, bool)>,
        /// When it is sent again; `None` while it is being sent.
        again: Option<Now>,
    },
}

/// A request that waits, or whose grant is not acknowledged.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) want: Want,
    pub(crate) host: HostId,
    pub(crate) caller_name: ShortBytes,
    pub(crate) oh: ShortBytes,
    pub(crate) cookie: u32,
    pub(crate) since: Now,
    pub(crate) state: BlockState,
    /// It may wait for nothing: a lock in its way was forgotten without anyone being told.
    pub(crate) overlooked: bool,
}

impl Block {
    pub(crate) fn is_waiting(&self) -> bool {
        self.state == BlockState::Waiting
    }
}

/// All blocks.
#[derive(Default)]
pub(crate) struct Waiters {
    blocks: BTreeMap<BlockId, Block>,
    by_want: BTreeMap<Want, BlockId>,
    by_file: BTreeSet<(Handle, BlockId)>,
    by_cookie: BTreeMap<u32, BlockId>,
    due: BTreeSet<(Now, BlockId)>,
    last_id: u64,
    last_cookie: u32,
}

impl Waiters {
    /// None, but with numbers and cookies that go on: an answer to a grant from before a restart must not
    /// be taken for one to a grant after it.
    pub(crate) fn emptied(self) -> Self {
        Waiters {
            last_id: self.last_id,
            last_cookie: self.last_cookie,
            ..Waiters::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(crate) fn find(&self, want: &Want) -> Option<BlockId> {
        if self.is_empty() {
            return None;
        }
        self.by_want.get(want).copied()
    }

    pub(crate) fn by_cookie(&self, cookie: &[u8]) -> Option<BlockId> {
        let cookie = u32::from_be_bytes(cookie.try_into().ok()?);
        self.by_cookie.get(&cookie).copied()
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(&id)
    }

    /// Adds a request that waits from now on. Its cookie is fresh, so that a late answer to another
    /// request's GRANTED is not taken for its own.
    pub(crate) fn add(&mut self, want: Want, host: HostId, name: &[u8], oh: &[u8], now: Now) -> BlockId {
        self.last_id += 1;
        let id = BlockId(self.last_id);
        loop {
            self.last_cookie = self.last_cookie.wrapping_add(1);
            if !self.by_cookie.contains_key(&self.last_cookie) {
                break;
            }
        }
        let cookie = self.last_cookie;
        self.by_want.insert(want, id);
        self.by_file.insert((want.fh, id));
        self.by_cookie.insert(cookie, id);
        let (caller_name, oh) = (name.into(), oh.into());
        let state = BlockState::Waiting;
        self.blocks.insert(
            id,
            Block {
                want,
                host,
                caller_name,
                oh,
                cookie,
                since: now,
                state,
                overlooked: false,
            },
        );
        id
    }

    pub(crate) fn remove(&mut self, id: BlockId) -> Option<Block> {
        self.schedule(id, None);
        let block = self.blocks.remove(&id)?;
        self.by_want.remove(&block.want);
        self.by_file.remove(&(block.want.fh, id));
        self.by_cookie.remove(&block.cookie);
        Some(block)
    }

    /// A lock in its way was forgotten.
    pub(crate) fn overlook(&mut self, id: BlockId) {
        if let Some(block) = self.blocks.get_mut(&id) {
            block.overlooked = true;
        }
    }

    /// Sets the state, and with it when the block is due.
    pub(crate) fn set_state(&mut self, id: BlockId, state: BlockState) {
        let again = match state {
            BlockState::Waiting => None,
            BlockState::Granting { again, .. } => again,
        };
        self.schedule(id, again);
        if let Some(block) = self.blocks.get_mut(&id) {
            block.state = state;
        }
    }

    fn schedule(&mut self, id: BlockId, at: Option<Now>) {
        if let Some(BlockState::Granting { again: Some(old), .. }) = self.blocks.get(&id).map(|b| b.state) {
            self.due.remove(&(old, id));
        }
        if let Some(at) = at {
            self.due.insert((at, id));
        }
    }

    /// When the next GRANTED is to be repeated.
    pub(crate) fn next_due(&self) -> Option<(Now, BlockId)> {
        self.due.first().copied()
    }

    /// The blocks of a file that wait for some of these bytes, in the order in which they came.
    pub(crate) fn waiting_for(&self, fh: Handle, ranges: &[Range]) -> Vec<BlockId> {
        self.by_file
            .range((fh, BlockId(0))..=(fh, BlockId(u64::MAX)))
            .filter_map(|(_, id)| Some((*id, self.blocks.get(id)?)))
            .filter(|(_, block)| {
                block.is_waiting() && ranges.iter().any(|range| block.want.range.overlaps(*range))
            })
            .map(|(id, _)| id)
            .collect()
    }

    /// The requests of a file that wait and came before `before` (all, if that is `None`), in the order in which
    /// they came.
    pub(crate) fn waiting_in(
        &self,
        fh: Handle,
        before: Option<BlockId>,
    ) -> impl DoubleEndedIterator<Item = (BlockId, &Want)> {
        let end = before.unwrap_or(BlockId(u64::MAX));
        self.by_file
            .range((fh, BlockId(0))..(fh, end))
            .filter_map(|(_, id)| Some((*id, self.blocks.get(id)?)))
            .filter(|(_, block)| block.is_waiting())
            .map(|(id, block)| (id, &block.want))
    }

    /// Everything of an owner that waits or whose grant is not acknowledged.
    fn blocks_of(&self, owner: OwnerId) -> impl Iterator<Item = (BlockId, &Block)> {
        let low = Handle::from(crate::table::Fh::default());
        let from = Want {
            owner,
            fh: low,
            range: Range::LEAST,
            kind: Kind::Shared,
        };
        self.by_want
            .range(from..)
            .take_while(move |(want, _)| want.owner == owner)
            .filter_map(|(_, id)| Some((*id, self.blocks.get(id)?)))
    }

    /// What an owner waits for.
    pub(crate) fn wants_of(&self, owner: OwnerId) -> impl Iterator<Item = &Want> {
        self.blocks_of(owner)
            .filter(|(_, block)| block.is_waiting())
            .map(|(_, block)| &block.want)
    }

    /// Every owner that has a block, in the order of their numbers.
    pub(crate) fn owners(&self) -> impl Iterator<Item = OwnerId> {
        let mut last = None;
        self.by_want
            .keys()
            .map(|want| want.owner)
            .filter(move |owner| last.replace(*owner) != Some(*owner))
    }

    /// Every owner that waits, in the order of their numbers.
    pub(crate) fn waiting_owners(&self) -> impl Iterator<Item = OwnerId> {
        let mut last = None;
        self.by_want
            .iter()
            .filter(|(_, id)| self.blocks.get(id).is_some_and(Block::is_waiting))
            .map(|(want, _)| want.owner)
            .filter(move |owner| last.replace(*owner) != Some(*owner))
    }

    /// The requests that wait, file by file and in the order in which they came.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (BlockId, &Want)> {
        self.by_file
            .iter()
            .filter_map(|(_, id)| Some((*id, self.blocks.get(id)?)))
            .filter(|(_, block)| block.is_waiting())
            .map(|(id, block)| (id, &block.want))
    }

    /// The requests of an owner whose grant is not acknowledged.
    pub(crate) fn grants_of(&self, owner: OwnerId) -> Vec<(BlockId, Want)> {
        self.blocks_of(owner)
            .filter(|(_, block)| !block.is_waiting())
            .map(|(id, block)| (id, block.want))
            .collect()
    }

    /// All blocks after `after`, in the order in which they came.
    pub(crate) fn iter_after(&self, after: Option<BlockId>) -> impl Iterator<Item = (BlockId, &Block)> {
        let from = after.map_or(0, |id| id.0.saturating_add(1));
        self.blocks.range(BlockId(from)..).map(|(id, block)| (*id, block))
    }
}
