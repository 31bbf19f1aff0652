//! The stream of one sidecar's reports: each is booked, and answered, before the next is looked at.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::{ControlService, Presence, ledger_status};
use crate::channel::convert::report_from_wire;
use crate::channel::proto::{ReportRequest, ReportResponse};
use crate::core::limit::LimitKey;
use crate::ledger::HolderId;
use crate::operator::context::now_ms;
use crate::operator::news::News;

/// How long a token is believed on a stream before it has to be proven again, on another. Late reports of a pod that is gone are taken for
/// longer.
pub const LIFE: Duration = Duration::from_secs(60);

/// What the sidecar is answered.
pub type Answers = BoxStream<'static, Result<ReportResponse, Status>>;

/// Begins to book reports of the pod that calls. The stream ends after `life`, with the first that cannot be booked, and with the operator.
pub async fn answers(
    service: &Arc<ControlService>,
    metadata: &MetadataMap,
    reports: impl Stream<Item = Result<ReportRequest, Status>> + Send + 'static,
    life: Duration,
) -> Result<Answers, Status> {
    let member = service.caller(metadata, Presence::WasThere).await?;
    let (service, uid) = (Arc::clone(service), member.pod.origin.pod_uid.clone());
    let mut stopping = service.stopping.clone();
    let end = async move {
        // Either way it ends: an error means that whoever stops the operator is gone already.
        let _ = tokio::time::timeout(life, stopping.wait_for(|stop| *stop)).await;
    };
    let booked = move |report: Result<ReportRequest, Status>| {
        let (service, uid) = (Arc::clone(&service), uid.clone());
        async move { service.book(&uid, report?).await.map(|()| ReportResponse {}) }
    };
    Ok(reports.take_until(Box::pin(end)).then(booked).boxed())
}

impl ControlService {
    /// Books a report of the pod `uid`, all of it or nothing.
    async fn book(&self, uid: &str, report: ReportRequest) -> Result<(), Status> {
        let reported = report_from_wire(report).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let member = self.was_there(uid).ok_or_else(|| Status::permission_denied("the pod has been gone for too long to report"))?;
        let unleased = reported.iter().flat_map(|entry| entry.unleased());
        let member = self.knowing(member, unleased).await?;
        let now = now_ms();
        let origin = &member.pod.origin;
        let terms = |key: &LimitKey| member.budgets.terms(key, now);
        let entries = reported.iter().cloned().map(|entry| entry.into_entry(origin, terms, now)).collect();
        let written = self.context.ledger.report(&HolderId(origin.pod_uid.clone()), entries, now).await;
        let is_new = self.context.outages.wrote(written, now).map_err(ledger_status)?;
        let new = reported.iter().zip(is_new).filter_map(|(entry, is_new)| is_new.then_some(entry));
        let news = News::of_report(&member.budgets, origin, new, |record| self.count_call(&member, record));
        self.context.heard(news, now);
        Ok(())
    }
}
