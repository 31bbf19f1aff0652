//! Money as an integer number of pico-dollars.
//!
//! A list price with up to six decimals per million tokens is a whole number of pico-dollars per token, so the
//! cost of a call is exact and nothing is ever rounded. Floats never carry money, not even on the way.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of money in pico-dollars (10⁻¹² USD).
///
/// `i128` holds ±1.7 × 10²⁶ USD, so sums of any realistic size cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsd(pub i128);

/// Pico-dollars in one dollar.
const PICO_PER_USD: i128 = 1_000_000_000_000;
/// Decimal places of one pico-dollar.
const DECIMALS: usize = 12;

impl PicoUsd {
    pub const ZERO: PicoUsd = PicoUsd(0);
    /// An amount that no budget can hold: stands for "unbounded".
    pub const MAX: PicoUsd = PicoUsd(i128::MAX / 4);

    /// A thousand dollars a token: more is no price but a mistake, and the cost of any number of tokens still fits.
    pub const MOST_PER_TOKEN: PicoUsd = PicoUsd(1_000_000_000_000_000);

    /// A whole number of dollars.
    pub const fn from_usd(dollars: i64) -> PicoUsd {
        PicoUsd(dollars as i128 * PICO_PER_USD)
    }

    /// Micro-dollars, the unit of a price with six decimals per million tokens per token.
    pub const fn from_micro(micro: i64) -> PicoUsd {
        PicoUsd(micro as i128 * 1_000_000)
    }

    /// The price of one token, from a price in USD per million tokens: exact for up to six decimals.
    ///
    /// # Errors
    /// When the price has a finer fraction than a pico-dollar per token, or is not a decimal number.
    pub fn per_token_from_per_million(text: &str) -> Result<PicoUsd, MoneyError> {
        let per_million: PicoUsd = text.parse()?;
        if per_million.0.abs() > PicoUsd::MOST_PER_TOKEN.0 * 1_000_000 {
            return Err(MoneyError::NotADecimal(text.to_owned()));
        }
        if per_million.0 % 1_000_000 != 0 {
            return Err(MoneyError::TooFine { text: text.to_owned(), decimals: 6 });
        }
        Ok(PicoUsd(per_million.0 / 1_000_000))
    }

    pub fn saturating_sub(self, other: PicoUsd) -> PicoUsd {
        PicoUsd(self.0.saturating_sub(other.0))
    }

    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The amount with at least two and at most twelve decimals, none of them lost: `0.05`, `1.000000000001`.
    pub fn to_decimal(self) -> String {
        Decimal::of(self).as_str().to_owned()
    }
}

/// [`PicoUsd::to_decimal`] without memory of its own: amounts are written several times for each call.
struct Decimal {
    text: [u8; Decimal::LONGEST],
    begin: usize,
}

impl Decimal {
    /// A sign, 27 digits, a point, and twelve digits: the smallest number of 128 bits.
    const LONGEST: usize = 41;

    fn of(amount: PicoUsd) -> Decimal {
        let magnitude = amount.0.unsigned_abs();
        let mut decimal = Decimal { text: [0; Decimal::LONGEST], begin: Decimal::LONGEST };
        let (whole, mut fraction) = match u64::try_from(magnitude) {
            // What a call costs: a processor divides 64 bits by itself.
            Ok(magnitude) => (u128::from(magnitude / PICO_PER_USD as u64), magnitude % PICO_PER_USD as u64),
            Err(_) => (magnitude / PICO_PER_USD as u128, (magnitude % PICO_PER_USD as u128) as u64),
        };
        for decimals in (1..=12).rev() {
            let digit = (fraction % 10) as u8;
            fraction /= 10;
            let ends_here = decimal.begin == Decimal::LONGEST;
            if digit != 0 || decimals <= 2 || !ends_here {
                decimal.put(b'0' + digit);
            }
        }
        decimal.put(b'.');
        match u64::try_from(whole) {
            Ok(whole) => decimal.put_digits(whole, |whole| (whole / 10, (whole % 10) as u8)),
            Err(_) => decimal.put_digits(whole, |whole| (whole / 10, (whole % 10) as u8)),
        }
        if amount.0 < 0 {
            decimal.put(b'-');
        }
        decimal
    }

    fn put_digits<N: Default + PartialEq>(&mut self, mut number: N, divided: impl Fn(&N) -> (N, u8)) {
        loop {
            let (rest, digit) = divided(&number);
            self.put(b'0' + digit);
            number = rest;
            if number == N::default() {
                return;
            }
        }
    }

    /// Puts a character before the others.
    fn put(&mut self, character: u8) {
        self.begin -= 1;
        self.text[self.begin] = character;
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[self.begin..]).unwrap_or_default()
    }
}

/// Shown to people with six decimals (`$0.012345`), rounded half away from zero; use [`PicoUsd::to_decimal`] for exact text.
impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micro = (self.0.unsigned_abs() + 500_000) / 1_000_000;
        let sign = if self.0 < 0 && micro != 0 { "-" } else { "" };
        write!(f, "{sign}${}.{:06}", micro / 1_000_000, micro % 1_000_000)
    }
}

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("{0:?} is not a decimal number of US dollars; write it like \"12.50\"")]
    NotADecimal(String),
    #[error("{text:?} has more than {decimals} decimals; a pico-dollar is the smallest unit")]
    TooFine { text: String, decimals: usize },
}

impl FromStr for PicoUsd {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<PicoUsd, MoneyError> {
        let not_a_decimal = || MoneyError::NotADecimal(text.to_owned());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || (digits.contains('.') && fraction.is_empty()) {
            return Err(not_a_decimal());
        }
        if fraction.trim_end_matches('0').len() > DECIMALS {
            return Err(MoneyError::TooFine { text: text.to_owned(), decimals: DECIMALS });
        }
        let padded = format!("{:0<12.12}", fraction);
        let whole: i128 = whole.parse().map_err(|_| not_a_decimal())?;
        let fraction: i128 = padded.parse().map_err(|_| not_a_decimal())?;
        let pico = whole.checked_mul(PICO_PER_USD).and_then(|p| p.checked_add(fraction)).ok_or_else(not_a_decimal)?;
        if pico > PicoUsd::MAX.0 {
            return Err(not_a_decimal());
        }
        Ok(PicoUsd(if negative { -pico } else { pico }))
    }
}

/// On the wire and in files money is a decimal string, so that no JSON reader can turn it into a float.
impl Serialize for PicoUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Decimal::of(*self).as_str())
    }
}

impl<'de> Deserialize<'de> for PicoUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PicoUsd, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A decimal string in an OpenAPI schema, checked by the API server.
impl schemars::JsonSchema for PicoUsd {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Usd".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^-?[0-9]{1,18}(\.[0-9]{1,12})?$",
            "description": "US dollars as a decimal string, for example \"12.50\"; up to twelve decimals."
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

impl Add for PicoUsd {
    type Output = PicoUsd;
    fn add(self, other: PicoUsd) -> PicoUsd {
        PicoUsd(self.0 + other.0)
    }
}
impl Sub for PicoUsd {
    type Output = PicoUsd;
    fn sub(self, other: PicoUsd) -> PicoUsd {
        PicoUsd(self.0 - other.0)
    }
}
impl Neg for PicoUsd {
    type Output = PicoUsd;
    fn neg(self) -> PicoUsd {
        PicoUsd(-self.0)
    }
}
impl AddAssign for PicoUsd {
    fn add_assign(&mut self, other: PicoUsd) {
        self.0 += other.0;
    }
}
impl SubAssign for PicoUsd {
    fn sub_assign(&mut self, other: PicoUsd) {
        self.0 -= other.0;
    }
}
/// Price per unit times units.
impl Mul<u64> for PicoUsd {
    type Output = PicoUsd;
    fn mul(self, units: u64) -> PicoUsd {
        PicoUsd(self.0.saturating_mul(units as i128))
    }
}
impl Sum for PicoUsd {
    fn sum<I: Iterator<Item = PicoUsd>>(amounts: I) -> PicoUsd {
        amounts.fold(PicoUsd::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_text_keeps_every_pico_dollar() {
        for (text, pico) in
            [("0", 0), ("1", PICO_PER_USD), ("0.000000000001", 1), ("-2.5", -2_500_000_000_000), ("12.500000000000000", 12_500_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(PicoUsd(pico)), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_amount_is_refused_with_a_reason() {
        for text in ["", ".", "1.", ".5", "1e3", "$1", "1,5", "--1", "0.0000000000001", "99999999999999999999999999999999999999"] {
            assert!(text.parse::<PicoUsd>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_price_is_exact_per_token() {
        assert_eq!(PicoUsd::per_token_from_per_million("2.50"), Ok(PicoUsd(2_500_000)));
        assert_eq!(PicoUsd::per_token_from_per_million("0.000001"), Ok(PicoUsd(1)));
        assert!(PicoUsd::per_token_from_per_million("0.0000001").is_err());
    }

    #[test]
    fn amounts_are_written_with_the_decimals_that_they_have_and_two_at_least() {
        for (pico, text) in [
            (0, "0.00"),
            (-1, "-0.000000000001"),
            (50_000_000_000, "0.05"),
            (1_234_500_000_000, "1.2345"),
            (10 * PICO_PER_USD, "10.00"),
            (u64::MAX.into(), "18446744.073709551615"),
            (i128::MAX, "170141183460469231731687303.715884105727"),
            (i128::MIN, "-170141183460469231731687303.715884105728"),
        ] {
            assert_eq!(PicoUsd(pico).to_decimal(), text);
        }
    }

    #[test]
    fn people_see_six_decimals() {
        assert_eq!(PicoUsd(999_999_500_000).to_string(), "$1.000000");
        assert_eq!(PicoUsd(-1).to_string(), "$0.000000");
        assert_eq!(PicoUsd::from_micro(-1_500_000).to_string(), "-$1.500000");
    }

    proptest! {
        #[test]
        fn text_and_back_is_the_same_amount(pico in -i128::MAX / 8..i128::MAX / 8) {
            prop_assert_eq!(PicoUsd(pico).to_decimal().parse::<PicoUsd>(), Ok(PicoUsd(pico)));
        }

        #[test]
        fn small_amounts_are_written_as_large_ones_are(pico in 0..=u64::MAX / 2, dollars in 100_000_000i128..200_000_000) {
            let pico = i128::from(pico);
            let decimals = |amount: i128| PicoUsd(amount).to_decimal().split_once('.').map(|(_, decimals)| decimals.to_owned());
            prop_assert_eq!(decimals(pico), decimals(pico + dollars * PICO_PER_USD));
            prop_assert_eq!(PicoUsd(pico).to_decimal().parse::<PicoUsd>(), Ok(PicoUsd(pico)));
        }
    }
}
