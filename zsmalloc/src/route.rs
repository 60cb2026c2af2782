//! Routes: which class a size goes to. The table grows finer as the pool grows.
//!
//! A class that few objects use wastes about half a page, whichever class it is. If all of the
//! about two hundred classes were in use from the start, a small pool would waste that in each of
//! them. So only some classes are *active* at first, one for every 32 bytes of size. An object's
//! *own class* is the smallest that holds it. If this class is not active, the object goes to the
//! next larger active class, and the bytes that this wastes are counted against its own class. When
//! they reach 2560 bytes, most of a page, the own class becomes active, and stays so.
//!
//! Of the classes above a page, the huge ones are active at first: there is one for every number of
//! pages. An object in one of them has pages of its own, so a huge class that few objects use wastes
//! only what it wastes for each object.
//!
//! Both numbers come from a simulation over the pages of five real processes, with 4 MiB to 1.25
//! GiB of stored pages. With fewer initial classes, the pool was less dense at 80 MiB. With later
//! activation, it was less dense at 640 MiB.

use crate::class_table::{HEADER, SizeClass};
use crate::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Bytes between the classes that are active from the start, for pages of 4096 bytes.
const COARSE: usize = 32;
/// Wasted bytes at which a class becomes active, for pages of 4096 bytes.
const LOST: u32 = 2560;

#[derive(Debug)]
pub(crate) struct Routes {
    /// For each class, the active class that its sizes go to.
    route: Vec<AtomicU16>,
    /// For each class, the bytes that its objects waste in larger classes.
    lost: Vec<AtomicU32>,
    /// Sizes of the classes in bytes.
    sizes: Vec<u32>,
    /// The number of classes up to a page.
    small: usize,
    page_size: usize,
    threshold: u32,
    step: usize,
}

impl Routes {
    /// Makes the routes of these classes. If `refine` is false, every class is active from the start.
    pub(crate) fn new(classes: &[SizeClass], page_size: usize, step: usize, refine: bool) -> Self {
        let scale = (page_size / 4096).max(1);
        let coarse = COARSE * scale;
        let mut next = classes.len() - 1;
        let mut route: Vec<AtomicU16> = Vec::with_capacity(classes.len());
        for (number, class) in classes.iter().enumerate().rev() {
            let above = classes.get(number + 1);
            // These classes are active at first: the huge ones, and of the classes up to a page the
            // largest in each range of 32 bytes, and the largest that is not huge.
            let last = above.is_none_or(|above| {
                above.huge
                    || (above.size as usize - 1) / coarse != (class.size as usize - 1) / coarse
            });
            let first = class.huge || (last && class.size as usize <= page_size);
            if !refine || first {
                next = number;
            }
            route.push(AtomicU16::new(next as u16));
        }
        route.reverse();
        Routes {
            lost: classes.iter().map(|_| AtomicU32::new(0)).collect(),
            sizes: classes.iter().map(|class| class.size).collect(),
            route,
            small: classes.iter().filter(|class| class.size as usize <= page_size).count(),
            page_size,
            threshold: LOST * scale as u32,
            step: step * scale,
        }
    }

    /// Returns the index of the smallest class that holds an object of `len` bytes. `len` must not exceed
    /// the pool's largest object.
    #[inline]
    pub(crate) fn class_of(&self, len: usize) -> usize {
        if len <= self.page_size {
            self.own_class((len + HEADER).min(self.page_size))
        } else {
            self.large_class_of(len)
        }
    }

    /// Returns the index of the smallest class above a page that holds an object of `len` bytes.
    fn large_class_of(&self, len: usize) -> usize {
        let holds = |size: u32| {
            let size = size as usize;
            // Only the classes whose places are whole pages have no headers.
            if size % self.page_size == 0 { size } else { size - HEADER }
        };
        self.small + self.sizes[self.small..].partition_point(|&size| holds(size) < len)
    }

    /// Returns the index of the smallest class that holds `bytes` bytes, header included. `bytes`
    /// must not exceed a page.
    fn own_class(&self, bytes: usize) -> usize {
        // Classes are one step apart, except where some were merged.
        let smallest = self.sizes[0] as usize;
        let steps = bytes.saturating_sub(smallest).div_ceil(self.step);
        // Merging never leaves more classes than steps, so the index of the right class is at most
        // `steps`.
        let high = steps.min(self.small - 1);
        self.sizes[..=high].partition_point(|&size| (size as usize) < bytes).min(high)
    }

    /// Returns the class that an object of class `own` would go to now. Counts nothing.
    pub(crate) fn goes_to(&self, own: usize) -> usize {
        // Relaxed: an estimate for the caller.
        usize::from(self.route[own].load(Ordering::Relaxed))
    }

    /// Returns the class that an object of class `own` goes to, and counts the bytes that this
    /// wastes. If they have reached the threshold, activates `own` and returns it.
    pub(crate) fn route(&self, own: usize) -> usize {
        // Relaxed, here and below: any class that is large enough is correct; the counts only steer density.
        let to = usize::from(self.route[own].load(Ordering::Relaxed));
        if to == own {
            return own;
        }
        let loss = self.sizes[to] - self.sizes[own];
        // Relaxed: see above.
        if self.lost[own].fetch_add(loss, Ordering::Relaxed) + loss < self.threshold {
            return to;
        }
        self.activate(own);
        own
    }

    /// Takes the bytes that a freed object wasted in class `from` off the count of its own class,
    /// `own`. Does nothing if the object wasted nothing, or if `own` is active.
    pub(crate) fn unroute(&self, own: usize, from: usize) {
        // Relaxed: see `route`.
        if usize::from(self.route[own].load(Ordering::Relaxed)) == own || from <= own {
            return;
        }
        let loss = self.sizes[from] - self.sizes[own];
        // Relaxed: may overwrite a concurrent change; the count only steers density.
        let lost = self.lost[own].load(Ordering::Relaxed);
        // Relaxed: as above.
        self.lost[own].store(lost.saturating_sub(loss), Ordering::Relaxed);
    }

    fn activate(&self, own: usize) {
        for class in (0..=own).rev() {
            // Relaxed: see `route`. Smaller inactive classes go to `own` from now on.
            if usize::from(self.route[class].fetch_min(own as u16, Ordering::Relaxed)) <= own
                && class != own
            {
                break;
            }
        }
    }

    /// Returns whether the class is active.
    pub(crate) fn is_active(&self, class: usize) -> bool {
        // Relaxed: see `route`.
        usize::from(self.route[class].load(Ordering::Relaxed)) == class
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.route.len() * (size_of::<AtomicU16>() + 2 * size_of::<u32>())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::class_table::{large_classes, size_classes};

    fn routes(refine: bool) -> (Vec<SizeClass>, Routes) {
        let classes = size_classes(4096, 16, 16);
        let routes = Routes::new(&classes, 4096, 16, refine);
        (classes, routes)
    }

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for (page_size, chain, step) in [(4096, 16, 16), (4096, 4, 8), (16384, 4, 16)] {
            let classes = size_classes(page_size, chain, step);
            let routes = Routes::new(&classes, page_size, step, true);
            for bytes in (1..=page_size).step_by(if cfg!(miri) { 61 } else { 1 }) {
                let own = routes.own_class(bytes);
                assert!(classes[own].size as usize >= bytes, "{bytes}");
                assert!(own == 0 || (classes[own - 1].size as usize) < bytes, "{bytes}");
            }
        }
    }

    #[test]
    fn every_length_above_a_page_has_the_smallest_class_that_holds_it() {
        for (page_size, chain, max) in [(4096, 16, 65536), (4096, 3, 8192), (16384, 4, 40000)] {
            let mut classes = size_classes(page_size, chain, 16);
            classes.extend(large_classes(page_size, chain, max));
            let routes = Routes::new(&classes, page_size, 16, true);
            let holds = |class: usize| classes[class].size as usize - classes[class].header();
            for len in (page_size - 9..=max).step_by(if cfg!(miri) { 997 } else { 1 }) {
                let own = routes.class_of(len);
                assert!(holds(own) >= len && holds(own - 1) < len, "{len}");
                // Until its own class is active, a large object has whole pages, and wastes less than one.
                let to = routes.goes_to(own);
                assert!(len <= page_size || classes[to].huge, "{len}");
                assert!(classes[to].size as usize - len < page_size + HEADER, "{len}");
            }
        }
    }

    #[test]
    fn a_large_class_becomes_active_after_a_few_objects() {
        let mut classes = size_classes(4096, 16, 16);
        classes.extend(large_classes(4096, 16, 65536));
        let routes = Routes::new(&classes, 4096, 16, true);
        let own = routes.class_of(10_000);
        assert!(!classes[own].huge && (3..20).any(|_| routes.route(own) == own));
        assert!(routes.is_active(own));
        // The objects of exactly three pages still go to the class that wastes nothing for them.
        let whole = routes.route(routes.class_of(12_288));
        assert_eq!((classes[whole].size, classes[whole].huge), (12_288, true));
    }

    #[test]
    fn a_route_leads_to_the_next_active_class() {
        let (classes, routes) = routes(true);
        let active = (0..classes.len()).filter(|&c| routes.is_active(c)).count();
        assert!((classes.len() / 3..classes.len() * 2 / 3).contains(&active), "{active}");
        for own in 0..classes.len() {
            let to = routes.route(own);
            assert!(routes.is_active(to) && to >= own);
            assert!((own..to).all(|between| !routes.is_active(between)));
            assert_eq!(classes[own].huge, classes[to].huge, "{own} to {to}");
        }
    }

    #[test]
    fn a_class_becomes_active_when_it_has_lost_most_of_a_page() {
        let (classes, routes) = routes(true);
        let own = (1..classes.len()).rev().find(|&c| !routes.is_active(c)).unwrap();
        let to = routes.route(own);
        let loss = classes[to].size - classes[own].size;
        let mut lost = loss;
        // Freed objects do not count.
        for _ in 0..1000 {
            assert_eq!(routes.route(own), to);
            routes.unroute(own, to);
        }
        while !routes.is_active(own) {
            lost += loss;
            let now = routes.route(own);
            assert_eq!(now == own, lost >= LOST, "{lost}");
        }
        assert_eq!(routes.route(own), own);
        // Objects of the class below, which went past class `own` before, now go to it.
        let below = routes.route(own - 1);
        assert!(below <= own, "{below}");
    }

    /// Checks that every class goes to the next active one, and never from huge to not huge or back.
    fn assert_sound(classes: &[SizeClass], routes: &Routes) {
        for own in 0..classes.len() {
            let to = usize::from(routes.route[own].load(Ordering::Relaxed));
            let next = (own..classes.len()).find(|&class| routes.is_active(class));
            assert_eq!(Some(to), next, "{own}");
            assert_eq!(classes[own].huge, classes[to].huge, "{own} to {to}");
        }
    }

    #[test]
    fn a_class_that_becomes_active_draws_all_below_it() {
        // With steps of 8, there are up to three inactive classes between active ones.
        let classes = size_classes(4096, 16, 8);
        for own in (0..classes.len()).step_by(if cfg!(miri) { 41 } else { 1 }) {
            let routes = Routes::new(&classes, 4096, 8, true);
            assert_sound(&classes, &routes);
            routes.activate(own);
            assert!(routes.is_active(own));
            assert_sound(&classes, &routes);
        }
    }

    #[test]
    fn what_is_given_back_counts_as_often_as_it_was_lost() {
        let (classes, routes) = routes(true);
        let own = (1..classes.len()).rev().find(|&c| !routes.is_active(c)).unwrap();
        let to = routes.route(own);
        let loss = classes[to].size - classes[own].size;
        let lost = |routes: &Routes| routes.lost[own].load(Ordering::Relaxed);
        assert_eq!(routes.route(own), to);
        assert_eq!(lost(&routes), 2 * loss);
        routes.unroute(own, own);
        assert_eq!(lost(&routes), 2 * loss, "an object in its own class wastes nothing");
        routes.unroute(own, to);
        assert_eq!(lost(&routes), loss);
        routes.unroute(own, to);
        routes.unroute(own, to);
        assert_eq!(lost(&routes), 0);
    }

    #[test]
    fn larger_pages_have_all_bytes_scaled() {
        let (small, large) = (size_classes(4096, 4, 16), size_classes(16384, 4, 16));
        let small_routes = Routes::new(&small, 4096, 16, true);
        let large_routes = Routes::new(&large, 16384, 16, true);
        // The table of the larger page also has classes below four times the smallest size.
        let more = large.len() - small.len();
        for (own, class) in small.iter().enumerate() {
            let of_large = own + more;
            assert_eq!(large[of_large].size, 4 * class.size);
            for _ in 0..4 {
                let to = small_routes.route(own);
                assert_eq!(large_routes.route(of_large), to + more, "{own}");
            }
            // The same waste, in proportion, activates the class.
            let lost = LOST - 1 - small_routes.lost[own].load(Ordering::Relaxed);
            if !small_routes.is_active(own) {
                small_routes.lost[own].fetch_add(lost, Ordering::Relaxed);
                large_routes.lost[of_large].fetch_add(4 * lost, Ordering::Relaxed);
                assert_eq!(small_routes.route(own), own);
                assert_eq!(large_routes.route(of_large), of_large);
            }
        }
    }

    #[test]
    fn the_tables_cost_ten_bytes_a_class() {
        let (classes, routes) = routes(true);
        assert_eq!(routes.memory_bytes(), classes.len() * 10);
    }

    #[test]
    fn without_refinement_all_are_active() {
        let (classes, routes) = routes(false);
        assert!((0..classes.len()).all(|c| routes.is_active(c) && routes.route(c) == c));
    }
}
