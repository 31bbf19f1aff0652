//! What an expression may contain, and of which type each part is.

use std::fmt;
use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, LiteralValue, SourceInfo, operators};
use cel::parser::Expression as Tree;
use regex::{Regex, RegexBuilder};

use super::{CelError, FIELDS};

/// Memory that a compiled pattern may take, in bytes: patterns in budgets are names and prefixes.
const PATTERN_BYTES: usize = 64 * 1024;

/// The type of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Text,
    Texts,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bool => "true or false",
            Kind::Int => "a whole number",
            Kind::Text => "a text",
            Kind::Texts => "a list of texts",
        })
    }
}

/// The name under which the evaluation finds the pattern with this index; no name that a user can write.
pub(super) fn pattern_function(index: usize) -> String {
    format!("#matches{index}")
}

/// What an expression refers to.
#[derive(Clone, Debug)]
pub(super) struct References {
    /// The compiled patterns of `matches`, in the order of their calls.
    pub patterns: Vec<Arc<Regex>>,
    /// The fields of the call, each once.
    pub fields: Vec<&'static str>,
}

/// Checks the whole expression, and replaces each `matches` by a call of its compiled pattern.
pub(super) fn check(tree: &mut Tree, source: &SourceInfo) -> Result<References, CelError> {
    let mut checker = Checker { source, references: References { patterns: Vec::new(), fields: Vec::new() } };
    match checker.kind(tree)? {
        Kind::Bool => Ok(checker.references),
        kind => checker
            .refuse(tree, format!("the expression is {kind} and must be true or false; compare it, for example call.team == 'search'")),
    }
}

struct Checker<'a> {
    source: &'a SourceInfo,
    references: References,
}

impl Checker<'_> {
    fn refuse<T>(&self, at: &Tree, problem: impl Into<String>) -> Result<T, CelError> {
        let offset = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let before: String = self.source.source.chars().take(offset).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        Err(CelError::Refused { line, column, problem: problem.into() })
    }

    fn kind(&mut self, tree: &mut Tree) -> Result<Kind, CelError> {
        match &mut tree.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Ok(Kind::Bool),
            Expr::Literal(LiteralValue::String(_)) => Ok(Kind::Text),
            Expr::Literal(LiteralValue::Int(_)) => Ok(Kind::Int),
            Expr::Literal(_) => self.refuse(tree, "only texts, whole numbers, true and false can be written here"),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if name == "call" => {
                    if let Some(field) = FIELDS.into_iter().find(|field| *field == select.field) {
                        if !self.references.fields.contains(&field) {
                            self.references.fields.push(field);
                        }
                        return Ok(Kind::Text);
                    }
                    let problem = format!("`call.{}` is not a field of a call; the fields are {}", select.field, FIELDS.join(", "));
                    self.refuse(tree, problem)
                }
                _ => {
                    let problem = format!("`.{}` can follow `call` only, as in call.team", select.field);
                    self.refuse(tree, problem)
                }
            },
            Expr::Ident(name) => {
                let problem = unknown_name(name);
                self.refuse(tree, problem)
            }
            Expr::List(list) => {
                for element in &mut list.elements {
                    if self.kind(element)? != Kind::Text {
                        return self.refuse(element, "a list may hold texts only, for example ['a', 'b']");
                    }
                }
                Ok(Kind::Texts)
            }
            Expr::Call(_) => self.call(tree),
            Expr::Map(_) | Expr::Struct(_) => self.refuse(tree, "maps are not available; combine comparisons with && and ||"),
            Expr::Comprehension(_) | Expr::Unspecified => self.refuse(tree, "this is not available in expressions about a call"),
        }
    }

    /// Operators and functions. A method (`a.f(b)`) is checked as the function `f(a, b)`.
    fn call(&mut self, tree: &mut Tree) -> Result<Kind, CelError> {
        let Expr::Call(call) = &mut tree.expr else {
            return self.refuse(tree, "this is not a call");
        };
        let name = call.func_name.clone();
        let Some(function) = FUNCTIONS.iter().find(|f| f.name == name && (!f.method_only || call.target.is_some())) else {
            let problem = unavailable(&name);
            return self.refuse(tree, problem);
        };
        let operands: Vec<&mut Tree> = call.target.as_deref_mut().into_iter().chain(call.args.iter_mut()).collect();
        let expected = usize::from(function.arity);
        if operands.len() != expected {
            let problem = match expected {
                1 => format!("`{}` takes nothing but the text or list itself", function.shown),
                _ => format!("`{}` takes one argument, for example call.team.{}('x')", function.shown, function.shown),
            };
            return self.refuse(tree, problem);
        }
        let mut kinds = Vec::with_capacity(expected);
        for operand in operands {
            kinds.push((self.kind(operand)?, operand.id));
        }
        let kind = self.result(function, &kinds)?;
        if name == "matches" { self.take_pattern(tree) } else { Ok(kind) }
    }

    /// The type of `function` for operands of these types (each with its place).
    fn result(&self, function: &Function, operands: &[(Kind, u64)]) -> Result<Kind, CelError> {
        let at = |index: usize| Tree { id: operands[index].1, expr: Expr::Unspecified };
        let wants = |kind: Kind| operands.iter().position(|(k, _)| *k != kind);
        let shown = function.shown;
        match function.rule {
            Rule::Logic => match wants(Kind::Bool) {
                Some(index) => self.refuse(&at(index), format!("`{shown}` needs true or false, and this is {}", operands[index].0)),
                None => Ok(Kind::Bool),
            },
            Rule::Choice => match (operands[0].0, operands[1].0, operands[2].0) {
                (Kind::Bool, yes, no) if yes == no => Ok(yes),
                (Kind::Bool, ..) => self.refuse(&at(2), "both outcomes of `?:` must be of one type"),
                _ => self.refuse(&at(0), "the condition of `?:` must be true or false"),
            },
            Rule::Comparison { ordered } => match (operands[0].0, operands[1].0) {
                (left, right) if left != right => self.refuse(
                    &at(0),
                    format!("`{shown}` compares {left} with {right}; both sides must be of one type (texts are in quotes)"),
                ),
                (Kind::Bool | Kind::Texts, _) if ordered => self.refuse(&at(0), format!("`{shown}` needs texts or whole numbers")),
                _ => Ok(Kind::Bool),
            },
            Rule::Membership => match (operands[0].0, operands[1].0) {
                (Kind::Text, Kind::Texts) => Ok(Kind::Bool),
                (Kind::Text, _) => self.refuse(&at(1), "`in` needs a list of texts on its right, for example ['a', 'b']"),
                _ => self.refuse(&at(0), "`in` needs a text on its left"),
            },
            Rule::Join => match wants(Kind::Text) {
                Some(index) => self.refuse(&at(index), format!("`+` joins texts, and this is {}", operands[index].0)),
                None => Ok(Kind::Text),
            },
            Rule::TextTest => match wants(Kind::Text) {
                Some(index) => self.refuse(&at(index), format!("`{shown}` needs texts, and this is {}", operands[index].0)),
                None => Ok(Kind::Bool),
            },
            Rule::Size => match operands[0].0 {
                Kind::Text | Kind::Texts => Ok(Kind::Int),
                other => self.refuse(&at(0), format!("`size` needs a text or a list, and this is {other}")),
            },
        }
    }

    /// Replaces `text.matches('pattern')` by a call of the compiled pattern.
    fn take_pattern(&mut self, tree: &mut Tree) -> Result<Kind, CelError> {
        let Expr::Call(call) = &mut tree.expr else {
            return self.refuse(tree, "this is not a call");
        };
        let mut operands = call.target.take().map(|t| *t).into_iter().chain(std::mem::take(&mut call.args));
        let (Some(text), Some(pattern)) = (operands.next(), operands.next()) else {
            return self.refuse(tree, "`matches` needs a text and a pattern");
        };
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return self.refuse(&pattern, "`matches` needs its pattern as a literal text, for example matches('^gpt-')");
        };
        let compiled = RegexBuilder::new(literal.inner()).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        match compiled {
            Ok(regex) => {
                let func_name = pattern_function(self.references.patterns.len());
                self.references.patterns.push(Arc::new(regex));
                tree.expr = Expr::Call(CallExpr { func_name, target: None, args: vec![text] });
                Ok(Kind::Bool)
            }
            Err(regex::Error::CompiledTooBig(_)) => {
                self.refuse(&pattern, "the pattern is too large; repeat less, or use startsWith and contains")
            }
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                self.refuse(&pattern, format!("the pattern is not a regular expression: {reason}"))
            }
        }
    }
}

/// What a function demands of its operands, and what it gives.
#[derive(Clone, Copy)]
enum Rule {
    Logic,
    Choice,
    Comparison { ordered: bool },
    Membership,
    Join,
    TextTest,
    Size,
}

struct Function {
    /// CEL's own name.
    name: &'static str,
    /// As users write it.
    shown: &'static str,
    /// Operands, the receiver of a method included.
    arity: u8,
    method_only: bool,
    rule: Rule,
}

const fn operator(name: &'static str, shown: &'static str, arity: u8, rule: Rule) -> Function {
    Function { name, shown, arity, method_only: false, rule }
}

const fn method(name: &'static str) -> Function {
    Function { name, shown: name, arity: 2, method_only: true, rule: Rule::TextTest }
}

/// Everything that can be called.
const FUNCTIONS: [Function; 17] = [
    operator(operators::LOGICAL_AND, "&&", 2, Rule::Logic),
    operator(operators::LOGICAL_OR, "||", 2, Rule::Logic),
    operator(operators::LOGICAL_NOT, "!", 1, Rule::Logic),
    operator(operators::CONDITIONAL, "?:", 3, Rule::Choice),
    operator(operators::EQUALS, "==", 2, Rule::Comparison { ordered: false }),
    operator(operators::NOT_EQUALS, "!=", 2, Rule::Comparison { ordered: false }),
    operator(operators::LESS, "<", 2, Rule::Comparison { ordered: true }),
    operator(operators::LESS_EQUALS, "<=", 2, Rule::Comparison { ordered: true }),
    operator(operators::GREATER, ">", 2, Rule::Comparison { ordered: true }),
    operator(operators::GREATER_EQUALS, ">=", 2, Rule::Comparison { ordered: true }),
    operator(operators::IN, "in", 2, Rule::Membership),
    operator(operators::ADD, "+", 2, Rule::Join),
    operator("size", "size", 1, Rule::Size),
    operator("matches", "matches", 2, Rule::TextTest),
    method("startsWith"),
    method("endsWith"),
    method("contains"),
];

fn unknown_name(name: &str) -> String {
    match name {
        "call" => "`call` cannot stand alone; name a field, for example call.team".to_owned(),
        field if FIELDS.contains(&field) => format!("`{field}` is unknown; write `call.{field}`"),
        other => {
            format!(
                "`{other}` is unknown; an expression speaks about `call` alone, and texts are in quotes (fields: {})",
                FIELDS.join(", ")
            )
        }
    }
}

fn unavailable(name: &str) -> String {
    if name == "has" {
        return "`has` is not needed: every field is there, and empty (`''`) when the call does not have it".to_owned();
    }
    let shown = name.trim_matches('_').trim_start_matches('@');
    format!("`{shown}` is not available; use comparisons, `in`, &&, ||, !, startsWith, endsWith, contains, matches and size")
}
