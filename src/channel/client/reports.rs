//! The stream on which reports go, one after the other.
//!
//! A report as a request of its own carried the token, which is longer than what is reported, and began and ended a stream of HTTP/2: a quarter of
//! what a report takes here, and two fifths of what it takes the operator to take it in. A busy sidecar reports fifty times a second.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::proven;
use crate::channel::proto::control_client::ControlClient;
use crate::channel::proto::{ReportRequest, ReportResponse};

/// A stream, whose reports have all been answered.
#[derive(Debug)]
pub struct Reports {
    /// The connection, and the token with which it was opened.
    over: Arc<ControlClient<Channel>>,
    token: AsciiMetadataValue,
    reports: mpsc::Sender<ReportRequest>,
    answers: Streaming<ReportResponse>,
}

impl Reports {
    /// # Errors
    /// When the operator is not there, or does not accept the token.
    pub async fn open(over: Arc<ControlClient<Channel>>, token: AsciiMetadataValue) -> Result<Reports, Status> {
        let (reports, told) = mpsc::channel(1);
        let request = proven(ReceiverStream::new(told), token.clone());
        let answers = ControlClient::clone(&over).report(request).await?.into_inner();
        Ok(Reports { over, token, reports, answers })
    }

    /// Whether a new one would be over the same connection, and proven with the same token.
    pub fn is_of(&self, over: &Arc<ControlClient<Channel>>, token: &AsciiMetadataValue) -> bool {
        Arc::ptr_eq(&self.over, over) && self.token == *token
    }

    /// Sends a report and waits until it is booked.
    ///
    /// # Errors
    /// Why it was not, or why the stream has ended. Nothing can be sent on it then.
    pub async fn send(&mut self, report: ReportRequest) -> Result<(), Status> {
        // Nobody takes it when the stream has ended, and the answer says why.
        let _ = self.reports.send(report).await;
        let ended = || Status::unavailable("the operator has ended the stream of reports");
        self.answers.message().await?.map(drop).ok_or_else(ended)
    }
}
