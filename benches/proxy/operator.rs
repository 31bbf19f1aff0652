//! The operator that the measured sidecar follows, as one in a pod follows the cluster's: it hands out the policy, grants every lease
//! that it is asked for, and takes every report.
//!
//! What the operator does with them is not the sidecar's work, and in a cluster not on its node: here they are taken from the wire and counted.
//! `make bench-ledger` measures the rest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use spendkeeper::channel::convert::decision_to_wire;
use spendkeeper::channel::message::{LeaseAsk, Pushed};
use spendkeeper::channel::proto::control_server::{Control, ControlServer};
use spendkeeper::channel::proto::{AcquireRequest, AcquireResponse, Entry, Push, ReportRequest, ReportResponse, WatchRequest, entry};
use spendkeeper::core::dimensions::Dimension;
use spendkeeper::ledger::Decision;
use spendkeeper::sidecar::file;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::secured::Secured;

/// As the operator's default.
const LEASE_LIFE_MS: i64 = 60_000;

/// An operator on a thread of its own, until the process ends.
pub struct Operator {
    pub server: Secured,
    /// With which the sidecar proves itself; nobody checks it here.
    pub token: PathBuf,
    settled: watch::Receiver<usize>,
}

struct Channel {
    push: Push,
    /// Calls whose end was reported.
    settled: watch::Sender<usize>,
}

impl Operator {
    /// Follows the resources in the file `policy`, with the same credential for all of their backends. `dimensions` are the pod's.
    pub fn start<'a>(policy: &Path, credential: &str, dimensions: impl IntoIterator<Item = (Dimension, &'a str)>) -> Result<Operator> {
        let mut loaded = file::load(policy, |_| Some(credential.to_owned()))?;
        for (dimension, value) in dimensions {
            loaded.policy.dimensions.free.insert(dimension);
            loaded.policy.dimensions.defaults.set(dimension, value.to_owned());
        }
        let pushed =
            Pushed { policy: Some(loaded.policy), credentials: loaded.credentials, recall: Vec::new(), operator_version: "bench".into() };
        let token = policy.with_file_name("token");
        std::fs::write(&token, "of the pod")?;
        let (tell, settled) = watch::channel(0);
        let channel = Channel { push: Push::from(&pushed), settled: tell };
        let server = Secured::start("operator", b"h2", |listener| async {
            let server = Server::builder().add_service(ControlServer::new(channel));
            server.serve_with_incoming(listener.into_stream()).await.context("the operator's channel")
        })?;
        Ok(Operator { server, token, settled })
    }

    /// Waits until the ends of so many calls were reported.
    pub async fn reported(&self, calls: usize) -> Result<()> {
        self.settled.clone().wait_for(|settled| *settled >= calls).await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl Control for Channel {
    type WatchStream = BoxStream<'static, Result<Push, Status>>;
    type ReportStream = BoxStream<'static, Result<ReportResponse, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let once = futures::stream::iter([Ok(self.push.clone())]);
        Ok(Response::new(once.chain(futures::stream::pending()).boxed()))
    }

    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        let ask = LeaseAsk::try_from(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(decision_to_wire(Decision::Granted { granted: ask.want, valid_for_ms: LEASE_LIFE_MS, left: None }, 0)))
    }

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Result<Response<Self::ReportStream>, Status> {
        let settled = self.settled.clone();
        let ended = |entry: &&Entry| matches!(entry.entry, Some(entry::Entry::SettledLike(_)));
        let answers = request.into_inner().map_ok(move |report| {
            settled.send_modify(|calls| *calls += report.entries.iter().filter(ended).count());
            ReportResponse {}
        });
        Ok(Response::new(answers.boxed()))
    }
}
