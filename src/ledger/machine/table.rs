//! A table of rows in memory that knows what became of each since it was read.

use std::collections::BTreeMap;

/// Rows by key, and the keys of those that are not as they are stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table<K: Ord, V> {
    rows: BTreeMap<K, V>,
    touched: BTreeMap<K, Stored>,
}

/// Whether a row that was touched is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stored {
    Yes,
    No,
}

/// What a store must do for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a, V> {
    New(&'a V),
    Changed(&'a V),
    Deleted,
}

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table { rows: BTreeMap::new(), touched: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// A row as it is stored. What was changed since stays as it is.
    pub fn load(&mut self, key: K, row: V) {
        if !self.touched.contains_key(&key) {
            self.rows.entry(key).or_insert(row);
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    /// Rows with keys from `from` to `to`, both included.
    pub fn range(&self, from: K, to: K) -> impl Iterator<Item = (&K, &V)> {
        self.rows.range(from..=to)
    }

    pub fn put(&mut self, key: K, row: V) {
        self.touch(&key);
        self.rows.insert(key, row);
    }

    pub fn change(&mut self, key: &K) -> Option<&mut V> {
        self.touch(key);
        self.rows.get_mut(key)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.touch(key);
        self.rows.remove(key)
    }

    fn touch(&mut self, key: &K) {
        if !self.touched.contains_key(key) {
            let stored = if self.rows.contains_key(key) { Stored::Yes } else { Stored::No };
            self.touched.insert(key.clone(), stored);
        }
    }

    /// What is to be stored, by key.
    pub fn changes(&self) -> impl Iterator<Item = (&K, Change<'_, V>)> {
        self.touched.iter().filter_map(|(key, stored)| {
            let change = match (stored, self.rows.get(key)) {
                (Stored::No, Some(row)) => Change::New(row),
                (Stored::Yes, Some(row)) => Change::Changed(row),
                (Stored::Yes, None) => Change::Deleted,
                (Stored::No, None) => return None,
            };
            Some((key, change))
        })
    }

    /// The rows as they are stored once the changes are; `None` for those that are gone.
    pub fn stored(self) -> impl Iterator<Item = (K, Option<V>)> {
        let Table { rows, touched } = self;
        let gone: Vec<K> = touched.into_keys().filter(|key| !rows.contains_key(key)).collect();
        rows.into_iter().map(|(key, row)| (key, Some(row))).chain(gone.into_iter().map(|key| (key, None)))
    }

    /// Everything is stored as it is here.
    pub fn saved(&mut self) {
        self.touched.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_told_of_each_row_once_and_of_none_that_came_and_went() {
        let mut table = Table::default();
        table.load("kept", 1);
        table.load("changed", 1);
        table.load("deleted", 1);
        for row in 2..4 {
            table.put("new", row);
            *table.change(&"changed").expect("a row") = row;
        }
        table.put("came and went", 1);
        table.remove(&"came and went");
        table.remove(&"deleted");
        table.load("deleted", 9);
        let changes: Vec<_> = table.changes().collect();
        assert_eq!(changes, [(&"changed", Change::Changed(&3)), (&"deleted", Change::Deleted), (&"new", Change::New(&3))]);
        let stored: Vec<_> = table.clone().stored().collect();
        assert_eq!(stored, [("changed", Some(3)), ("kept", Some(1)), ("new", Some(3)), ("came and went", None), ("deleted", None)]);
        table.saved();
        assert_eq!(table.changes().count(), 0);
    }
}
