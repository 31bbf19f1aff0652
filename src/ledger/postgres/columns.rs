//! Rows on their way to a statement: an array a column, or one row as it is.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::connect::Failure;

/// One column of rows.
enum Column {
    Texts(Vec<Option<String>>),
    Numbers(Vec<Option<i64>>),
}

/// A value of a row.
pub enum Value {
    Text(Option<String>),
    Number(Option<i64>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(Some(text.to_owned()))
    }
}
impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Some(text))
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(Some(number))
    }
}
impl From<i128> for Value {
    fn from(number: i128) -> Value {
        Value::Text(Some(number.to_string()))
    }
}

/// Rows of one table.
#[derive(Default)]
pub struct Columns(Vec<Column>);

impl Columns {
    pub fn push(&mut self, row: impl IntoIterator<Item = Value>) {
        for (index, value) in row.into_iter().enumerate() {
            if self.0.len() == index {
                self.0.push(if matches!(value, Value::Text(_)) { Column::Texts(Vec::new()) } else { Column::Numbers(Vec::new()) });
            }
            match (&mut self.0[index], value) {
                (Column::Texts(column), Value::Text(text)) => column.push(text),
                (Column::Numbers(column), Value::Number(number)) => column.push(number),
                _ => unreachable!("a column has values of one type: each table's rows are made in one place"),
            }
        }
    }

    pub async fn send(&self, client: &Client, statement: &Statement) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        client.execute(statement, &self.arrays()).await?;
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many they are.
    pub fn rows(&self) -> usize {
        self.0.first().map_or(0, |column| match column {
            Column::Texts(texts) => texts.len(),
            Column::Numbers(numbers) => numbers.len(),
        })
    }

    /// The first row, if there is one.
    fn row(&self) -> Vec<Parameter<'_>> {
        fn first(column: &Column) -> Option<Parameter<'_>> {
            match column {
                Column::Texts(texts) => texts.first().map(|text| text as Parameter<'_>),
                Column::Numbers(numbers) => numbers.first().map(|number| number as Parameter<'_>),
            }
        }
        self.0.iter().filter_map(first).collect()
    }

    pub fn arrays(&self) -> Vec<Parameter<'_>> {
        fn array(column: &Column) -> Parameter<'_> {
            match column {
                Column::Texts(texts) => texts,
                Column::Numbers(numbers) => numbers,
            }
        }
        self.0.iter().map(array).collect()
    }
}

pub type Parameter<'a> = &'a (dyn ToSql + Sync);

pub const NO_TEXTS: &Vec<Option<String>> = &Vec::new();
const NO_NUMBERS: &Vec<Option<i64>> = &Vec::new();
const NO_TEXT: &Option<String> = &None;
const NO_NUMBER: &Option<i64> = &None;

/// What one part of a statement takes: rows, the number of their columns, and how.
pub type Taken<'a> = (&'a Columns, usize, Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Row,
    Arrays,
}

/// The parameters of a statement's parts, which follow the first one; where there are no rows, empty arrays, or a row of nulls.
pub fn parameters<'a>(first: Parameter<'a>, statement: &Statement, parts: &[Taken<'a>]) -> Vec<Parameter<'a>> {
    let mut parameters = vec![first];
    for (part, width, form) in parts {
        let given = if *form == Form::Row { part.row() } else { part.arrays() };
        let types = statement.params().iter().skip(parameters.len()).take(width - given.len());
        let nothing = |of: &Type| -> Parameter<'a> {
            match *of {
                Type::TEXT_ARRAY => NO_TEXTS,
                Type::INT8_ARRAY => NO_NUMBERS,
                Type::TEXT => NO_TEXT,
                _ => NO_NUMBER,
            }
        };
        parameters.extend(given.into_iter().chain(types.map(nothing)));
    }
    parameters
}
