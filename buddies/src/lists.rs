//! Doubly linked lists of pages, by page number: the LRU, the unbuddied lists, and the list of vacant
//! numbers.
//!
//! The links are in the pages' records. A list itself holds only its two ends. A page is on a list at most
//! once. The caller knows from the page's shelf whether the page is on the list (`shelves.rs`).

use core::ops::IndexMut;

/// The number that means "no page".
pub(crate) const NIL: u32 = u32::MAX;

/// The place of a page in one list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    /// The link of a page that is on no list.
    pub(crate) const NONE: Link = Link { prev: NIL, next: NIL };
}

/// A record that can be on a list of kind `K`.
pub(crate) trait Linked<K> {
    fn link(&mut self) -> &mut Link;
}

/// The two ends of a list of kind `K`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct List<K> {
    head: u32,
    tail: u32,
    kind: core::marker::PhantomData<K>,
}

impl<K> List<K> {
    pub(crate) const EMPTY: Self = List { head: NIL, tail: NIL, kind: core::marker::PhantomData };

    /// Returns the page at the front, which was added last. Returns `None` if the list is empty.
    pub(crate) fn first(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// Returns the page at the end, which was added first. Returns `None` if the list is empty.
    pub(crate) fn last(&self) -> Option<u32> {
        (self.tail != NIL).then_some(self.tail)
    }

    /// Puts a page at the front. The page must not be on a list of this kind.
    pub(crate) fn push_front<R>(&mut self, records: &mut R, page: u32)
    where
        R: IndexMut<u32, Output: Linked<K>>,
    {
        debug_assert_eq!(*records[page].link(), Link::NONE);
        *records[page].link() = Link { prev: NIL, next: self.head };
        match self.head {
            NIL => self.tail = page,
            head => records[head].link().prev = page,
        }
        self.head = page;
    }

    /// Removes a page that is on this list.
    pub(crate) fn unlink<R>(&mut self, records: &mut R, page: u32)
    where
        R: IndexMut<u32, Output: Linked<K>>,
    {
        let link = core::mem::replace(records[page].link(), Link::NONE);
        debug_assert!(link.prev != NIL || self.head == page, "page {page} is not on this list");
        match link.prev {
            NIL => self.head = link.next,
            prev => records[prev].link().next = link.next,
        }
        match link.next {
            NIL => self.tail = link.prev,
            next => records[next].link().prev = link.prev,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::records::Records;
    use std::collections::VecDeque;
    use zpool_base::sync::test_rng::Rng;

    struct Any;
    struct Rec(Link);
    impl Linked<Any> for Rec {
        fn link(&mut self) -> &mut Link {
            &mut self.0
        }
    }

    fn walk(list: &List<Any>, records: &Records<Rec>) -> Vec<u32> {
        let mut seen = Vec::new();
        let mut at = list.first();
        while let Some(page) = at {
            seen.push(page);
            let next = records[page].0.next;
            at = (next != NIL).then_some(next);
        }
        assert_eq!(list.last(), seen.last().copied());
        seen
    }

    #[test]
    fn behaves_like_a_deque() {
        let mut rng = Rng::new(11);
        let mut records = Records::new();
        for _ in 0..20 {
            records.reserve().unwrap();
            assert!(records.push(Rec(Link::NONE)));
        }
        let mut list = List::<Any>::EMPTY;
        let mut model: VecDeque<u32> = VecDeque::new();
        for _ in 0..if cfg!(miri) { 100 } else { 2000 } {
            let page = rng.below(20) as u32;
            if let Some(at) = model.iter().position(|p| *p == page) {
                model.remove(at);
                list.unlink(&mut records, page);
            } else {
                model.push_front(page);
                list.push_front(&mut records, page);
            }
            assert_eq!(walk(&list, &records), model.iter().copied().collect::<Vec<_>>());
        }
    }
}
