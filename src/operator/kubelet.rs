//! CPU and memory use, as each node's kubelet measures it (`/metrics/resource`).
//!
//! The operator asks the kubelet itself, with `get` on `nodes/metrics`: the way through the API server needs
//! `nodes/proxy`, which also lets its holder run commands in any pod.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;

/// Where a service account's token and the cluster's CA are mounted.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const KUBELET_PORT: u16 = 10250;
/// A kubelet's answer has two lines a container; more than this is no kubelet's.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How far back samples are kept: the default of `minHistorySeconds`, a day, and an hour more, so that it can be reached.
const KEPT_MS: i64 = 25 * 3_600_000;

/// One container of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerKey {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// What a container used between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    /// Unix milliseconds of the later reading.
    pub at_ms: i64,
    /// Milliseconds between the two.
    pub span_ms: i64,
    /// Mean CPU use between them, in billionths of a core.
    pub nanocores: u64,
    /// Working set at the later reading.
    pub memory_bytes: u64,
}

/// One reading of a container's counters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
    pub at_ms: i64,
}

/// The samples of every container that was seen, newest last; in memory, so a restart begins anew.
#[derive(Default)]
pub struct UsageHistory(Mutex<HashMap<ContainerKey, Series>>);

#[derive(Default)]
struct Series {
    last: Option<Reading>,
    samples: VecDeque<UsageSample>,
}

impl UsageHistory {
    /// Adds a reading; a counter that went back (a restarted container) begins a new pair.
    pub fn add(&self, key: ContainerKey, reading: Reading) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = history.entry(key).or_default();
        if let Some(sample) = series.last.and_then(|last| between(last, reading)) {
            series.samples.push_back(sample);
            while series.samples.front().is_some_and(|oldest| oldest.at_ms < sample.at_ms - KEPT_MS) {
                series.samples.pop_front();
            }
        }
        series.last = Some(reading);
    }

    /// Forgets containers whose last reading is older than `oldest_ms` (Unix milliseconds).
    pub fn forget_before(&self, oldest_ms: i64) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        history.retain(|_, series| series.last.is_some_and(|last| last.at_ms >= oldest_ms));
    }

    /// Samples of a container in all the pods that `of_workload` accepts, oldest first.
    pub fn samples(&self, namespace: &str, container: &str, of_workload: impl Fn(&str) -> bool) -> Vec<UsageSample> {
        let history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |key: &ContainerKey| key.namespace == namespace && key.container == container && of_workload(&key.pod);
        let mut samples: Vec<_> = history.iter().filter(|(key, _)| wanted(key)).flat_map(|(_, s)| s.samples.iter().copied()).collect();
        samples.sort_by_key(|s| s.at_ms);
        samples
    }
}

fn between(earlier: Reading, later: Reading) -> Option<UsageSample> {
    let span_ms = later.at_ms - earlier.at_ms;
    let cpu_seconds = later.cpu_seconds - earlier.cpu_seconds;
    if span_ms <= 0 || cpu_seconds < 0.0 {
        return None;
    }
    // A measurement, not money: the kubelet itself gives seconds as a float.
    let nanocores = (cpu_seconds * 1e12 / span_ms as f64).round() as u64;
    Some(UsageSample { at_ms: later.at_ms, span_ms, nanocores, memory_bytes: later.memory_bytes })
}

/// Reads the containers out of a kubelet's `/metrics/resource`, by the kubelet's own time stamps where it gives them.
pub fn parse(text: &str, now_ms: i64) -> BTreeMap<ContainerKey, Reading> {
    let mut cpu: BTreeMap<ContainerKey, (f64, i64)> = BTreeMap::new();
    let mut memory: BTreeMap<ContainerKey, u64> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, labels, value, at_ms)) = metric_line(line) else { continue };
        let key = || {
            let label = |wanted: &str| labels.iter().find(|(k, _)| *k == wanted).map(|(_, v)| (*v).to_owned());
            Some(ContainerKey { namespace: label("namespace")?, pod: label("pod")?, container: label("container")? })
        };
        let Some(key) = key() else { continue };
        match name {
            "container_cpu_usage_seconds_total" => drop(cpu.insert(key, (value, at_ms.unwrap_or(now_ms)))),
            "container_memory_working_set_bytes" => drop(memory.insert(key, value as u64)),
            _ => {}
        }
    }
    let complete = |(key, (cpu_seconds, at_ms)): (ContainerKey, (f64, i64))| {
        let memory_bytes = *memory.get(&key)?;
        Some((key, Reading { cpu_seconds, memory_bytes, at_ms }))
    };
    cpu.into_iter().filter_map(complete).collect()
}

type MetricLine<'a> = (&'a str, Vec<(&'a str, &'a str)>, f64, Option<i64>);

/// `name{label="value",…} value [milliseconds]`; label values of pods and containers need no escapes.
fn metric_line(line: &str) -> Option<MetricLine<'_>> {
    let (name, rest) = line.split_once('{')?;
    let (labels, rest) = rest.split_once("} ")?;
    let labels = labels.split(',').filter_map(|pair| pair.split_once('=').map(|(k, v)| (k, v.trim_matches('"')))).collect();
    let mut words = rest.split_whitespace();
    let value: f64 = words.next()?.parse().ok()?;
    let at_ms = words.next().and_then(|w| w.parse().ok());
    (value.is_finite() && value >= 0.0).then_some((name, labels, value, at_ms))
}

/// Asks kubelets over TLS that the cluster's CA vouches for.
pub struct KubeletClient {
    http: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    token_file: std::path::PathBuf,
}

/// Why a kubelet gave no reading.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("the cluster's CA at {0} cannot be used, so kubelets cannot be verified: {1}")]
    Authority(String, String),
    #[error("kubelet {node}: {reason}; right-sizing needs a kubelet certificate signed by the cluster's CA and `get` on nodes/metrics")]
    Read { node: String, reason: String },
}

impl KubeletClient {
    /// # Errors
    /// When the cluster's CA is not where every pod has it.
    pub fn new() -> Result<KubeletClient, KubeletError> {
        let authority = format!("{SERVICE_ACCOUNT}/ca.crt");
        let bad = |reason: String| KubeletError::Authority(authority.clone(), reason);
        let pem = std::fs::read(&authority).map_err(|e| bad(e.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
            roots.add(certificate.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
        }
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let http = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(60)).build(connector);
        Ok(KubeletClient { http, token_file: format!("{SERVICE_ACCOUNT}/token").into() })
    }

    /// The readings of all containers on the node with this IP.
    ///
    /// # Errors
    /// When the kubelet cannot be reached, is not whom the CA vouches for, or refuses.
    pub async fn read(&self, host_ip: &str, now_ms: i64) -> Result<BTreeMap<ContainerKey, Reading>, KubeletError> {
        let failed = |reason: String| KubeletError::Read { node: host_ip.to_owned(), reason };
        let host = if host_ip.contains(':') { format!("[{host_ip}]") } else { host_ip.to_owned() };
        // Read each time: the kubelet rotates it.
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|e| failed(e.to_string()))?;
        let request = Request::get(format!("https://{host}:{KUBELET_PORT}/metrics/resource"))
            .header(http::header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            .body(Empty::new())
            .map_err(|e| failed(e.to_string()))?;
        let answer = async {
            let response = self.http.request(request).await.map_err(|e| e.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(format!("it answered {status}")) }
        };
        let body = tokio::time::timeout(Duration::from_secs(10), answer).await.map_err(|_| failed("no answer in 10 s".to_owned()))?;
        let body = body.map_err(failed)?;
        Ok(parse(&String::from_utf8_lossy(&body), now_ms))
    }
}

/// Reads the kubelets of all pods with a sidecar, for ever.
pub async fn collect(context: std::sync::Arc<super::context::Context>, interval: Duration) {
    let client = match KubeletClient::new() {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "right-sizing is off");
            // Only that: a task that ended would end the operator.
            return std::future::pending().await;
        }
    };
    let mut tick = tokio::time::interval(interval);
    let mut complained = BTreeSet::new();
    loop {
        tick.tick().await;
        let snapshot = context.index.snapshot();
        let nodes: BTreeSet<String> = snapshot.pods.iter().filter(|p| !p.ended).filter_map(|p| p.host_ip.clone()).collect();
        complained.retain(|node| nodes.contains(node));
        let now_ms = super::context::now_ms();
        for node in nodes {
            match client.read(&node, now_ms).await {
                Ok(readings) => readings.into_iter().for_each(|(key, reading)| context.usage.add(key, reading)),
                // Once a node is enough: the cause is a matter of configuration, and every tick would say it again.
                Err(error) if complained.insert(node) => tracing::warn!(%error, "no usage from a kubelet"),
                Err(_) => {}
            }
        }
        context.usage.forget_before(now_ms - KEPT_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
container_cpu_usage_seconds_total{container="app",namespace="shop",pod="bot-1"} 10.5 1700000000000
container_memory_working_set_bytes{container="app",namespace="shop",pod="bot-1"} 1.048576e+07 1700000000000
container_cpu_usage_seconds_total{container="half",namespace="shop",pod="bot-1"} 1
node_cpu_usage_seconds_total 99
nonsense{
"#;

    fn key() -> ContainerKey {
        ContainerKey { namespace: "shop".into(), pod: "bot-1".into(), container: "app".into() }
    }

    #[test]
    fn a_kubelets_page_gives_one_reading_for_each_complete_container() {
        let readings = parse(METRICS, 5);
        assert_eq!(readings.len(), 1);
        assert_eq!(readings[&key()], Reading { cpu_seconds: 10.5, memory_bytes: 10_485_760, at_ms: 1_700_000_000_000 });
    }

    #[test]
    fn a_sample_is_the_growth_between_two_readings_and_a_restart_begins_anew() {
        let history = UsageHistory::default();
        let reading = |cpu_seconds, at_ms| Reading { cpu_seconds, memory_bytes: 7, at_ms };
        for r in [reading(1.0, 0), reading(1.5, 1_000), reading(0.1, 2_000), reading(0.1, 2_000), reading(0.35, 3_000)] {
            history.add(key(), r);
        }
        let samples = history.samples("shop", "app", |pod| pod == "bot-1");
        assert_eq!(samples.iter().map(|s| s.nanocores).collect::<Vec<_>>(), [500_000_000, 250_000_000]);
        assert!(history.samples("shop", "app", |_| false).is_empty());
    }

    #[test]
    fn a_day_of_history_is_kept_however_often_it_is_read() {
        let history = UsageHistory::default();
        for second in (0..2 * 86_400).step_by(5) {
            history.add(key(), Reading { cpu_seconds: second as f64 * 0.1, memory_bytes: 7, at_ms: second * 1_000 });
        }
        let samples = history.samples("shop", "app", |_| true);
        let span_ms = samples[samples.len() - 1].at_ms - samples[0].at_ms;
        assert!((86_400_000..=KEPT_MS).contains(&span_ms), "{span_ms} ms");
    }
}
