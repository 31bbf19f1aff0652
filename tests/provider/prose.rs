//! Plausible sentences of a help desk, the same for the same seed.

/// Sebastiano Vigna's SplitMix64: a few lines, the same on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

const OPENERS: [&str; 10] = [
    "",
    "",
    "In practice,",
    "As a first step,",
    "After that,",
    "In most cases,",
    "Behind the scenes,",
    "For the time being,",
    "On the other hand,",
    "When in doubt,",
];
const SUBJECTS: [&str; 16] = [
    "the billing portal",
    "your account",
    "the export job",
    "the mobile app",
    "our support team",
    "the nightly sync",
    "the audit log",
    "a new session",
    "the payment service",
    "the search index",
    "every workspace",
    "the import wizard",
    "a reset link",
    "the access token",
    "this endpoint",
    "the deployment",
];
const VERBS: [&str; 12] =
    ["keeps", "updates", "checks", "records", "restores", "shows", "needs", "confirms", "replaces", "collects", "sends", "uses"];
const OBJECTS: [&str; 16] = [
    "the latest invoice",
    "every change of the plan",
    "the settings of the team",
    "a copy of the report",
    "the address on file",
    "all open requests",
    "two more permissions",
    "the previous version",
    "the time of the last login",
    "a confirmation by mail",
    "the remaining credit",
    "the list of members",
    "an entry in the history",
    "the same configuration",
    "the error message",
    "a second factor",
];
const TAILS: [&str; 12] = [
    "",
    "",
    "within a few minutes",
    "before the next billing cycle",
    "without any further step",
    "as soon as the page reloads",
    "for all regions at once",
    "unless an administrator objects",
    "and notifies the owner",
    "while the old one stays valid",
    "once the cache has expired",
    "so that nothing is lost",
];

/// Exactly `count` words, in sentences and paragraphs.
pub fn words(seed: u64, count: usize) -> String {
    let mut rng = Rng::new(seed);
    let (mut text, mut left, mut sentences) = (String::new(), count, 0);
    while left > 0 {
        let sentence = sentence(&mut rng);
        let kept: Vec<&str> = sentence.split(' ').take(left).collect();
        left -= kept.len();
        if sentences > 0 {
            text.push_str(if sentences % 5 == 0 { "\n\n" } else { " " });
        }
        text.push_str(kept.join(" ").trim_end_matches(','));
        text.push('.');
        sentences += 1;
    }
    text
}

fn sentence(rng: &mut Rng) -> String {
    let parts = [rng.pick(&OPENERS), rng.pick(&SUBJECTS), rng.pick(&VERBS), rng.pick(&OBJECTS), rng.pick(&TAILS)];
    let mut sentence = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    sentence[..1].make_ascii_uppercase();
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_writes_the_same_text_and_another_seed_another() {
        assert_eq!(words(7, 50), words(7, 50));
        assert_ne!(words(7, 50), words(8, 50));
    }

    #[test]
    fn as_many_words_as_asked_for() {
        for count in [0, 1, 3, 100, 2_000] {
            assert_eq!(words(1, count).split_whitespace().count(), count);
        }
    }
}
