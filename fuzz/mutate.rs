//! Inputs that nobody sent: examples, changed at random. Deterministic by its seed.

/// Largest input; larger ones find little more and take long.
const LIMIT: usize = 8 << 10;

/// Pieces that parsers stumble over.
const TOKENS: [&[u8]; 28] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"data: ",
    b"\n\n",
    b"\r\n",
    b"event: ",
    b"\xff",
    b"\xc3\xa9",
    b"{\"",
    b"\":{",
    b"[[[[[[[[",
    b"\x00\x00\x00\x10",
    b"\x7f\xff\xff\xff",
    b"[DONE]",
    b"\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}",
];

/// A generator of numbers (xorshift64*): small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`, or zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }
}

/// One of `examples`, changed some times.
pub fn mutated(random: &mut Random, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut input = examples[random.below(examples.len())].clone();
    for _ in 0..=random.below(6) {
        change(random, &mut input, examples);
    }
    input.truncate(LIMIT);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, examples: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(32)).min(input.len());
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        4 => input.truncate(at),
        5 => {
            let other = &examples[random.below(examples.len())];
            let from = random.below(other.len() + 1);
            let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
            input.splice(at..end, piece);
        }
        _ => drop(input.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
    }
}
