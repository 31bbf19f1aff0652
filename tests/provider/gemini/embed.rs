//! Embeddings, of one content or of many, and of Vertex AI's instances.

use serde_json::{Value, json};

use super::{prices, refusals};
use crate::answer::Answer;
use crate::bill::UNLABELLED;
use crate::fields::{Fields, Received};
use crate::models::{Input, Model, Rates};
use crate::pace::{Piece, Usage};
use crate::prompt::Prompt;
use crate::prose::Rng;
use crate::refusal::Refusal;
use crate::reply::{Ask, Dialect};
use crate::tokens;

const DIMENSIONS: u64 = 768;
const MOST_DIMENSIONS: u64 = 3_072;

/// Which of three calls is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    One,
    Batch,
    Predict,
}

pub struct Embed {
    verb: Verb,
    /// Tokens of each text.
    tokens: Vec<u64>,
    dimensions: usize,
    seed: u64,
    hides_usage: bool,
}

pub fn read(body: Received, model: &'static Model, verb: &str) -> Result<(Ask, Embed), Refusal> {
    let fields = Fields::parse(body)?;
    let verb = match verb {
        "embedContent" => Verb::One,
        "batchEmbedContents" => Verb::Batch,
        _ => Verb::Predict,
    };
    let (texts, dimensions) = match verb {
        Verb::One => {
            let content = fields.get("content").ok_or_else(|| Refusal::Missing("content".to_owned()))?;
            // Vertex AI's have what else they ask for in an object of its own.
            let config = fields.get("embedContentConfig").and_then(|config| config["outputDimensionality"].as_u64());
            (vec![text(content)], fields.count("outputDimensionality")?.or(config))
        }
        Verb::Batch => {
            let requests = fields.list("requests")?;
            let named = format!("models/{}", model.name);
            if let Some(other) = requests.iter().find(|request| request["model"] != named.as_str()) {
                return Err(Refusal::NotOneOf { field: "requests[].model".to_owned(), got: other["model"].to_string(), allowed: &[] });
            }
            let dimensions = requests.first().and_then(|request| request["outputDimensionality"].as_u64());
            (requests.iter().map(|request| text(&request["content"])).collect(), dimensions)
        }
        Verb::Predict => {
            let instances = fields.list("instances")?;
            let dimensions = fields.get("parameters").and_then(|parameters| parameters["outputDimensionality"].as_u64());
            (instances.iter().map(|instance| instance["content"].as_str().unwrap_or_default().to_owned()).collect(), dimensions)
        }
    };
    if texts.is_empty() {
        return Err(Refusal::Missing("content".to_owned()));
    }
    // Texts and nothing around them.
    let counts: Vec<u64> = texts.iter().map(|text| tokens::count(text)).collect();
    let mut prompt = Prompt::new();
    texts.iter().for_each(|text| prompt.push_json(&json!(text)));
    let dimensions = dimensions.unwrap_or(DIMENSIONS).min(MOST_DIMENSIONS) as usize;
    let embed = Embed { verb, tokens: counts, dimensions, seed: prompt.seed(), hides_usage: false };
    Ok((Ask { label: UNLABELLED.to_owned(), model, prompt, wishes: Vec::new(), streamed: false }, embed))
}

fn text(content: &Value) -> String {
    let parts = content["parts"].as_array().into_iter().flatten();
    parts.filter_map(|part| part["text"].as_str()).collect()
}

impl Embed {
    fn total(&self) -> u64 {
        self.tokens.iter().sum()
    }

    fn values(&self, index: usize) -> Value {
        let mut rng = Rng::new(self.seed.wrapping_add(index as u64));
        (0..self.dimensions).map(|_| json!(rng.below(2_001) as f64 / 1_000.0 - 1.0)).collect()
    }
}

impl Dialect for Embed {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal)
    }

    fn all_input(&self, _: Input) -> Input {
        Input { fresh: self.total(), ..Input::default() }
    }

    fn rates(&self, model: &Model, input: &Input) -> Rates {
        prices::rates(model, input.tokens())
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
    }

    fn whole(&self, _: &[Answer], usage: &Usage) -> Value {
        let all = self.tokens.iter().enumerate();
        // Where the call was free, so is each of its texts.
        let billed = |tokens: u64| tokens.min(usage.input.tokens());
        let mut answer = match self.verb {
            Verb::One => json!({"embedding": {"values": self.values(0)}}),
            Verb::Batch => {
                let embeddings: Vec<Value> = all.map(|(index, _)| json!({"values": self.values(index)})).collect();
                json!({"embeddings": embeddings})
            }
            Verb::Predict => {
                let predictions = all.map(|(index, tokens)| {
                    let mut embeddings = json!({"values": self.values(index)});
                    if !self.hides_usage {
                        embeddings["statistics"] = json!({"token_count": billed(*tokens) as f64, "truncated": false});
                    }
                    json!({"embeddings": embeddings})
                });
                return json!({"predictions": predictions.collect::<Vec<_>>()});
            }
        };
        if !self.hides_usage {
            answer["usageMetadata"] = json!({"promptTokenCount": billed(self.total()), "totalTokenCount": billed(self.total())});
        }
        answer
    }

    /// Nothing of it streams.
    fn opening(&mut self, _: &[Answer], _: &Usage) -> String {
        String::new()
    }

    fn piece(&mut self, _: &Piece) -> String {
        String::new()
    }

    fn closing(&mut self, _: &[Answer], _: &Usage) -> String {
        String::new()
    }
}
