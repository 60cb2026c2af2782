//! Chooses the colours of the charts: one for each kind of contestant.

use measure::chart::{BLUE, FAINT, GREEN, Hue, INK, ORANGE, PURPLE};

/// The kinds of contestants: the prefix of their names, a description, and a colour.
const FAMILIES: [(&str, &str, Hue); 5] = [
    ("codec", "codec alone", FAINT),
    ("zswap-core", "this project's store", BLUE),
    ("zram", "this project's disk", GREEN),
    ("map-", "map of boxed blocks", ORANGE),
    ("kernel-", "running kernel", PURPLE),
];

/// Returns the colour of a contestant's kind.
pub(super) fn of_contestant(contestant: &str) -> Hue {
    let family = FAMILIES.iter().find(|(start, ..)| contestant.starts_with(start));
    family.map_or(INK, |&(.., hue)| hue)
}

/// Returns the legend: the descriptions and colours of the kinds that these contestants have.
pub(super) fn key<'a>(contestants: impl Iterator<Item = &'a str> + Clone) -> Vec<(String, Hue)> {
    FAMILIES
        .iter()
        .filter(|(start, ..)| contestants.clone().any(|name| name.starts_with(start)))
        .map(|&(_, told, hue)| (told.to_owned(), hue))
        .collect()
}

/// Returns a colour for line `n` of a chart in which lines are not contestants.
pub(super) fn nth(n: usize) -> Hue {
    [ORANGE, GREEN, BLUE, PURPLE][n % 4]
}
