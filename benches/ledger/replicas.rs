//! Two replicas that write one database at once, beside one that serves as many callers, and beside bare inserts of as many.
//!
//! Replicas that have met lock and read every row that they touch. Under one limit for all, each transaction of one waits for the other's.

use anyhow::Result;

use crate::caller::{self, Caller};
use crate::common::{Figure, Row};
use crate::server::Server;
use crate::{Operation, REPETITIONS, Turn, floor};

/// In all, half of them at each of two replicas.
const CALLERS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writers {
    /// The inserts' own connections.
    Bare,
    One,
    /// Whose callers all share one limit.
    TwoOfOneLimit,
    /// Each with a limit that its callers share, and the other's do not touch.
    TwoWithALimitEach,
}

const MEASURES: [(Writers, Operation, &str, &str); 7] = [
    (Writers::Bare, Operation::InsertEach, "-", "insert, each alone"),
    (Writers::One, Operation::Lease, "one", "lease"),
    (Writers::TwoOfOneLimit, Operation::Lease, "two, one limit", "lease"),
    (Writers::TwoWithALimitEach, Operation::Lease, "two, a limit each", "lease"),
    (Writers::One, Operation::Report, "one", "report"),
    (Writers::TwoOfOneLimit, Operation::Report, "two, one limit", "report"),
    (Writers::TwoWithALimitEach, Operation::Report, "two, a limit each", "report"),
];

/// A row for each measure, compared with the inserts and with one replica in the same repetition.
pub async fn rows(server: &Server) -> Result<Vec<Row>> {
    let mut turns: [Vec<Turn>; MEASURES.len()] = Default::default();
    for repetition in 0..REPETITIONS {
        for (index, turns) in turns.iter_mut().enumerate() {
            let schema = format!("replicas_{index}_{repetition}");
            floor::execute(&server.url("public"), &format!("CREATE SCHEMA {schema}")).await?;
            let (writers, operation, ..) = MEASURES[index];
            turns.push(measure(writers, operation, &server.url(&schema)).await?);
        }
    }
    let beside = |index: usize, other: (Writers, Operation)| {
        let other = MEASURES.iter().position(|(writers, operation, ..)| (*writers, *operation) == other).filter(|other| *other != index)?;
        Some(Figure::of(turns[index].iter().zip(&turns[other]).map(|(turn, other)| turn.rate / other.rate)))
    };
    let row = |(index, (_, operation, writers, name)): (usize, (Writers, Operation, &'static str, &'static str))| {
        let of = |figure: fn(&Turn) -> f64| Figure::of(turns[index].iter().map(figure));
        Row::default()
            .label("replicas", writers)
            .label("operation", name)
            .label("callers", CALLERS)
            .figure("per_second", of(|turn| turn.rate))
            .figure("of_floor", beside(index, (Writers::Bare, Operation::InsertEach)))
            .figure("of_one_replica", beside(index, (Writers::One, operation)))
            .figure("p50_us", of(|turn| turn.percentile(50)))
            .figure("p99_us", of(|turn| turn.percentile(99)))
    };
    Ok(MEASURES.into_iter().enumerate().map(row).collect())
}

async fn measure(writers: Writers, operation: Operation, url: &str) -> Result<Turn> {
    let keys = match writers {
        Writers::Bare => return floor::postgres(url, CALLERS, 1).await,
        Writers::One => &["shop/bench/total"][..],
        Writers::TwoOfOneLimit => &["shop/bench/total", "shop/bench/total"],
        Writers::TwoWithALimitEach => &["shop/bench/one", "shop/bench/other"],
    };
    let (mut ledgers, mut callers) = (Vec::new(), Vec::new());
    for (replica, key) in keys.iter().enumerate() {
        let ledger = spendkeeper::ledger::open(url, Default::default()).await?;
        for number in 0..CALLERS / keys.len() {
            callers.push(Caller::new(&ledger, replica * CALLERS + number, key, operation).await?);
        }
        ledgers.push(ledger);
    }
    let turn = caller::drive(callers, operation).await;
    for ledger in ledgers {
        ledger.close().await;
    }
    turn
}
