//! Whose pages are written back first.
//!
//! If an area is at its own limit, its pages go. If the store is, the pages of the area go first that exceeds its
//! protected bytes most. So an area that floods the store makes room with its own pages, once it is the largest,
//! and areas within their protected bytes keep theirs. If no area exceeds its protected bytes, the pages of the
//! area that asks for room go. When waiting for other threads was in vain, too, all pages may go (`room.rs`): otherwise
//! each area might exceed the limit a little.

use crate::Zswap;
use crate::area::Area;

/// The areas that pages are written back from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'s> {
    Area(&'s Area),
    /// Areas that exceed their protected bytes, then the area `last`.
    Excess {
        last: Option<&'s Area>,
    },
    /// All areas. Those that exceed their protected bytes come first.
    All,
}

/// The areas that had nothing to write back.
#[derive(Debug, Default)]
pub(crate) struct Exhausted {
    /// A bit for each `swap_type`.
    own: [u64; 4],
    shared: bool,
}

impl Exhausted {
    pub(crate) fn add(&mut self, area: &Area) {
        match area.swap_type {
            Some(own) => self.own[usize::from(own / 64)] |= 1 << (own % 64),
            None => self.shared = true,
        }
    }

    fn has(&self, area: &Area) -> bool {
        match area.swap_type {
            Some(own) => self.own[usize::from(own / 64)] >> (own % 64) & 1 != 0,
            None => self.shared,
        }
    }
}

impl Zswap {
    /// Returns the area whose pages go next. Returns `None` if there is none but the exhausted ones and those that
    /// `may_go` does not accept.
    pub(crate) fn victim<'s>(
        &'s self,
        from: From<'s>,
        exhausted: &Exhausted,
        may_go: impl Fn(&Area) -> bool,
    ) -> Option<&'s Area> {
        let may_go = |area: &&Area| !exhausted.has(area) && may_go(area);
        let candidates = || self.areas.all().filter(may_go);
        let most = || {
            let excess = candidates().filter_map(|area| Some((area.excess()?, area)));
            excess.max_by_key(|(bytes, _)| *bytes).map(|(_, area)| area)
        };
        match from {
            From::Area(area) => Some(area).filter(may_go),
            From::Excess { last } => most().or_else(|| last.filter(may_go)),
            From::All => {
                most().or_else(|| candidates().max_by_key(|area| area.limits.budget().used()))
            }
        }
    }
}
