//! Which pages to sample: runs of 16, spread evenly over all eligible ones.

/// Contiguous pages: the number of the first (its address divided by the page size) and the count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) pages: u64,
}

/// Pages in a run. Neighbours are sampled together because they often hold similar data, and because
/// a program's own pages come in groups.
pub(crate) const RUN: u64 = 16;

/// Returns the number of pages in all extents.
pub(crate) fn count(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.pages).sum()
}

/// Chooses pages of `extents`, which must be in order of address. Returns all pages if there are at
/// most `most`. Otherwise returns as many runs of 16 pages as fit in `most`, which is none if `most`
/// is less than 16. The distances between the runs differ by at most 16 pages. A run is 16 consecutive
/// pages of `extents`, even if their addresses are not contiguous. The last run may be shorter.
pub(crate) fn spread(extents: &[Extent], most: usize) -> Vec<Extent> {
    let total = count(extents);
    let most = most as u64;
    if total <= most {
        return extents.to_vec();
    }
    let all_runs = total.div_ceil(RUN);
    let runs = (most / RUN).min(all_runs);
    let mut chosen = Vec::new();
    let mut rest = extents.iter().copied();
    let mut extent = rest.next();
    // The number of pages before `extent`.
    let mut before = 0;
    for n in 0..runs {
        let run = (u128::from(n) * u128::from(all_runs) / u128::from(runs)) as u64;
        let mut from = run * RUN;
        let end = (from + RUN).min(total);
        while let Some(Extent { first, pages }) = extent {
            if from >= before + pages {
                before += pages;
                extent = rest.next();
                continue;
            }
            if from >= end {
                break;
            }
            let part = end.min(before + pages) - from;
            chosen.push(Extent { first: first + (from - before), pages: part });
            from += part;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(extents: &[Extent]) -> Vec<u64> {
        extents.iter().flat_map(|e| e.first..e.first + e.pages).collect()
    }

    fn extents(sizes: &[u64]) -> Vec<Extent> {
        let mut at = 100;
        sizes
            .iter()
            .map(|&pages| {
                let extent = Extent { first: at, pages };
                at += pages + 7;
                extent
            })
            .collect()
    }

    #[test]
    fn a_small_process_is_taken_whole() {
        let all = extents(&[1, 40, 3]);
        assert_eq!(spread(&all, 44), all);
        assert_eq!(spread(&all, 1000), all);
        assert_eq!(spread(&[], 10), []);
    }

    #[test]
    fn runs_are_spread_evenly_and_stay_in_order() {
        let all = extents(&[1000, 1, 1, 30, 5000, 64]);
        let pages = numbers(&all);
        for most in [16, 17, 160, 1000, 3000, 6000, 6095] {
            let chosen = numbers(&spread(&all, most));
            let runs = most / 16;
            assert!(chosen.len() <= most && chosen.len() + 16 > runs * 16, "{most}");
            assert!(chosen.windows(2).all(|w| w[0] < w[1]), "{most}: each once, in order");
            let places: Vec<usize> =
                chosen.iter().map(|c| pages.binary_search(c).unwrap()).collect();
            let starts: Vec<usize> = places.iter().copied().step_by(16).collect();
            assert!(starts.iter().all(|at| at % 16 == 0), "{most}");
            let gaps = starts.windows(2).map(|w| w[1] - w[0]);
            let (low, high) = gaps.fold((usize::MAX, 0), |(l, h), g| (l.min(g), h.max(g)));
            assert!(starts.len() < 2 || high - low <= 16, "{most}: gaps {low} to {high}");
        }
    }

    #[test]
    fn less_than_a_run_is_nothing() {
        assert_eq!(spread(&extents(&[100]), 15), []);
    }

    #[test]
    fn runs_cross_from_extent_to_extent() {
        let all = extents(&[10, 10, 10]);
        let chosen = spread(&all, 16);
        assert_eq!(count(&chosen), 16);
        assert_eq!(chosen, [all[0], Extent { first: all[1].first, pages: 6 }]);
    }
}
