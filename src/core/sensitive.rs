//! Finds sensitive text by its form and, where there is one, its checksum.
//!
//! Names, addresses and other free text cannot be found this way. Every detector is linear in the length of the text, also on
//! hostile input: the expressions run on a finite automaton, and the numbers are read by hand with a bounded look ahead.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexSet};

use super::policy::Detector;

/// Adds to `found` those of `wanted` that find something in `text`.
pub fn detect(text: &str, wanted: &BTreeSet<Detector>, found: &mut BTreeSet<Detector>) {
    for detector in wanted {
        if !found.contains(detector) && finds(*detector, text.as_bytes()) {
            found.insert(*detector);
        }
    }
}

fn finds(detector: Detector, text: &[u8]) -> bool {
    match detector {
        Detector::Email => EMAIL.is_match(text),
        Detector::PaymentCard => has_payment_card(text),
        Detector::Iban => has_iban(text),
        Detector::Secret => has_secret(text),
    }
}

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"(?-u)[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,24}\b"));

fn compiled(expression: &str) -> Regex {
    Regex::new(expression).expect("an expression of this file compiles")
}

// ---- secrets ----

/// Forms that nothing but a secret has.
const SECRETS: [&str; 11] = [
    // AWS access key ids, lasting and temporary.
    r"(?-u)\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    // GitHub tokens: classic by kind, and fine-grained.
    r"(?-u)\bgh[pousr]_[A-Za-z0-9]{36}",
    r"(?-u)\bgithub_pat_[A-Za-z0-9_]{22}",
    r"(?-u)\bglpat-[A-Za-z0-9_-]{20}",
    r"(?-u)\bxox[abeprs]-[0-9A-Za-z-]{10}",
    // Google API keys.
    r"(?-u)\bAIza[0-9A-Za-z_-]{35}",
    // Stripe, live mode.
    r"(?-u)\b[rs]k_live_[0-9A-Za-z]{16}",
    r"(?-u)\bhf_[A-Za-z]{34}",
    r"(?-u)\bnpm_[A-Za-z0-9]{36}",
    // PEM: PKCS #1, PKCS #8, EC, OpenSSH, PGP.
    r"-----BEGIN (?:[A-Z]{2,12} )?(?:[A-Z]{2,12} )?PRIVATE KEY(?: BLOCK)?-----",
    // A signed JSON web token: two JSON objects in base64url, and a signature.
    r"(?-u)\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16}",
];

static SECRET: LazyLock<RegexSet> = LazyLock::new(|| RegexSet::new(SECRETS).expect("an expression of this file compiles"));

/// OpenAI's, Anthropic's and others' keys; ordinary hyphenated names look alike, see [`looks_random`].
static PREFIXED_KEY: LazyLock<Regex> = LazyLock::new(|| compiled(r"(?-u)\bsk-[A-Za-z0-9_-]{20,}"));

fn has_secret(text: &[u8]) -> bool {
    SECRET.is_match(text) || PREFIXED_KEY.find_iter(text).any(|key| looks_random(key.as_bytes()))
}

/// A CSS class or a slug is in one case, in words; a key mixes upper case, lower case and digits.
fn looks_random(key: &[u8]) -> bool {
    let has = |class: fn(&u8) -> bool| key.iter().any(class);
    has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
}

// ---- payment cards ----

const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Leading digits and lengths by scheme, as the schemes publish them.
const CARD_SCHEMES: [(std::ops::RangeInclusive<u32>, &[usize]); 15] = [
    // Visa
    (4000..=4999, &[13, 16, 19]),
    // Mastercard
    (5100..=5599, &[16]),
    (2221..=2720, &[16]),
    // American Express
    (3400..=3499, &[15]),
    (3700..=3799, &[15]),
    // Discover
    (6011..=6011, &[16, 17, 18, 19]),
    (6440..=6599, &[16, 17, 18, 19]),
    // Diners Club
    (3000..=3059, &[14, 15, 16, 17, 18, 19]),
    (3600..=3699, &[14, 15, 16, 17, 18, 19]),
    (3800..=3999, &[14, 15, 16, 17, 18, 19]),
    // JCB
    (3528..=3589, &[16, 17, 18, 19]),
    // UnionPay
    (6200..=6299, &[16, 17, 18, 19]),
    // Maestro
    (5018..=5038, &[13, 14, 15, 16, 17, 18, 19]),
    (6759..=6763, &[13, 14, 15, 16, 17, 18, 19]),
    // Mir
    (2200..=2204, &[16, 17, 18, 19]),
];

/// Looks at every stretch of digits in groups, parted by single blanks or hyphens, from each group's start to each group's end: a
/// card number may follow another number.
fn has_payment_card(text: &[u8]) -> bool {
    let starts_group = |i: usize| text[i].is_ascii_digit() && (i == 0 || !text[i - 1].is_ascii_alphanumeric());
    (0..text.len()).any(|i| starts_group(i) && card_starts(&text[i..]))
}

fn card_starts(text: &[u8]) -> bool {
    let mut digits = [0u8; *CARD_DIGITS.end()];
    let mut count = 0;
    let mut at = 0;
    loop {
        let Some(digit) = text.get(at).filter(|b| b.is_ascii_digit()) else { return false };
        if count == digits.len() {
            return false;
        }
        digits[count] = digit - b'0';
        count += 1;
        at += 1;
        let ends_group = text.get(at).is_none_or(|b| !b.is_ascii_alphanumeric());
        if ends_group {
            if CARD_DIGITS.contains(&count) && is_card(&digits[..count]) {
                return true;
            }
            at += usize::from(text.get(at).is_some_and(|b| matches!(b, b' ' | b'-')));
        }
    }
}

fn is_card(digits: &[u8]) -> bool {
    let leading = digits[..4].iter().fold(0, |number, digit| number * 10 + u32::from(*digit));
    let known = CARD_SCHEMES.iter().any(|(prefix, lengths)| prefix.contains(&leading) && lengths.contains(&digits.len()));
    known && luhn(digits)
}

/// ISO/IEC 7812-1, annex B.
fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 = digits.iter().rev().enumerate().map(|(i, d)| u32::from(if i % 2 == 1 { doubled(*d) } else { *d })).sum();
    sum.is_multiple_of(10)
}

// ---- IBANs ----

/// Length of an IBAN by country, from SWIFT's IBAN registry.
#[rustfmt::skip]
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24), (b"AE", 23), (b"AL", 28), (b"AT", 20), (b"AZ", 28), (b"BA", 20), (b"BE", 16), (b"BG", 22), (b"BH", 22), (b"BI", 27),
    (b"BR", 29), (b"BY", 28), (b"CH", 21), (b"CR", 22), (b"CY", 28), (b"CZ", 24), (b"DE", 22), (b"DJ", 27), (b"DK", 18), (b"DO", 28),
    (b"EE", 20), (b"EG", 29), (b"ES", 24), (b"FI", 18), (b"FK", 18), (b"FO", 18), (b"FR", 27), (b"GB", 22), (b"GE", 22), (b"GI", 23),
    (b"GL", 18), (b"GR", 27), (b"GT", 28), (b"HR", 21), (b"HU", 28), (b"IE", 22), (b"IL", 23), (b"IQ", 23), (b"IS", 26), (b"IT", 27),
    (b"JO", 30), (b"KW", 30), (b"KZ", 20), (b"LB", 28), (b"LC", 32), (b"LI", 21), (b"LT", 20), (b"LU", 20), (b"LV", 21), (b"LY", 25),
    (b"MC", 27), (b"MD", 24), (b"ME", 22), (b"MK", 19), (b"MN", 20), (b"MR", 27), (b"MT", 31), (b"MU", 30), (b"NI", 28), (b"NL", 18),
    (b"NO", 15), (b"OM", 23), (b"PK", 24), (b"PL", 28), (b"PS", 29), (b"PT", 25), (b"QA", 29), (b"RO", 24), (b"RS", 22), (b"RU", 33),
    (b"SA", 24), (b"SC", 31), (b"SD", 18), (b"SE", 24), (b"SI", 19), (b"SK", 24), (b"SM", 27), (b"SO", 23), (b"ST", 25), (b"SV", 28),
    (b"TL", 23), (b"TN", 24), (b"TR", 26), (b"UA", 29), (b"VA", 22), (b"VG", 24), (b"XK", 20), (b"YE", 30),
];

/// An IBAN starts where a word starts, in upper or lower case, with or without single blanks between groups.
fn has_iban(text: &[u8]) -> bool {
    let starts_word = |i: usize| text[i].is_ascii_alphabetic() && (i == 0 || !text[i - 1].is_ascii_alphanumeric());
    (0..text.len()).any(|i| starts_word(i) && iban_starts(&text[i..]))
}

fn iban_starts(text: &[u8]) -> bool {
    let [a, b, c, d, ..] = text else { return false };
    let country = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
    if !c.is_ascii_digit() || !d.is_ascii_digit() {
        return false;
    }
    let Ok(index) = IBAN_LENGTHS.binary_search_by(|(known, _)| (*known).cmp(&country)) else { return false };
    let Some((characters, after)) = grouped(text, IBAN_LENGTHS[index].1) else { return false };
    after.is_none_or(|b| !b.is_ascii_alphanumeric()) && mod_97(&characters) == 1
}

/// The first `length` letters and digits of a text in groups, and the byte that follows.
fn grouped(text: &[u8], length: usize) -> Option<(Vec<u8>, Option<u8>)> {
    let mut characters = Vec::with_capacity(length);
    let mut at = 0;
    while characters.len() < length {
        match *text.get(at)? {
            byte if byte.is_ascii_alphanumeric() => characters.push(byte.to_ascii_uppercase()),
            b' ' if text[at - 1] != b' ' => {}
            _ => return None,
        }
        at += 1;
    }
    Some((characters, text.get(at).copied()))
}

/// ISO 7064 mod 97-10 over the characters with the first four moved to the end, a letter counting 10 to 35.
fn mod_97(characters: &[u8]) -> u32 {
    let (head, tail) = characters.split_at(4);
    tail.iter().chain(head).fold(0, |remainder, byte| match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        letter => (remainder * 100 + u32::from(letter - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests;
