//! What the calls were for: outcomes that the app reports, or that are read from a counter in its own metrics.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::admit::{dimensions, read};
use super::body::ProxyBody;
use super::call::Sidecar;
use super::caller::CallerBody;
use super::config::Snapshot;
use super::journal::{JournalError, Line};
use super::server::{json_response, plain_error};
use super::upstream::UpstreamBody;
use crate::channel::message::Reported;
use crate::core::dimensions::Dimensions;
use crate::core::policy::OutcomeMetric;
use crate::llm::Pieces;

/// Largest report.
const REPORT_LIMIT: usize = 16 << 10;
/// Largest page of metrics.
const PAGE_LIMIT: usize = 16 << 20;
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest name or id.
const MAX_NAME_BYTES: usize = 63;
const MAX_COUNT: u64 = 1 << 32;

/// `{"outcome": "resolved-ticket", "count": 1, "id": "ticket-4711"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    outcome: String,
    #[serde(default = "one")]
    count: u64,
    /// Makes a repeated report count once.
    #[serde(default)]
    id: Option<String>,
}

fn one() -> u64 {
    1
}

/// Takes a report of the app's.
pub async fn take(sidecar: &Sidecar, snapshot: &Snapshot, request: Request<CallerBody>) -> Response<ProxyBody> {
    let dimensions = dimensions(&snapshot.policy.dimensions, request.headers());
    let body = match read(request.into_body(), REPORT_LIMIT).await {
        Ok(body) => body,
        Err(refusal) => return plain_error(StatusCode::PAYLOAD_TOO_LARGE, "unreadable", &refusal.message),
    };
    let report = match parse(&body) {
        Ok(report) => report,
        Err(problem) => return plain_error(StatusCode::BAD_REQUEST, "invalid_outcome", &problem),
    };
    let id = report.id.unwrap_or_else(|| Uuid::now_v7().to_string());
    // Ids are the app's own, so that two apps may use the same.
    let unique = format!("{}/{}/{id}", snapshot.policy.origin.pod_uid, report.outcome);
    let outcome = Reported::Outcome { id: unique, outcome: report.outcome, count: report.count, dimensions };
    match sidecar.accounts.journal.append(vec![Line::Reported(outcome)]) {
        Ok(()) => json_response(StatusCode::ACCEPTED, &json!({"id": id})),
        Err(error) => plain_error(StatusCode::SERVICE_UNAVAILABLE, "not_recorded", &error.to_string()),
    }
}

fn parse(body: &[u8]) -> Result<Report, String> {
    const FORM: &str = r#"send {"outcome": "resolved-ticket", "count": 1, "id": "…"} (count and id may be left out)"#;
    let report: Report = serde_json::from_slice(body).map_err(|e| format!("{e}; {FORM}"))?;
    for (field, text) in [("outcome", Some(&report.outcome)), ("id", report.id.as_ref())] {
        let is_name = |t: &String| (1..=MAX_NAME_BYTES).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic());
        if text.is_some_and(|t| !is_name(t)) {
            return Err(format!("{field} must be 1 to {MAX_NAME_BYTES} printable ASCII characters without spaces"));
        }
    }
    if report.count > MAX_COUNT {
        return Err(format!("count must be at most {MAX_COUNT}"));
    }
    Ok(report)
}

/// Reads the counters that the policy names, for ever.
pub async fn scrape(sidecar: Arc<Sidecar>) {
    let mut ticks = tokio::time::interval(SCRAPE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        scrape_once(&sidecar).await;
    }
}

/// Reads every counter once.
pub async fn scrape_once(sidecar: &Sidecar) {
    let Some(snapshot) = sidecar.in_force.load_full() else { return };
    for metric in &snapshot.policy.outcomes {
        match read_counter(sidecar, metric).await {
            // The app does not listen yet, or has not counted yet.
            Ok(None) => {}
            Ok(Some(value)) => {
                if let Err(error) = count(sidecar, metric, value, snapshot.policy.dimensions.resolve(|_| None)) {
                    tracing::error!(%error, outcome = metric.outcome, "outcomes cannot be recorded; they are counted at the next reading");
                }
            }
            Err(reason) => tracing::debug!(reason, outcome = metric.outcome, port = metric.port, "the app's metrics cannot be read"),
        }
    }
}

/// Notes a counter's value and reports by how much it grew, in one write: after a crash neither is counted twice.
fn count(sidecar: &Sidecar, metric: &OutcomeMetric, value: u64, dimensions: Dimensions) -> Result<(), JournalError> {
    let journal = &sidecar.accounts.journal;
    let key = format!("{}:{}{}/{}", metric.outcome, metric.port, metric.path, metric.metric);
    let growth = growth(journal.state().counters.get(&key).copied(), value);
    if growth == 0 {
        return Ok(());
    }
    let id = Uuid::now_v7().to_string();
    let outcome = Reported::Outcome { id, outcome: metric.outcome.clone(), count: growth, dimensions };
    journal.append(vec![Line::Counter { metric: key, value }, Line::Reported(outcome)])
}

/// How many were counted since the last reading. The pod's sidecar starts before its app, so the first value counts from zero;
/// a counter that shrank was reset, and counts from zero too.
fn growth(last: Option<u64>, value: u64) -> u64 {
    match last {
        Some(last) if value >= last => value - last,
        _ => value,
    }
}

async fn read_counter(sidecar: &Sidecar, metric: &OutcomeMetric) -> Result<Option<u64>, String> {
    let uri = format!("http://127.0.0.1:{}{}", metric.port, metric.path);
    let request = Request::get(uri).body(UpstreamBody::Whole(Pieces::default())).map_err(|e| e.to_string())?;
    let page = async {
        let response = sidecar.upstream.send(request).await.map_err(|e| super::forward::with_causes(&e))?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), PAGE_LIMIT).collect().await.map_err(|e| e.to_string())?;
        Ok(body.to_bytes())
    };
    let page = tokio::time::timeout(SCRAPE_TIMEOUT, page).await.map_err(|_| "no answer".to_owned())??;
    Ok(sum_of(&String::from_utf8_lossy(&page), &metric.metric))
}

/// The sum of a counter's series in Prometheus' text format; `None` when there is none.
fn sum_of(page: &str, metric: &str) -> Option<u64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let samples = match rest.strip_prefix('{') {
            // A label's value may hold a brace; the last one ends the labels.
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix([' ', '\t'])?,
        };
        // A timestamp may follow the value.
        let value: f64 = samples.split_whitespace().next()?.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some(value as u64)
    });
    values.fold(None, |sum: Option<u64>, value| Some(sum.unwrap_or(0).saturating_add(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_sum_of_its_series_and_of_no_other_metric() {
        let page = "# TYPE tickets_total counter\ntickets_total{state=\"a}b\",x=\"1\"} 3\ntickets_total{state=\"c\"} 4 1700000000\n\
                    tickets_total_created 99\nother 5\nplain_total 2e1\n";
        assert_eq!(sum_of(page, "tickets_total"), Some(7));
        assert_eq!(sum_of(page, "plain_total"), Some(20));
        assert_eq!(sum_of(page, "tickets"), None);
    }

    #[test]
    fn growth_is_counted_once_and_a_reset_counts_from_zero() {
        assert_eq!([(None, 5), (Some(5), 5), (Some(5), 9), (Some(9), 2)].map(|(last, value)| growth(last, value)), [5, 0, 4, 2]);
    }

    #[test]
    fn a_report_says_what_is_wrong_with_it() {
        assert_eq!(parse(br#"{"outcome":"resolved-ticket"}"#).unwrap().count, 1);
        for (body, problem) in [
            (r#"{"outcome":""}"#, "outcome must be"),
            (r#"{"outcome":"a","id":"b c"}"#, "id must be"),
            (r#"{"outcome":"a","count":99999999999}"#, "count must be"),
            (r#"{"result":"a"}"#, "send {"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
