//! A simulated LLM provider, or a simulated vector store, in a pod of its own: what the demo and the cluster tests call
//! instead of a vendor.
//!
//! It keeps its own bill, by prices and a tokenizer that share no line with Spendkeeper's, so that each checks the other. What
//! it answers follows from what it is asked, so that runs repeat; what it breaks, it breaks on request (`/admin/faults`).

mod answer;
mod anthropic;
mod args;
mod bedrock;
mod bill;
mod cache;
mod faults;
mod fields;
mod gemini;
mod models;
mod ollama;
mod openai;
mod pace;
mod prompt;
mod prose;
mod refusal;
mod reply;
mod schema;
mod server;
mod tokens;
mod vector_store;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, Mode};

/// How long calls in flight may still run after the signal to end.
const GRACE: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let router = match args.mode {
        Mode::Provider => server::router(&args),
        Mode::VectorStore => vector_store::router(),
    };
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, mode = ?args.mode, "listening");
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ended = async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    };
    let (end, end_seen) = tokio::sync::oneshot::channel();
    let serve = axum::serve(listener, router).with_graceful_shutdown(async move {
        ended.await;
        tracing::info!("ending");
        let _ = end.send(());
    });
    let out_of_patience = async move {
        let _ = end_seen.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serve.into_future() => served.context("the server failed"),
        () = out_of_patience => Ok(()),
    }
}
