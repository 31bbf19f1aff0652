//! Streams: whether each event goes on when it comes, and what streams cost that are open and silent.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::common::{Figure, Row};
use super::compare::{REPETITIONS, added, in_turns};
use super::load::{self, Connection, Delays, Destination, Shape};
use super::provider::{Answer, EVENTS_BEFORE_HELD, Provider};
use super::targets::{Endpoint, Target};
use super::{SIDECAR, process};

pub const PACED: Shape = Shape { connections: 16, body: 1 << 10, answer: Answer::Paced };
const HELD: Shape = Shape { connections: 1, body: 1 << 10, answer: Answer::Held };
const WHOLE: Shape = Shape { connections: 1, body: 1 << 10, answer: Answer::Whole };
const MEASURED: Duration = Duration::from_millis(800);
/// Streams that are being opened at once.
const AT_ONCE: usize = 64;
/// After so long without a call or an event, a process counts as idle.
const IDLE: Duration = Duration::from_secs(3);
/// Streams in the table of memory, and of the sidecar alone.
const OPEN: usize = 1_000;
const MANY: usize = 10_000;
/// Open files: both ends of each stream are in this process, and both ends of the proxy's in that one.
const FILES: u64 = 32_768;
/// Files that are not a stream's, here and in the sidecar.
const OTHER_FILES: u64 = 100;

/// How long an event takes from the provider to the caller, at a pace that leaves the CPUs idle in between.
pub async fn events(targets: &[Target]) -> Result<Vec<Row>> {
    let targets: Vec<&Target> = targets.iter().filter(|target| !target.slow).collect();
    let turns = in_turns(&targets, REPETITIONS, async |target| load::follow(&target.to, PACED, MEASURED).await).await?;
    let rows = targets.iter().zip(&turns).map(|(target, own)| {
        let of = |figure: &dyn Fn(&Delays) -> f64| Figure::of(own.iter().map(figure));
        let added = |percent| added(target, own, &turns[0], |turn: &Delays| turn.delay.percentile(percent));
        Row::default()
            .label("target", target.name)
            .label("streams", PACED.connections)
            .figure("event_p50_us", of(&|turn| turn.delay.percentile(50)))
            .figure("event_p99_us", of(&|turn| turn.delay.percentile(99)))
            .figure("added_event_p50_us", added(50))
            .figure("added_event_p99_us", added(99))
            .figure("together_percent", of(&|turn| turn.together))
    });
    Ok(rows.collect())
}

/// A proxy that was just started: its memory without a call, and with many open streams.
pub async fn memory(target: &Target, provider: &Provider) -> Result<Vec<Row>> {
    tokio::time::sleep(IDLE).await;
    let idle = memory_row(target, "idle, no call yet")?;
    let open = open(&target.to, OPEN).await?;
    tokio::time::sleep(IDLE).await;
    let with_streams = memory_row(target, &format!("{OPEN} open streams"))?;
    provider.release();
    finish(open).await?;
    Ok(vec![idle, with_streams])
}

pub fn memory_row(target: &Target, when: &str) -> Result<Row> {
    let process = target.process.as_ref().context("what is no process has no memory of its own")?;
    Ok(Row::default().label("target", target.name).label("when", when).label("resident_kib", process.resident_kib()?))
}

/// Many idle streams through the sidecar: what they take, whether it still answers, and that every one of them ends.
pub async fn many(provider: &Provider, directory: &Path) -> Result<Row> {
    let files = allow_files();
    let count = MANY.min(usize::try_from(files.saturating_sub(OTHER_FILES) / 2)?);
    let sidecar = Target::sidecar("many-streams", &SIDECAR, &Endpoint::plain(provider.address), directory).await?;
    let resident = |target: &Target| target.process.as_ref().map_or(Ok(0), process::Process::resident_kib);
    tokio::time::sleep(IDLE).await;
    let idle = resident(&sidecar)?;
    let began = Instant::now();
    let open = open(&sidecar.to, count).await?;
    let opened_in = began.elapsed();
    tokio::time::sleep(IDLE).await;
    let with_streams = resident(&sidecar)?;
    let calls = load::run(&sidecar.to, WHOLE, Duration::from_millis(200), Duration::from_secs(1)).await?;
    provider.release();
    let began = Instant::now();
    finish(open).await?;
    Ok(Row::default()
        .label("streams", count)
        .label("opened_in_ms", milliseconds(opened_in))
        .label("resident_kib", with_streams)
        .label("kib_each", (10.0 * with_streams.saturating_sub(idle) as f64 / count as f64).round() / 10.0)
        .label("call_p50_us", calls.latency.percentile(50).round())
        .label("call_p99_us", calls.latency.percentile(99).round())
        .label("ended_in_ms", milliseconds(began.elapsed())))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Opens streams that are held once their first events are there.
async fn open(to: &Destination, count: usize) -> Result<Vec<Connection>> {
    let request = HELD.request(&to.headers);
    let opening = stream::iter(0..count).map(|_| async {
        let mut connection = Connection::open(to.address).await?;
        connection.begin(&request, EVENTS_BEFORE_HELD).await?;
        anyhow::Ok(connection)
    });
    opening.buffer_unordered(AT_ONCE).try_collect().await
}

async fn finish(open: Vec<Connection>) -> Result<()> {
    stream::iter(open).map(Ok).try_for_each_concurrent(None, Connection::finish).await
}

/// How many files this process and those that it starts may open: more than usual, if that is allowed.
pub fn allow_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let wanted = [Rlimit { current: Some(FILES), maximum: Some(hard.max(FILES)) }, Rlimit { current: Some(hard), maximum: Some(hard) }];
    for limit in wanted {
        if setrlimit(Resource::Nofile, limit).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
