//! Things that are named by a number: a vector with reusable places.
//!
//! Ids are handed out in an order that depends only on the order of the calls, so listings that follow
//! them come out the same in every run. An id means nothing once its thing has been removed.

use std::cell::Cell;
use std::marker::PhantomData;

/// A place in an [`Arena`].
pub(crate) trait Id: Copy {
    /// The id of the place with this number.
    fn new(place: u32) -> Self;
    /// The number of the place.
    fn place(self) -> usize;
}

/// Declares an id type for an arena.
macro_rules! id {
    ($(#[$meta:meta])* $vis:vis struct $name:ident;) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name(pub(crate) u32);

        impl $crate::arena::Id for $name {
            fn new(place: u32) -> Self {
                $name(place)
            }
            fn place(self) -> usize {
                self.0 as usize
            }
        }
    };
}
pub(crate) use id;

enum Place<T> {
    Free { next: u32 },
    Full(T),
}

/// No free place.
const NONE: u32 = u32::MAX;

/// Values of one kind, named by `I`.
pub(crate) struct Arena<I, T> {
    places: Vec<Place<T>>,
    /// The place that was given back last, from which a chain leads to the others.
    free: u32,
    len: usize,
    id: PhantomData<fn() -> I>,
}

impl<I: Id, T> Arena<I, T> {
    pub(crate) fn new() -> Self {
        Arena {
            places: Vec::new(),
            free: NONE,
            len: 0,
            id: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> I {
        self.len += 1;
        let place = self.free;
        if let Some(slot) = self.places.get_mut(place as usize)
            && let Place::Free { next } = *slot
        {
            self.free = next;
            *slot = Place::Full(value);
            return I::new(place);
        }
        let place = u32::try_from(self.places.len())
            .ok()
            .filter(|place| *place != NONE);
        let place = place.expect("fewer than 2^32-1 places: crate::limits keeps it far below");
        self.places.push(Place::Full(value));
        I::new(place)
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let slot = self.places.get_mut(id.place())?;
        if let Place::Free { .. } = slot {
            return None;
        }
        let Place::Full(value) = std::mem::replace(slot, Place::Free { next: self.free }) else {
            return None;
        };
        self.len -= 1;
        if self.len == 0 {
            self.places.clear();
            self.free = NONE;
        } else {
            self.free = id.place() as u32;
        }
        Some(value)
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        match self.places.get(id.place()) {
            Some(Place::Full(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        match self.places.get_mut(id.place()) {
            Some(Place::Full(value)) => Some(value),
            _ => None,
        }
    }

    /// The thing with this id, which must be there. A wrong id is a mistake in this crate, never something
    /// that a peer sent.
    pub(crate) fn at(&self, id: I) -> &T {
        match self.places.get(id.place()) {
            Some(Place::Full(value)) => value,
            _ => unreachable!("place {} of the arena is empty", id.place()),
        }
    }

    /// [`at`](Self::at), to be changed.
    pub(crate) fn at_mut(&mut self, id: I) -> &mut T {
        match self.places.get_mut(id.place()) {
            Some(Place::Full(value)) => value,
            _ => unreachable!("place {} of the arena is empty", id.place()),
        }
    }

    /// All of them from place `from` on, in the order of their ids.
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = (I, &T)> {
        self.places
            .iter()
            .enumerate()
            .skip(from)
            .filter_map(|(place, slot)| match slot {
                Place::Full(value) => Some((I::new(place as u32), value)),
                Place::Free { .. } => None,
            })
    }
}

/// What was found last, and is most likely to be looked for next.
pub(crate) struct Latest<I>(Cell<Option<I>>);

impl<I: Id> Latest<I> {
    pub(crate) fn new() -> Self {
        Latest(Cell::new(None))
    }

    /// It, if `is_it`, or else what `find` finds. It may have been removed meanwhile: `is_it` has to see that.
    pub(crate) fn or_find(&self, is_it: impl Fn(&I) -> bool, find: impl FnOnce() -> Option<I>) -> Option<I> {
        if let Some(known) = self.0.get().filter(is_it) {
            return Some(known);
        }
        let found = find();
        self.0.set(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    id! {
        struct ThingId;
    }

    #[test]
    fn places_are_used_again_and_ids_are_dense() {
        let mut arena = Arena::<ThingId, &str>::new();
        let (a, b) = (arena.insert("a"), arena.insert("b"));
        assert_eq!(arena.remove(a), Some("a"));
        assert_eq!(arena.remove(a), None);
        let c = arena.insert("c");
        assert_eq!((c, arena.len()), (a, 2));
        assert_eq!(arena.iter_from(0).collect::<Vec<_>>(), [(c, &"c"), (b, &"b")]);
        assert_eq!(
            (arena.remove(b), arena.remove(c), arena.len()),
            (Some("b"), Some("c"), 0)
        );
        assert_eq!(arena.insert("d"), ThingId(0));
    }
}
