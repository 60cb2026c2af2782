//! Draws ranks by Zipf's law: the k-th rank, counted from 1, has a weight of 1 / k^theta. The
//! method is Walker's alias method. A draw picks a random place in a table, and returns either the
//! rank that the place belongs to or the place's alias.

use measure::SplitMix;

#[derive(Debug)]
pub(crate) struct Zipf {
    /// For each place, how often its own rank is drawn, in units of 2^-32, and its alias: the rank
    /// that is drawn otherwise.
    places: Vec<(u32, u32)>,
}

impl Zipf {
    /// Makes the table for the ranks from 0 to `ranks - 1`. If `ranks` is 0, there is one rank.
    pub(crate) fn new(ranks: usize, theta: f64) -> Self {
        let ranks = ranks.max(1);
        let weight = |rank: usize| ((rank + 1) as f64).powf(-theta);
        let sum: f64 = (0..ranks).map(weight).sum();
        // The share of each rank. The shares of all ranks add up to the number of places.
        let mut share: Vec<f64> =
            (0..ranks).map(|rank| weight(rank) / sum * ranks as f64).collect();
        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
            (0..ranks).partition(|&rank| share[rank] < 1.0);
        let mut places: Vec<(u32, u32)> = (0..ranks).map(|rank| (u32::MAX, rank as u32)).collect();
        while let (Some(needs), Some(&gives)) = (poor.pop(), rich.last()) {
            places[needs] = ((share[needs] * 4_294_967_296.0) as u32, gives as u32);
            share[gives] -= 1.0 - share[needs];
            if share[gives] < 1.0 {
                rich.pop();
                poor.push(gives);
            }
        }
        Zipf { places }
    }

    #[inline]
    pub(crate) fn draw(&self, random: &mut SplitMix) -> usize {
        let place = random.below(self.places.len());
        let (own, alias) = self.places[place];
        if random.next() as u32 <= own { place } else { alias as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        const DRAWS: usize = 1_000_000;
        for (ranks, theta) in [(1, 0.99), (2, 0.99), (1000, 0.99), (50, 0.0)] {
            let (zipf, mut random) = (Zipf::new(ranks, theta), SplitMix(7));
            let mut counts = vec![0usize; ranks];
            (0..DRAWS).for_each(|_| counts[zipf.draw(&mut random)] += 1);
            let sum: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-theta)).sum();
            for (rank, count) in counts.into_iter().enumerate() {
                let expected = DRAWS as f64 * ((rank + 1) as f64).powf(-theta) / sum;
                let off = (count as f64 - expected).abs();
                assert!(off < 6.0 * expected.sqrt() + 1.0, "{ranks} {rank}: {count}, {expected}");
            }
        }
    }
}
