//! A simulated vector store: a small corpus of a help desk, compared by the cosine of hashed bags of words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::prompt::Fnv;

const DIMENSIONS: usize = 128;
const MOST_ENTRIES: usize = 10_000;
const MOST_TEXT: usize = 4_096;
const MOST_MATCHES: usize = 100;
const MOST_BYTES: usize = 4 * 1024 * 1024;

const CORPUS: [&str; 16] = [
    "To reset a password, open the sign-in page and choose Forgot password; the link is valid for one hour.",
    "Invoices are issued on the first day of the month and can be downloaded from the billing portal as PDF.",
    "A refund takes five to ten working days to appear on the card that was charged.",
    "To change the plan, an owner opens Billing and picks another plan; the difference is charged pro rata.",
    "Two-factor authentication can be reset by an administrator of the workspace after checking the identity.",
    "Exports of more than ten thousand rows run in the background and arrive by mail as a link.",
    "The mobile app works offline and synchronises changes as soon as there is a connection.",
    "API keys are created under Settings, Developers; a key is shown once and cannot be read again.",
    "Rate limits are six hundred requests a minute for each key; the response says when to retry.",
    "Deleted projects stay in the trash for thirty days and can be restored by any administrator.",
    "Single sign-on with SAML is part of the enterprise plan and is set up by our support team.",
    "Members are invited by mail; an invitation expires after seven days and can be sent again.",
    "Data is stored in the region chosen at registration and is never moved without a request.",
    "The status page lists incidents, their causes and the times at which they were resolved.",
    "Webhooks are retried for one day with growing pauses; each carries a signature to verify.",
    "To cancel a subscription, choose Cancel in Billing; access lasts until the end of the period.",
];

struct Entry {
    id: String,
    vector: Vec<f32>,
    text: Option<String>,
}

#[derive(Default)]
struct Store {
    entries: RwLock<Vec<Entry>>,
    queries: AtomicU64,
    upserts: AtomicU64,
}

/// A text, or its vector.
#[derive(Deserialize)]
struct Query {
    vector: Option<Vec<f32>>,
    text: Option<String>,
    top_k: Option<usize>,
}

#[derive(Deserialize)]
struct Upsert {
    vectors: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    vector: Option<Vec<f32>>,
    text: Option<String>,
}

pub fn router() -> Router {
    let corpus = CORPUS.iter().enumerate().map(|(index, text)| Entry {
        id: format!("article-{:02}", index + 1),
        vector: embed(text),
        text: Some((*text).to_owned()),
    });
    let store = Store { entries: RwLock::new(corpus.collect()), ..Store::default() };
    Router::new()
        .route("/query", post(query))
        .route("/upsert", post(upsert))
        .route("/stats", get(stats))
        .route("/healthz", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(Arc::new(store))
}

async fn query(State(store): State<Arc<Store>>, body: Bytes) -> Response {
    let found = parse::<Query>(&body).and_then(|query| {
        let vector = vector_of(query.vector, query.text.as_deref())?;
        Ok(store.nearest(&vector, query.top_k.unwrap_or(3).min(MOST_MATCHES)))
    });
    answered(found.map(|matches| json!({"matches": matches})))
}

async fn upsert(State(store): State<Arc<Store>>, body: Bytes) -> Response {
    answered(parse::<Upsert>(&body).and_then(|upsert| store.upsert(upsert)).map(|count| json!({"upserted": count})))
}

async fn stats(State(store): State<Arc<Store>>) -> Json<Value> {
    let vectors = store.entries.read().unwrap_or_else(PoisonError::into_inner).len();
    let (queries, upserts) = (store.queries.load(Ordering::Relaxed), store.upserts.load(Ordering::Relaxed));
    Json(json!({"vectors": vectors, "dimensions": DIMENSIONS, "queries": queries, "upserts": upserts}))
}

impl Store {
    fn nearest(&self, vector: &[f32], count: usize) -> Vec<Value> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut scored: Vec<_> = entries.iter().map(|entry| (dot(vector, &entry.vector), entry)).collect();
        scored.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.id.cmp(&y.id)));
        scored.iter().take(count).map(|(score, entry)| json!({"id": entry.id, "score": score, "text": entry.text})).collect()
    }

    /// All or nothing.
    fn upsert(&self, upsert: Upsert) -> Result<usize, String> {
        let entry = |item: Item| {
            let vector = vector_of(item.vector, item.text.as_deref())?;
            Ok(Entry { id: item.id, vector, text: item.text })
        };
        let new = upsert.vectors.into_iter().map(entry).collect::<Result<Vec<_>, String>>()?;
        let count = new.len();
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() + count > MOST_ENTRIES {
            return Err(format!("the store holds {} vectors; {count} more exceed its {MOST_ENTRIES}", entries.len()));
        }
        for entry in new {
            match entries.iter_mut().find(|known| known.id == entry.id) {
                Some(known) => *known = entry,
                None => entries.push(entry),
            }
        }
        self.upserts.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

fn answered(result: Result<Value, String>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(problem) => (StatusCode::BAD_REQUEST, Json(json!({"error": problem}))).into_response(),
    }
}

/// The unit vector that was given, or that of the text.
fn vector_of(vector: Option<Vec<f32>>, text: Option<&str>) -> Result<Vec<f32>, String> {
    match (vector, text) {
        (_, Some(text)) if text.len() > MOST_TEXT => Err(format!("the text has {} bytes; at most {MOST_TEXT} are kept", text.len())),
        (Some(vector), _) if vector.len() != DIMENSIONS => {
            Err(format!("the vector has {} dimensions; it must have {DIMENSIONS}", vector.len()))
        }
        (Some(vector), _) => Ok(unit(vector)),
        (None, Some(text)) => Ok(embed(text)),
        (None, None) => Err("give a text or a vector".to_owned()),
    }
}

/// Each word adds one, or takes one, at a place that its hash decides (feature hashing).
fn embed(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSIONS];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2) {
        let mut hash = Fnv::new();
        hash.feed(word.to_lowercase().as_bytes());
        let sign = if hash.0 >> 63 == 0 { 1.0 } else { -1.0 };
        vector[hash.0 as usize % DIMENSIONS] += sign;
    }
    unit(vector)
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = dot(&vector, &vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let entries = CORPUS.iter().map(|text| Entry { id: (*text).to_owned(), vector: embed(text), text: None }).collect();
        Store { entries: RwLock::new(entries), ..Store::default() }
    }

    #[test]
    fn a_question_finds_the_article_that_shares_its_words() {
        for (question, start) in
            [("How can I reset my password?", "To reset a password"), ("when does a refund appear on my card", "A refund takes")]
        {
            let matches = store().nearest(&embed(question), 3);
            assert_eq!(matches.len(), 3);
            assert!(matches[0]["id"].as_str().unwrap().starts_with(start), "{question}: {matches:?}");
        }
    }

    #[test]
    fn what_was_put_in_is_found_and_replaced_by_its_id() {
        let store = store();
        let item = |text: &str| Upsert { vectors: vec![Item { id: "mine".to_owned(), vector: None, text: Some(text.to_owned()) }] };
        store.upsert(item("Llamas graze on the high plateau")).unwrap();
        store.upsert(item("Alpacas graze on the high plateau")).unwrap();
        assert_eq!(store.nearest(&embed("alpacas on a plateau"), 1)[0]["text"], "Alpacas graze on the high plateau");
        assert_eq!(store.entries.read().unwrap().len(), CORPUS.len() + 1);
    }

    #[test]
    fn a_vector_of_another_size_is_refused_with_the_right_one() {
        assert_eq!(vector_of(Some(vec![1.0]), None).unwrap_err(), "the vector has 1 dimensions; it must have 128");
        assert_eq!(vector_of(None, None).unwrap_err(), "give a text or a vector");
    }
}
