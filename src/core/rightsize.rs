//! Whether a container's requests fit what it uses: percentiles of measured usage, headroom, and a change worth making.
//!
//! CPU is compressible, so its request covers a percentile of use; memory is not, so its request covers the most that was seen.
//! A CPU limit is left alone, except that no request is proposed above it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::money::PicoUsd;
use super::recommend::{Evidence, Proposal, RecommendationKind, Risk, TargetRef, rfc3339};

const NANOCORES_PER_MILLICORE: u64 = 1_000_000;
const BYTES_PER_MIB: u64 = 1 << 20;
/// Hours of an average month: 365 × 24 / 12.
const HOURS_PER_MONTH: i128 = 730;
/// Smaller changes, in percent of the request, are not worth a restart.
const MIN_CHANGE_PERCENT: u64 = 10;

/// What a container used at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Unix milliseconds.
    pub at_ms: i64,
    pub cpu_nanocores: u64,
    /// The working set: what the kernel cannot reclaim, and what the kubelet evicts by.
    pub memory_bytes: u64,
}

/// What the container has now; `None` where nothing is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_request_millicores: Option<u64>,
    pub cpu_limit_millicores: Option<u64>,
    pub memory_request_mib: Option<u64>,
    pub memory_limit_mib: Option<u64>,
}

/// What a proposal must rest on and reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// 1 to 100.
    pub percentile: u8,
    pub headroom_percent: u32,
    pub min_history_seconds: i64,
}

/// What the samples say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Unix milliseconds of the first and the last sample.
    pub from_ms: i64,
    pub to_ms: i64,
    pub samples: u64,
    /// The percentile of CPU use, rounded up.
    pub cpu_percentile_millicores: u64,
    /// The most memory, rounded up.
    pub memory_max_mib: u64,
}

impl Observed {
    pub fn history_seconds(&self) -> i64 {
        (self.to_ms - self.from_ms) / 1_000
    }
}

/// The requests that are proposed; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub cpu_request_millicores: Option<u64>,
    pub memory_request_mib: Option<u64>,
    /// Set where the memory that is needed exceeds the limit.
    pub memory_limit_mib: Option<u64>,
}

/// What follows from the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The history is shorter than the shortest that a proposal may rest on.
    TooShort {
        observed: Observed,
        have_seconds: i64,
        need_seconds: i64,
    },
    /// The requests are within ten percent of what is needed.
    Fits {
        observed: Observed,
    },
    Propose {
        observed: Observed,
        change: Change,
    },
}

/// Compares what is requested with what was used. `standing` is the change that is proposed already: it stays while it still
/// covers what was used, if only out of its headroom, without wasting more than ten percent, so that a proposal does not
/// change with every sample.
pub fn decide(samples: &[Sample], current: &Resources, params: &Params, standing: Option<Change>) -> Decision {
    let observed = observe(samples, params.percentile);
    let (have_seconds, need_seconds) = (observed.history_seconds(), params.min_history_seconds);
    if samples.is_empty() || have_seconds < need_seconds {
        return Decision::TooShort { observed, have_seconds, need_seconds };
    }
    let change = change(samples, current, params);
    let used = Params { headroom_percent: 0, ..*params };
    let (cpu, memory) = (cpu_needed(samples, current, &used), memory_needed(samples, &used));
    match standing.filter(|standing| still_good(standing, &change, cpu, memory)) {
        _ if change == Change::default() => Decision::Fits { observed },
        Some(standing) => Decision::Propose { observed, change: standing },
        None => Decision::Propose { observed, change },
    }
}

fn observe(samples: &[Sample], percentile: u8) -> Observed {
    let times = || samples.iter().map(|sample| sample.at_ms);
    Observed {
        from_ms: times().min().unwrap_or(0),
        to_ms: times().max().unwrap_or(0),
        samples: samples.len() as u64,
        cpu_percentile_millicores: cpu_percentile(samples, percentile).div_ceil(NANOCORES_PER_MILLICORE),
        memory_max_mib: most_memory(samples).div_ceil(BYTES_PER_MIB),
    }
}

/// The nearest-rank percentile: the least value that at least `percentile` percent of the samples do not exceed.
fn cpu_percentile(samples: &[Sample], percentile: u8) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(|sample| sample.cpu_nanocores).collect();
    values.sort_unstable();
    let rank = (values.len() * usize::from(percentile)).div_ceil(100).max(1);
    values.get(rank - 1).or(values.last()).copied().unwrap_or(0)
}

fn most_memory(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.memory_bytes).max().unwrap_or(0)
}

/// `value` with headroom in whole `unit`s, rounded up, at least one.
fn with_headroom(value: u64, headroom_percent: u32, unit: u64) -> u64 {
    let needed = u128::from(value) * (100 + u128::from(headroom_percent));
    let units = needed.div_ceil(100 * u128::from(unit)).max(1);
    u64::try_from(units).unwrap_or(u64::MAX)
}

/// Millicores for the percentile and the headroom, but not above the limit.
fn cpu_needed(samples: &[Sample], current: &Resources, params: &Params) -> u64 {
    let cpu = with_headroom(cpu_percentile(samples, params.percentile), params.headroom_percent, NANOCORES_PER_MILLICORE);
    current.cpu_limit_millicores.map_or(cpu, |limit| cpu.min(limit))
}

/// MiB for the most that was used and the headroom.
fn memory_needed(samples: &[Sample], params: &Params) -> u64 {
    with_headroom(most_memory(samples), params.headroom_percent, BYTES_PER_MIB)
}

fn change(samples: &[Sample], current: &Resources, params: &Params) -> Change {
    let (cpu, memory) = (cpu_needed(samples, current, params), memory_needed(samples, params));
    let memory_request_mib = worth_it(current.memory_request_mib, memory);
    Change {
        cpu_request_millicores: worth_it(current.cpu_request_millicores, cpu),
        memory_request_mib,
        memory_limit_mib: current
            .memory_limit_mib
            .filter(|limit| memory_request_mib.is_some_and(|request| request > *limit))
            .map(|_| memory),
    }
}

/// `needed`, when it differs from `current` by the least change or more, or nothing is set.
fn worth_it(current: Option<u64>, needed: u64) -> Option<u64> {
    let differs = |current: u64| u128::from(current.abs_diff(needed)) * 100 >= u128::from(current) * u128::from(MIN_CHANGE_PERCENT);
    (current.is_none_or(|current| current != needed && differs(current))).then_some(needed)
}

/// True when `standing` asks for the same fields as `needed`, for no less than was used of each (`cpu` in millicores, `memory`
/// in MiB), and for at most ten percent more than is needed.
fn still_good(standing: &Change, needed: &Change, cpu: u64, memory: u64) -> bool {
    let covers = |standing: Option<u64>, needed: Option<u64>, used: u64| match (standing, needed) {
        (Some(standing), Some(needed)) => standing >= used && u128::from(standing) * 100 <= u128::from(needed) * 110,
        (standing, needed) => standing == needed,
    };
    covers(standing.cpu_request_millicores, needed.cpu_request_millicores, cpu)
        && covers(standing.memory_request_mib, needed.memory_request_mib, memory)
        && covers(standing.memory_limit_mib, needed.memory_limit_mib, memory)
}

// ---- money ----

/// What a node's resources cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePrice {
    pub core_hour: PicoUsd,
    pub gib_hour: PicoUsd,
}

/// What `change` frees in a month of 730 hours at `replicas`; negative when it asks for more. An estimate: it becomes real when
/// a node is saved. What was not requested before counts as nothing.
pub fn monthly_savings(current: &Resources, change: &Change, replicas: u32, price: &NodePrice) -> PicoUsd {
    let freed = |current: Option<u64>, proposed: Option<u64>| match proposed {
        Some(proposed) => i128::from(current.unwrap_or(0)) - i128::from(proposed),
        None => 0,
    };
    let cost = |price: PicoUsd, units: i128, per: i128| price.0 * units * HOURS_PER_MONTH * i128::from(replicas) / per;
    let cpu = cost(price.core_hour, freed(current.cpu_request_millicores, change.cpu_request_millicores), 1_000);
    let memory = cost(price.gib_hour, freed(current.memory_request_mib, change.memory_request_mib), 1_024);
    PicoUsd(cpu + memory)
}

// ---- the proposal ----

/// The workload that is sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload<'a> {
    pub namespace: &'a str,
    /// A Deployment of the group `apps`.
    pub deployment: &'a str,
    pub container: &'a str,
    pub replicas: u32,
}

/// A recommendation to make `change`.
pub fn proposal(
    workload: &Workload<'_>,
    current: &Resources,
    observed: &Observed,
    change: &Change,
    params: &Params,
    price: &NodePrice,
) -> Proposal {
    let before = Change {
        cpu_request_millicores: change.cpu_request_millicores.and(current.cpu_request_millicores),
        memory_request_mib: change.memory_request_mib.and(current.memory_request_mib),
        memory_limit_mib: change.memory_limit_mib.and(current.memory_limit_mib),
    };
    Proposal {
        kind: RecommendationKind::WorkloadResources,
        target: TargetRef {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            namespace: workload.namespace.to_owned(),
            name: workload.deployment.to_owned(),
        },
        summary: summary(workload, current, change),
        patch: patch(workload, change),
        revert: patch(workload, &before),
        evidence: evidence(workload, observed, params, price),
        estimated_monthly_savings: monthly_savings(current, change, workload.replicas, price),
        risk: risk(current, change),
    }
}

/// Server-side apply of the container's resources; containers merge by name.
fn patch(workload: &Workload<'_>, change: &Change) -> String {
    let cpu = change.cpu_request_millicores.map(|cpu| ("cpu", format!("{cpu}m")));
    let memory = change.memory_request_mib.map(|memory| ("memory", format!("{memory}Mi")));
    let limit = change.memory_limit_mib.map(|memory| ("memory", format!("{memory}Mi")));
    let object = |fields: &[Option<(&str, String)>]| -> Map<String, Value> {
        fields.iter().flatten().map(|(name, quantity)| ((*name).to_owned(), json!(quantity))).collect()
    };
    let mut resources = Map::new();
    for (name, quantities) in [("requests", object(&[cpu, memory])), ("limits", object(&[limit]))] {
        if !quantities.is_empty() {
            resources.insert(name.to_owned(), Value::Object(quantities));
        }
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": workload.deployment, "namespace": workload.namespace },
        "spec": { "template": { "spec": { "containers": [{ "name": workload.container, "resources": resources }] } } },
    })
    .to_string()
}

/// The change that a patch of this module makes, to pass to [`decide`] as the standing one; `None` for any other text.
pub fn change_of_patch(patch: &str) -> Option<Change> {
    let patch: Value = serde_json::from_str(patch).ok()?;
    let resources = patch.pointer("/spec/template/spec/containers/0/resources")?;
    let quantity = |path: &str, unit: &str| resources.pointer(path)?.as_str()?.strip_suffix(unit)?.parse().ok();
    Some(Change {
        cpu_request_millicores: quantity("/requests/cpu", "m"),
        memory_request_mib: quantity("/requests/memory", "Mi"),
        memory_limit_mib: quantity("/limits/memory", "Mi"),
    })
}

fn summary(workload: &Workload<'_>, current: &Resources, change: &Change) -> String {
    let step = |what: &str, from: Option<u64>, to: Option<u64>, unit: &str| {
        let from = from.map_or("nothing".to_owned(), |from| format!("{from}{unit}"));
        to.map(|to| format!("{what} from {from} to {to}{unit}"))
    };
    let steps = [
        step("the CPU request", current.cpu_request_millicores, change.cpu_request_millicores, "m"),
        step("the memory request", current.memory_request_mib, change.memory_request_mib, "Mi"),
        step("the memory limit", current.memory_limit_mib, change.memory_limit_mib, "Mi"),
    ];
    let steps: Vec<String> = steps.into_iter().flatten().collect();
    format!("Change {} of container {} in Deployment {}", steps.join(", "), workload.container, workload.deployment)
}

fn evidence(workload: &Workload<'_>, observed: &Observed, params: &Params, price: &NodePrice) -> Evidence {
    let figures = [
        (format!("cpuP{}Millicores", params.percentile), observed.cpu_percentile_millicores.to_string()),
        ("memoryMaxMib".to_owned(), observed.memory_max_mib.to_string()),
        ("headroomPercent".to_owned(), params.headroom_percent.to_string()),
        ("replicas".to_owned(), workload.replicas.to_string()),
        ("usdPerCoreHour".to_owned(), price.core_hour.to_decimal()),
        ("usdPerGibHour".to_owned(), price.gib_hour.to_decimal()),
    ];
    Evidence {
        from: rfc3339(observed.from_ms),
        to: rfc3339(observed.to_ms),
        window_seconds: observed.history_seconds(),
        samples: i64::try_from(observed.samples).unwrap_or(i64::MAX),
        source: format!("CPU and working set of container {} as the kubelets measured them", workload.container),
        figures: BTreeMap::from(figures),
    }
}

/// Less memory may get a container evicted first; less CPU only slows it down while the node is busy.
fn risk(current: &Resources, change: &Change) -> Risk {
    match (current.memory_request_mib, change.memory_request_mib) {
        (Some(current), Some(proposed)) if proposed < current => Risk::Medium,
        _ => Risk::Low,
    }
}

#[cfg(test)]
mod tests;
