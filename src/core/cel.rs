//! Expressions over one call, in CEL (Common Expression Language), as budgets and allocations write them.
//!
//! The language is CEL's part without loops and arithmetic, and it is typed: `call.<field>` (all texts), text, boolean and
//! whole-number literals, lists of texts, `&&`, `||`, `!`, `?:`, comparisons, `in`, `+` on texts, `startsWith`,
//! `endsWith`, `contains`, `matches` with a literal pattern, and `size`. Expressions come from users: an expression that
//! compiles ends in time linear in its size and the call's, and has a boolean for every call.

mod check;

use std::sync::{Arc, LazyLock, Mutex};

use cel::common::types::CelString;
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::parser::Expression as Tree;
use cel::{Context, Env, Value};
use check::References;

use super::dimensions::{Dimension, Dimensions, Origin};
use super::policy::Tier;

/// The longest expression, in bytes.
pub const MAX_BYTES: usize = 2048;
/// Expressions nested deeper than this are refused before they are parsed into a tree.
const MAX_DEPTH: u16 = 48;

/// The names of `call`'s fields.
pub const FIELDS: [&str; 10] = ["feature", "team", "process", "agent", "session", "namespace", "workload", "model", "backend", "tier"];

/// What an expression can see of a call.
#[derive(Clone, Copy, Debug)]
pub struct CallFacts<'a> {
    pub origin: &'a Origin,
    pub dimensions: &'a Dimensions,
    pub model: &'a str,
    pub backend: &'a str,
    pub tier: Option<Tier>,
}

impl CallFacts<'_> {
    /// The value of `call.<name>`; what a call does not have is the empty text.
    fn field(&self, name: &str) -> Option<&str> {
        Some(match name {
            "namespace" => &self.origin.namespace,
            "workload" => &self.origin.workload,
            "model" => self.model,
            "backend" => self.backend,
            "tier" => self.tier.map_or("", Tier::name),
            other => self.dimensions.get(Dimension::from_name(other)?).unwrap_or_default(),
        })
    }
}

/// The interpreter asks for the qualified name first, so no map has to be built for `call`.
impl VariableResolver for CallFacts<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let text = self.field(variable.strip_prefix("call.")?)?;
        Some(CowVal::owned(CelString::from(text)))
    }
}

/// No macros: `exists`, `map` and their like are the loops that a hostile expression would nest.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

/// An expression that was checked: it can only be true or false.
#[derive(Clone, Debug)]
pub struct Expression {
    tree: Tree,
    references: References,
    /// What it was last for a call: those that follow each other are most often alike, and comparing some names is cheaper than
    /// interpreting an expression.
    last: Arc<Mutex<Option<Known>>>,
}

/// What an expression is for calls with these texts, in the order of the fields that it refers to.
#[derive(Clone, Debug)]
struct Known {
    texts: Vec<String>,
    holds: bool,
}

impl Expression {
    /// # Errors
    /// When `text` is too long, is not CEL, or uses something outside the language described above. The message has the
    /// line and column.
    pub fn compile(text: &str) -> Result<Expression, CelError> {
        if text.len() > MAX_BYTES {
            return Err(CelError::TooLong { bytes: text.len() });
        }
        let parser = ENVIRONMENT.parser().max_recursion_depth(MAX_DEPTH);
        let (mut tree, source) = parser.parse_with_source_info(text).map_err(|errors| CelError::from_parser(text, &errors))?;
        let references = check::check(&mut tree, &source)?;
        Ok(Expression { tree, references, last: Arc::default() })
    }

    /// Whether the expression holds for `call`.
    ///
    /// # Errors
    /// Cannot happen for an expression that compiled, as far as its types can tell; callers still decide what it would
    /// mean: a budget counts the call, an owner's rule does not claim it.
    pub fn matches(&self, call: &CallFacts<'_>) -> Result<bool, CelError> {
        let texts = || self.references.fields.iter().map(|field| call.field(field).unwrap_or_default());
        // Nobody waits for who else looks.
        let Ok(mut last) = self.last.try_lock() else { return self.evaluate(call) };
        if let Some(known) = &*last
            && texts().eq(known.texts.iter().map(String::as_str))
        {
            return Ok(known.holds);
        }
        let holds = self.evaluate(call)?;
        *last = Some(Known { texts: texts().map(str::to_owned).collect(), holds });
        Ok(holds)
    }

    fn evaluate(&self, call: &CallFacts<'_>) -> Result<bool, CelError> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (index, pattern) in self.references.patterns.iter().enumerate() {
            let pattern = Arc::clone(pattern);
            context
                .add_function(&check::pattern_function(index), move |text: Arc<String>| pattern.is_match(&text))
                .map_err(|error| CelError::Evaluation(error.to_string()))?;
        }
        context.set_variable_resolver(call);
        match Value::resolve(&self.tree, &context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(CelError::Evaluation(format!("it is {other:?}, not true or false"))),
            Err(error) => Err(CelError::Evaluation(error.to_string())),
        }
    }
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    #[error("the expression has {bytes} bytes and may have {MAX_BYTES}; split it into several budgets or rules")]
    TooLong { bytes: usize },
    #[error("line {line}, column {column}: {problem}")]
    Refused { line: usize, column: usize, problem: String },
    #[error("the expression could not be evaluated: {0}")]
    Evaluation(String),
}

impl CelError {
    /// The first of the parser's complaints; those that follow it are mostly its echoes.
    fn from_parser(text: &str, errors: &cel::ParseErrors) -> CelError {
        let Some(first) = errors.errors.first() else {
            return CelError::Refused { line: 1, column: 1, problem: "it is not a CEL expression".into() };
        };
        let positive = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
        let (line, column) = (positive(first.pos.0), positive(first.pos.1));
        let problem = if text.trim().is_empty() {
            "the expression is empty; leave it out, or write for example call.team == 'search'".into()
        } else {
            format!("this is not CEL ({}); write for example call.team == 'search'", first.msg)
        };
        CelError::Refused { line, column, problem }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(text: &str) -> Result<bool, CelError> {
        let origin = Origin { namespace: "shop".into(), workload: "Deployment/support-bot".into(), ..Origin::default() };
        let dimensions = Dimensions::from([(Dimension::Team, "support".into()), (Dimension::Session, "s-1".into())]);
        let call =
            CallFacts { origin: &origin, dimensions: &dimensions, model: "gpt-5-mini", backend: "openai", tier: Some(Tier::Economy) };
        Expression::compile(text)?.matches(&call)
    }

    #[test]
    fn an_expression_is_for_each_call_what_it_is_whatever_it_was_for_the_one_before() {
        let expression = Expression::compile("call.team == 'a' || call.model.matches('^x') && call.session != ''").unwrap();
        let origin = Origin::default();
        let of = |team: &str, model: &str, session: &str| {
            let dimensions = Dimensions::from([(Dimension::Team, team.into()), (Dimension::Session, session.into())]);
            let call = CallFacts { origin: &origin, dimensions: &dimensions, model, backend: "b", tier: None };
            (expression.matches(&call).unwrap(), expression.matches(&call).unwrap())
        };
        for (team, model, session, expected) in [
            ("a", "y", "", true),
            ("b", "y", "", false),
            ("b", "x", "", false),
            ("b", "x", "s", true),
            ("bx", "", "s", false),
            ("b", "xs", "", false),
        ] {
            assert_eq!(of(team, model, session), (expected, expected), "{team} {model} {session}");
        }
        assert_eq!(expression.references.fields, ["team", "model", "session"]);
    }

    #[test]
    fn expressions_see_every_field_of_a_call() {
        for (text, expected) in [
            ("call.team == 'support'", true),
            ("call.feature == ''", true),
            ("call.namespace == 'shop' && call.workload.startsWith('Deployment/')", true),
            ("call.model in ['gpt-5', 'gpt-5-mini']", true),
            ("call.model in []", false),
            ("call.backend != 'openai' || call.tier == 'economy'", true),
            ("!(call.session.endsWith('-1')) ? true : false", false),
            ("call.model.contains('mini')", true),
            ("call.model.matches('^gpt-[0-9]+')", true),
            ("matches(call.team, 'x') || call.team.matches('^s.*t$')", true),
            ("size(call.team) > 3 && call.team.size() < 10", true),
            ("call.team + '/' + call.session == 'support/s-1'", true),
            ("'a' < 'b' && call.process < call.team", true),
            ("true", true),
            ("call.team == \"support\" // a comment", true),
        ] {
            assert_eq!(holds(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_a_remedy() {
        for (text, expected) in [
            ("call.taem == 'x'", "line 1, column 5: `call.taem` is not a field of a call; the fields are feature, team, process"),
            ("call.team = 'x'", "line 1, column 11: this is not CEL"),
            ("team == 'x'", "line 1, column 1: `team` is unknown; write `call.team`"),
            ("user == 'x'", "`user` is unknown; an expression speaks about `call` alone"),
            ("call == 'x'", "`call` cannot stand alone; name a field, for example call.team"),
            ("call.team", "column 5: the expression is a text and must be true or false; compare it, for example"),
            ("call.team == 3", "`==` compares a text with a whole number; both sides must be of one type"),
            ("call.team && true", "`&&` needs true or false, and this is a text"),
            ("call.team in 'x'", "`in` needs a list of texts on its right, for example ['a', 'b']"),
            ("call.team in ['x', 3]", "a list may hold texts only"),
            ("call.team.exists(c, c == 'x')", "`exists` is not available"),
            ("[1].map(x, x)", "`map` is not available"),
            ("has(call.team)", "`has` is not needed: every field is there, and empty (`''`) when the call does not have it"),
            ("call.team.matches('(')", "is not a regular expression"),
            ("call.team.matches(call.agent)", "`matches` needs its pattern as a literal text"),
            ("call.team.startsWith()", "`startsWith` takes one argument"),
            ("call.team.size() == 1.5", "only texts, whole numbers, true and false"),
            ("call.team == {'a': 'b'}", "maps are not available"),
            ("call.team\n  == taem", "line 2, column 6"),
            ("", "the expression is empty"),
            ("size(call.team) + 1 > 2", "`+` joins texts, and this is a whole number"),
        ] {
            let message = holds(text).expect_err(text).to_string();
            assert!(message.contains(expected), "{text:?} gives {message:?}, which lacks {expected:?}");
        }
    }

    #[test]
    fn hostile_expressions_are_refused_and_do_not_hang() {
        let hostile = [
            "(".repeat(MAX_BYTES),
            "[".repeat(1000) + &"]".repeat(1000),
            "call.a".repeat(300),
            "true?".repeat(400),
            "call.team == 'x' && ".repeat(200),
            "call.team.matches('(((a{1000}){1000}){1000})')".into(),
            "{'a':".repeat(400),
            "a.b".repeat(600),
        ];
        for text in hostile {
            assert!(holds(&text).is_err(), "{}", &text[..20]);
        }
        assert_eq!(holds(&("!".repeat(MAX_BYTES - 4) + "true")), Ok(true));
    }

    #[test]
    fn a_long_chain_of_alternatives_is_no_deep_expression() {
        let text = (0..80).map(|i| format!("call.team == 't{i}'")).collect::<Vec<_>>().join(" || ");
        assert_eq!(holds(&text), Ok(false));
    }

    proptest! {
        #[test]
        fn any_text_compiles_or_is_refused(text in "\\PC{0,60}") {
            let _ = holds(&text);
        }

        #[test]
        fn what_compiles_is_true_or_false_for_every_call(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "call.team", "call.tier", "'a'", "3", "true", "==", "!=", "<", "&&", "||", "!", "(", ")", "in", "['a']", "+",
                ".size()", ".contains('a')", ".matches('a')", "?", ":", "size(", "-", "[0]", ".startsWith(",
            ]), 1..9)
        ) {
            let text = tokens.join(" ");
            if let Ok(expression) = Expression::compile(&text) {
                let (origin, dimensions) = (Origin::default(), Dimensions::default());
                let call = CallFacts { origin: &origin, dimensions: &dimensions, model: "", backend: "", tier: None };
                prop_assert!(expression.matches(&call).is_ok(), "{text}: {:?}", expression.matches(&call));
            }
        }
    }
}
