//! Keeps track of which numbers of a table are in use, and of which groups of elements have memory that
//! nobody needs.
//!
//! The table is a `ZeroedTable`, which can return the memory of a group of elements to the system. The
//! lowest free number is always taken first, so that the elements in use gather in few groups.
//!
//! One empty group is kept as the *spare*, so that an element that comes and goes does not cost a system
//! call each time. If a second group becomes empty, the higher of the two *leaves*: none of its numbers is
//! taken until its memory has gone. Releasing memory is a system call. So the thread that emptied the group
//! releases the lock over these numbers before it makes the call.

use std::collections::TryReserveError;

use crate::bitmap::Bitmap;
use crate::sync::MODEL;

/// Returns the number of elements that a group should have. This is `elements`, or fewer under Miri and
/// loom, where making or clearing a group writes every element.
pub const fn group(elements: usize) -> usize {
    if MODEL {
        2
    } else if cfg!(miri) {
        16
    } else {
        elements
    }
}

/// There is no memory for another element, or no free number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    /// A lower bound of the bytes that were refused. If all numbers are in use, the bytes of one element.
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    /// How many numbers of the group are in use.
    used: usize,
    /// How many elements of the group have memory. These are always the first ones.
    touched: usize,
}

/// The numbers of a table, free or in use. Its owner guards it with a lock.
///
/// ```
/// use zpool_base::numbers::Numbers;
///
/// let mut numbers = Numbers::new(512, 8, 1 << 20); // 2^20 elements of 8 bytes, 512 per group
/// let number = numbers.lowest().unwrap();
/// numbers.take(number);
/// assert_eq!((number, numbers.used()), (0, 1));
/// numbers.free(number);
/// assert!(!numbers.any_leaving()); // the empty group is the spare
/// ```
#[derive(Debug)]
pub struct Numbers {
    /// Elements per group.
    group: usize,
    /// Bytes per element, including any data that belongs to the element elsewhere.
    each: usize,
    /// All numbers are below this limit.
    limit: usize,
    groups: Vec<Group>,
    /// One bit for each number, set while the number is in use. Each group begins in a new word.
    bits: Vec<u64>,
    /// Groups from which no number may be taken, because they are full or leaving.
    closed: Bitmap,
    spare: Option<usize>,
    leaving: Vec<usize>,
    /// How many elements have memory, in all groups.
    touched: usize,
}

impl Numbers {
    /// Makes the numbers below `limit`, all of them free, for a table with `group` elements per group and
    /// `each` bytes per element.
    pub fn new(group: usize, each: usize, limit: usize) -> Self {
        Numbers {
            group,
            each,
            limit,
            groups: Vec::new(),
            bits: Vec::new(),
            closed: Bitmap::default(),
            spare: None,
            leaving: Vec::new(),
            touched: 0,
        }
    }

    /// Returns the bytes of all elements that have memory, plus the bytes of this bookkeeping.
    pub fn memory_bytes(&self) -> usize {
        self.touched * self.each
            + self.groups.capacity() * size_of::<Group>()
            + self.bits.capacity() * size_of::<u64>()
            + self.leaving.capacity() * size_of::<usize>()
            + self.closed.memory_bytes()
    }

    fn words(&self) -> usize {
        self.group.div_ceil(64)
    }

    /// Returns the lowest free number, which the caller can then [`take`](Self::take). Reserves the memory
    /// that `take` needs.
    ///
    /// # Errors
    /// [`NoRoom`] if the allocator refuses this memory, or if all numbers are in use.
    pub fn lowest(&mut self) -> Result<u32, NoRoom> {
        let group = self.closed.lowest() as usize;
        if group >= self.groups.len() {
            self.reserve_group().map_err(|_| NoRoom { bytes: size_of::<Group>() })?;
        }
        let words = self.bits.iter().skip(group * self.words()).take(self.words());
        let within: usize = words
            .scan(true, |go_on, word| {
                let ones = word.trailing_ones() as usize;
                core::mem::replace(go_on, ones == 64).then_some(ones)
            })
            .sum();
        let number = group * self.group + within;
        let number = u32::try_from(number).ok().filter(|_| number < self.limit);
        number.ok_or(NoRoom { bytes: self.each })
    }

    /// Reserves memory for the bookkeeping of one more group, so that no later step allocates.
    fn reserve_group(&mut self) -> Result<(), TryReserveError> {
        self.groups.try_reserve(1)?;
        self.bits.try_reserve(self.words())?;
        self.leaving.try_reserve(self.groups.len() + 1)?;
        self.closed.reserve(self.groups.len() as u32)
    }

    /// Takes a number that [`lowest`](Self::lowest) returned.
    pub fn take(&mut self, number: u32) {
        let (group, within) = self.place(number);
        if group == self.groups.len() {
            self.groups.push(Group { used: 0, touched: 0 });
            self.bits.resize(self.groups.len() * self.words(), 0);
        }
        let word = group * self.words() + within / 64;
        self.bits[word] |= 1 << (within % 64);
        let full = self.group;
        let of = &mut self.groups[group];
        of.used += 1;
        if of.touched <= within {
            self.touched += within + 1 - of.touched;
            of.touched = within + 1;
        }
        if of.used == full {
            self.closed.set(group as u32);
        }
        if self.spare == Some(group) {
            self.spare = None;
        }
    }

    /// Frees a number. If this empties its group, the group becomes the spare, or one of the two empty
    /// groups leaves.
    ///
    /// # Panics
    /// Panics if the number is not in use.
    pub fn free(&mut self, number: u32) {
        let (group, within) = self.place(number);
        let word = group * self.words() + within / 64;
        assert!(
            self.bits[word] >> (within % 64) & 1 == 1,
            "number {number} is freed but not in use"
        );
        self.bits[word] &= !(1 << (within % 64));
        let of = &mut self.groups[group];
        if of.used == self.group {
            self.closed.clear(group as u32);
        }
        of.used -= 1;
        if of.used > 0 {
            return;
        }
        let spare = self.spare.unwrap_or(group);
        self.spare = Some(spare.min(group));
        if spare != group {
            let leaves = spare.max(group);
            self.closed.set(leaves as u32);
            self.leaving.push(leaves);
        }
    }

    /// Whether any group waits for its memory to be released.
    pub fn any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Removes a group from those that wait for their memory to be released, and returns it. Returns `None`
    /// if none waits. The caller releases the group's memory and then calls [`has_left`](Self::has_left).
    pub fn next_leaving(&mut self) -> Option<usize> {
        self.leaving.pop()
    }

    /// Allows the numbers of a group to be taken again, after the group has left. `gone` says whether the
    /// group's memory was really released.
    pub fn has_left(&mut self, group: usize, gone: bool) {
        self.closed.clear(group as u32);
        if gone {
            self.touched -= core::mem::take(&mut self.groups[group].touched);
        }
    }

    /// Returns how many elements have memory. Free elements count, too, if they have memory.
    pub fn touched(&self) -> usize {
        self.touched
    }

    /// Returns how many numbers are in use.
    pub fn used(&self) -> usize {
        self.groups.iter().map(|group| group.used).sum()
    }

    fn place(&self, number: u32) -> (usize, usize) {
        (number as usize / self.group, number as usize % self.group)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::test_rng::Rng;
    use std::collections::BTreeSet;

    fn take(numbers: &mut Numbers) -> u32 {
        let number = numbers.lowest().unwrap();
        numbers.take(number);
        number
    }

    /// Lets all leaving groups go, and returns them.
    fn leave(numbers: &mut Numbers) -> Vec<usize> {
        let left: Vec<usize> = core::iter::from_fn(|| numbers.next_leaving()).collect();
        left.iter().for_each(|group| numbers.has_left(*group, true));
        left
    }

    #[test]
    fn the_lowest_free_number_is_given_out() {
        let groups: &[usize] = if cfg!(miri) { &[2, 64] } else { &[2, 16, 64, 512] };
        for group in groups.iter().copied() {
            let (most, steps) = if cfg!(miri) { (130, 300) } else { (3000, 20_000) };
            let (mut numbers, mut rng) = (Numbers::new(group, 8, most), Rng::new(3));
            let mut free: BTreeSet<u32> = (0..most as u32).collect();
            for step in 0..steps {
                if step < steps / 3 || rng.below(100) < 20 + 70 * (step % 7) / 7 {
                    match free.pop_first() {
                        Some(lowest) => assert_eq!(take(&mut numbers), lowest),
                        None => assert_eq!(numbers.lowest(), Err(NoRoom { bytes: 8 })),
                    }
                } else {
                    let number = rng.below(most) as u32;
                    if free.insert(number) {
                        numbers.free(number);
                        leave(&mut numbers);
                    }
                }
                assert_eq!(numbers.used(), most - free.len());
                assert!(numbers.touched() >= numbers.used());
            }
            for number in 0..most as u32 {
                if free.insert(number) {
                    numbers.free(number);
                    leave(&mut numbers);
                }
            }
            assert!(numbers.touched() <= group, "one spare group stays");
            assert_eq!(numbers.lowest(), Ok(0));
        }
    }

    #[test]
    fn of_two_empty_groups_the_higher_one_leaves() {
        let mut numbers = Numbers::new(4, 10, 100);
        let nodes = |numbers: &Numbers| numbers.touched() * 10;
        for _ in 0..12 {
            take(&mut numbers);
        }
        assert_eq!(nodes(&numbers), 120);
        (4..8).for_each(|number| numbers.free(number));
        assert!(!numbers.any_leaving(), "the first empty group is the spare");
        // The spare group is used and becomes empty again, without a system call.
        assert_eq!(take(&mut numbers), 4);
        numbers.free(4);
        (8..11).for_each(|number| numbers.free(number));
        assert!(!numbers.any_leaving());
        numbers.free(11);
        // No number of a leaving group is taken.
        assert_eq!(numbers.next_leaving(), Some(2));
        let taken: Vec<u32> = (0..5).map(|_| take(&mut numbers)).collect();
        assert_eq!(taken, [4, 5, 6, 7, 12]);
        assert_eq!(nodes(&numbers), 130);
        numbers.has_left(2, true);
        assert_eq!((take(&mut numbers), nodes(&numbers)), (8, 100));
    }

    #[test]
    fn a_lower_group_that_empties_takes_the_spare_ones_place() {
        let mut numbers = Numbers::new(2, 1, 100);
        for _ in 0..6 {
            take(&mut numbers);
        }
        [4, 5, 0].into_iter().for_each(|number| numbers.free(number));
        assert!(!numbers.any_leaving());
        numbers.free(1);
        assert_eq!(leave(&mut numbers), [2]);
        assert_eq!((take(&mut numbers), numbers.touched()), (0, 4));
    }

    #[test]
    fn memory_that_does_not_go_stays_counted() {
        let mut numbers = Numbers::new(2, 1, 100);
        for _ in 0..4 {
            take(&mut numbers);
        }
        (0..4).for_each(|number| numbers.free(number));
        let group = numbers.next_leaving().unwrap();
        numbers.has_left(group, false);
        assert_eq!((numbers.touched(), numbers.next_leaving()), (4, None));
        assert!(numbers.memory_bytes() > 4);
    }
}
