use proptest::prelude::*;

use super::*;

fn found(text: &str) -> Vec<Detector> {
    let mut found = BTreeSet::new();
    detect(text, &BTreeSet::from(Detector::ALL), &mut found);
    found.into_iter().collect()
}

/// A made-up key: in pieces, so that no scanner of repositories takes this file for a leak.
fn key(prefix: &str, rest: &str) -> String {
    format!("my key is {prefix}{rest}, keep it")
}

#[test]
fn what_a_detector_is_for_is_found() {
    for text in ["ada@example.com", "write to <a.b+c@mail.example.co.uk>.", "E-MAIL:ADA_L@EXAMPLE.ORG"] {
        assert_eq!(found(text), [Detector::Email], "{text}");
    }
    for text in [
        "4111111111111111",
        "card 4111 1111 1111 1111, exp 12/28",
        "4111-1111-1111-1111",
        "(5555555555554444)",
        "2223003122003222",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "30569309025904",
        "3530111333300000",
        "6759649826438453",
        "order 12 4111111111111111 paid",
        "4111111111111111 12 28",
    ] {
        assert_eq!(found(text), [Detector::PaymentCard], "{text}");
    }
    for text in [
        "DE89370400440532013000",
        "pay to DE89 3704 0044 0532 0130 00 please",
        "gb82 west 1234 5698 7654 32.",
        "FR1420041010050500013M02606",
        "IBAN:CH9300762011623852957",
        "NO9386011117947",
        "NL91ABNA0417164300",
    ] {
        assert_eq!(found(text), [Detector::Iban], "{text}");
    }
    let mixed = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC3";
    for text in [
        key("AKIA", "IOSFODNN7EXAMPLE"),
        key("ghp_", mixed),
        key("github_pat_", mixed),
        key("glpat-", mixed),
        key("xoxb-", "123456789012-abcdef"),
        key("AIza", &mixed[..35]),
        key("sk_live_", mixed),
        key("sk-", mixed),
        key("sk-proj-", mixed),
        key("sk-ant-api03-", mixed),
        key("hf_", "abcdefghijklmnopqrstuvwxyzABCDEFGH"),
        key("npm_", mixed),
        key("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.", mixed),
        key("-----BEGIN ", "PRIVATE KEY-----"),
        key("-----BEGIN RSA ", "PRIVATE KEY-----"),
        key("-----BEGIN OPENSSH ", "PRIVATE KEY-----"),
        key("-----BEGIN PGP ", "PRIVATE KEY BLOCK-----"),
    ] {
        assert_eq!(found(&text), [Detector::Secret], "{text}");
    }
}

#[test]
fn what_only_looks_alike_is_not() {
    for text in [
        "",
        "ada@localhost",
        "@mention someone",
        "npm install left-pad@1.3.0",
        "price @ 3.50",
        // A digit off: the checksums fail.
        "4111111111111112",
        "DE89370400440532013001",
        // A checksum that holds, on what no scheme issues, or too long or short for one.
        "0000000000000000",
        "1732459200009",
        "411111111111116",
        "41111111111111110000000000",
        // Part of a longer word or number.
        "x4111111111111111",
        "4111111111111111a",
        "XDE89370400440532013000",
        "DE893704004405320130001",
        "4111  1111  1111  1111",
        "XX89370400440532013000",
        "DE89",
        "class=\"sk-folding-cube-container-of-the-loader\"",
        "task-force-0123456789ABCDEFabcdef",
        "risk-Assessment-2026-final-Version",
        "AKIA is how such keys begin",
        "ghp_short",
        "eyJhbGciOiJIUzI1NiJ9",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "The year 2026 has 365 days, 8760 hours and 525600 minutes.",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn a_detector_that_nobody_asked_for_finds_nothing() {
    let mut found = BTreeSet::new();
    detect("ada@example.com 4111111111111111", &BTreeSet::from([Detector::Iban]), &mut found);
    assert_eq!(found, BTreeSet::new());
}

/// No clock is needed: ten quadratic scans of a megabyte would not end.
#[test]
fn hostile_text_is_scanned_in_linear_time() {
    for pattern in ["a", "a.", "1", "1 ", "4111-", "a@", "@a.", "sk-", "sk-a", "DE89 ", "DE8", "eyJaaaaaaaa.", "-----BEGIN ", "é"] {
        assert_eq!(found(&pattern.repeat(1_000_000 / pattern.len())), [], "{pattern}");
    }
}

proptest! {
    #[test]
    fn every_number_with_its_check_digit_is_a_card_and_no_other_digit_will_do(body in prop::collection::vec(0u8..10, 14)) {
        let with_check = |check: u8| {
            [4].into_iter().chain(body.iter().copied()).chain([check]).map(|digit| char::from(b'0' + digit)).collect::<String>()
        };
        let valid: Vec<u8> = (0..10).filter(|check| found(&with_check(*check)) == [Detector::PaymentCard]).collect();
        prop_assert_eq!(valid.len(), 1);
    }

    #[test]
    fn every_account_has_one_pair_of_check_digits(account in "[0-9]{18}") {
        let accepted = (2..=98).filter(|check| found(&format!("DE{check:02}{account}")).contains(&Detector::Iban)).count();
        prop_assert_eq!(accepted, 1);
    }

    #[test]
    fn any_text_can_be_scanned(text in "\\PC{0,200}") {
        found(&text);
    }
}
