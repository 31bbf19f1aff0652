//! What a caller is told when the sidecar itself answers, in the provider's own error shape, so that an SDK shows the message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use http::{HeaderValue, Response, StatusCode, header};

use super::body::ProxyBody;
use super::config::Snapshot;
use crate::core::amount::Unit;
use crate::core::limit::{LimitKey, Shortfall};
use crate::core::money::PicoUsd;
use crate::core::policy::{Budget, CalendarPeriod, Limit, Protocol, Window};
use crate::llm::{ErrorKind, error_answer};

/// The longest `Retry-After`: a month.
const LONGEST_RETRY_S: i64 = 31 * 24 * 3600;

/// Refusals of one kind are logged at most this often.
const LOG_PAUSE_MS: i64 = 10_000;

/// An answer of the sidecar's own.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub kind: ErrorKind,
    pub message: String,
    /// Seconds after which asking again makes sense; `None`: never, or at once, as `may_retry` says.
    pub retry_after_s: Option<i64>,
    pub may_retry: bool,
    /// Limits that could not be asked, so that nobody knows whether the call fits.
    pub unasked: Vec<LimitKey>,
}

impl Refusal {
    /// A refusal that stays one until something is changed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: format!("Spendkeeper: {}", message.into()), retry_after_s: None, may_retry: false, unasked: Vec::new() }
    }

    /// A refusal that may be over soon.
    pub fn passing(kind: ErrorKind, message: impl Into<String>) -> Refusal {
        Refusal { may_retry: true, retry_after_s: Some(1), ..Refusal::new(kind, message) }
    }

    /// A call that may cost up to the given amounts does not fit `shortfalls`.
    pub fn over_budget(snapshot: &Snapshot, shortfalls: &[Shortfall], needs: crate::core::amount::Amount, now_ms: i64) -> Refusal {
        let limits: Vec<String> = shortfalls.iter().map(|s| limit_in_words(snapshot, s, needs, now_ms)).collect();
        let remedy = "Ask for fewer output tokens or a smaller prompt, wait, or have the budget's owner raise it or add a grant.";
        let message = format!("this call does not fit: {}. {remedy}", limits.join("; "));
        // Every limit must have room, so the last of them to reset decides.
        let resets: Option<Vec<i64>> = shortfalls.iter().map(|s| s.resets_at_ms.or_else(|| rolled_over_ms(snapshot, s, now_ms))).collect();
        let seconds = |at: i64| ((at - now_ms + 999) / 1000).clamp(1, LONGEST_RETRY_S);
        let retry_after_s = resets.and_then(|all| all.into_iter().max()).map(seconds);
        Refusal { retry_after_s, ..Refusal::new(ErrorKind::BudgetExceeded, message) }
    }

    pub fn into_response(self, protocol: Protocol) -> Response<ProxyBody> {
        let answer = error_answer(protocol, self.kind, &self.message);
        let mut response = Response::new(ProxyBody::whole(answer.body));
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if let Some((name, value)) = answer.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-spend-refusal", HeaderValue::from_static(self.kind.code()));
        // The official SDKs of both providers obey this header before anything else.
        headers.insert("x-should-retry", HeaderValue::from_static(if self.may_retry { "true" } else { "false" }));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Which refusals are worth a line in the log and a record: a runaway agent makes hundreds a second, all alike.
#[derive(Default)]
pub struct RefusalLog(Mutex<HashMap<ErrorKind, Said>>);

#[derive(Clone, Copy)]
struct Said {
    at_ms: i64,
    unsaid: u64,
}

impl RefusalLog {
    /// How many refusals of this kind went unsaid since the last that was said; `None` when this one goes unsaid too.
    pub fn due(&self, kind: ErrorKind, now_ms: i64) -> Option<u64> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match log.entry(kind) {
            Entry::Occupied(mut said) if now_ms - said.get().at_ms < LOG_PAUSE_MS => {
                said.get_mut().unsaid += 1;
                None
            }
            Entry::Occupied(mut said) => Some(said.insert(Said { at_ms: now_ms, unsaid: 0 }).unsaid),
            Entry::Vacant(never) => {
                never.insert(Said { at_ms: now_ms, unsaid: 0 });
                Some(0)
            }
        }
    }
}

/// When a rolling limit is whole again at the latest: once all that it counts now has left its window.
fn rolled_over_ms(snapshot: &Snapshot, shortfall: &Shortfall, now_ms: i64) -> Option<i64> {
    let (_, limit) = found(snapshot, &shortfall.key)?;
    if let Window::Rolling { length_ms } = limit.window { Some(now_ms.saturating_add(length_ms)) } else { None }
}

fn found<'a>(snapshot: &'a Snapshot, key: &LimitKey) -> Option<(&'a Budget, &'a Limit)> {
    let budget = snapshot.policy.budgets.iter().find(|b| b.key == key.budget())?;
    Some((budget, budget.limits.iter().find(|l| l.name == key.name())?))
}

/// `budget agents/runaway: limit total ($1.00, lifetime) has $0.03 left and this call may cost up to $0.08; it resets in 3 h`.
fn limit_in_words(snapshot: &Snapshot, shortfall: &Shortfall, needs: crate::core::amount::Amount, now_ms: i64) -> String {
    let unit = shortfall.unit;
    let left = in_words(unit, shortfall.left.max(0));
    let needs = in_words(unit, needs.in_unit(unit));
    let limit = described(snapshot, &shortfall.key, now_ms);
    let reset = shortfall.resets_at_ms.map_or(String::new(), |at| format!("; it resets in {}", duration(at - now_ms)));
    format!("{limit} has {left} left and this call may cost up to {needs}{reset}")
}

fn described(snapshot: &Snapshot, key: &LimitKey, now_ms: i64) -> String {
    let Some((budget, limit)) = found(snapshot, key) else { return format!("limit {key}") };
    let name = key.name();
    let amount = snapshot.budgets.terms(key, now_ms).map_or(limit.amount, |terms| terms.limit);
    let split = match (budget.split_by, key.split()) {
        (Some(dimension), Some("")) => format!(" for calls without {dimension}"),
        (Some(dimension), Some(value)) => format!(" for {dimension} {value}"),
        _ => String::new(),
    };
    format!("budget {}: limit {name}{split} ({}, {})", budget.key, in_words(limit.unit, amount), window(&limit.window))
}

fn in_words(unit: Unit, amount: i128) -> String {
    match unit {
        Unit::Usd => dollars(PicoUsd(amount)),
        Unit::Tokens => format!("{amount} tokens"),
        Unit::Requests => format!("{amount} requests"),
    }
}

/// With cents, and six decimals where cents would hide something.
fn dollars(amount: PicoUsd) -> String {
    let text = amount.to_string();
    text.strip_suffix("0000").map(str::to_owned).unwrap_or(text)
}

fn window(window: &Window) -> String {
    match window {
        Window::Calendar { period, time_zone } => {
            let period = match period {
                CalendarPeriod::Day => "each day",
                CalendarPeriod::Week => "each week",
                CalendarPeriod::Month => "each month",
                CalendarPeriod::Year => "each year",
            };
            format!("{period}, {time_zone}")
        }
        Window::Rolling { length_ms } => format!("over {}", duration(*length_ms)),
        Window::Lifetime => "lifetime".to_owned(),
    }
}

/// The two largest units of a duration.
fn duration(ms: i64) -> String {
    let seconds = (ms.max(0) + 999) / 1000;
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let largest = units.iter().position(|(length, _)| seconds >= *length).unwrap_or(3);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (length, name) in units.iter().skip(largest).take(2) {
        if rest / length > 0 {
            words.push(format!("{} {name}", rest / length));
        }
        rest %= length;
    }
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests;
