//! Lock owners as numbers.
//!
//! What an owner is, is a policy ([`OwnerKey`](crate::personality::OwnerKey)); the table wants a number.
//! An owner is here as long as it holds a lock or waits for one, and costs about 60 bytes.

use crate::arena::Arena;
use crate::hosts::HostId;
use crate::short::ShortBytes;
use crate::table::OwnerId;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxHasher;
use std::hash::Hasher;

/// What a request says of its owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    /// The client host, as a number: by address or by name, whichever the policy says.
    pub(crate) space: u32,
    pub(crate) svid: i32,
    pub(crate) oh: &'a [u8],
}

impl Identity<'_> {
    fn is(&self, owner: &Owner, by_oh: bool) -> bool {
        owner.space == self.space && owner.svid == self.svid && (!by_oh || owner.oh.as_slice() == self.oh)
    }
}

#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) space: u32,
    pub(crate) svid: i32,
    hash: Hash,
    /// As in the first request.
    pub(crate) oh: ShortBytes,
    /// Where it asked from first.
    pub(crate) host: HostId,
    pub(crate) locks: u32,
    pub(crate) waits: u32,
}

pub(crate) struct Owners {
    owners: Arena<OwnerId, Owner>,
    /// Never iterated, and its hash is fixed.
    index: HashTable<OwnerId>,
    /// Whether the owner handle is part of the identity.
    by_oh: bool,
}

/// An owner's, kept with it in half the size that the index wants.
#[derive(Debug, Clone, Copy)]
struct Hash(u32);

impl Hash {
    fn of(who: &Identity<'_>, by_oh: bool) -> Hash {
        let mut hasher = FxHasher::default();
        hasher.write_u64(u64::from(who.space) << 32 | u64::from(who.svid as u32));
        if by_oh {
            hasher.write(who.oh);
        }
        let whole = hasher.finish();
        Hash(whole as u32 ^ (whole >> 32) as u32)
    }

    /// As the index wants it, which looks at the highest and at the lowest bits.
    fn wide(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

impl Owners {
    pub(crate) fn new(by_oh: bool) -> Self {
        Owners {
            owners: Arena::new(),
            index: HashTable::new(),
            by_oh,
        }
    }

    pub(crate) fn find(&self, who: &Identity<'_>) -> Option<OwnerId> {
        let is_it = |id: &OwnerId| who.is(self.owners.at(*id), self.by_oh);
        self.index.find(Hash::of(who, self.by_oh).wide(), is_it).copied()
    }

    pub(crate) fn find_or_add(&mut self, who: &Identity<'_>, host: HostId) -> OwnerId {
        let (owners, by_oh) = (&self.owners, self.by_oh);
        let hash = Hash::of(who, by_oh);
        let rehash = |id: &OwnerId| owners.at(*id).hash.wide();
        match self
            .index
            .entry(hash.wide(), |id| who.is(owners.at(*id), by_oh), rehash)
        {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let id = self.owners.insert(Owner {
                    space: who.space,
                    svid: who.svid,
                    hash,
                    oh: who.oh.into(),
                    host,
                    locks: 0,
                    waits: 0,
                });
                place.insert(id);
                id
            }
        }
    }

    /// Forgets the owner if it neither holds nor waits.
    pub(crate) fn forget_if_idle(&mut self, id: OwnerId) {
        let owner = self.owners.at(id);
        if owner.locks > 0 || owner.waits > 0 {
            return;
        }
        if let Ok(found) = self.index.find_entry(owner.hash.wide(), |other| *other == id) {
            found.remove();
        }
        self.owners.remove(id);
    }

    pub(crate) fn owner(&self, id: OwnerId) -> &Owner {
        self.owners.at(id)
    }

    pub(crate) fn owner_mut(&mut self, id: OwnerId) -> &mut Owner {
        self.owners.at_mut(id)
    }

    pub(crate) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.owners.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (OwnerId, &Owner)> {
        self.owners.iter_from(0)
    }
}
