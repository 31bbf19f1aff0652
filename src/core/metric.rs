//! What a metric is, whoever counts it: operator and sidecar declare theirs with this, and the reference is generated from it.

/// A metric's name, labels and meaning.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

pub const fn declare(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Declaration {
    Declaration { name, kind, labels, help }
}
