//! What cannot be read in a store: it is left out, and the log names it once, however often it is come across.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::StoreError;

/// How many rows are named; a database with more of them has another fault than its rows.
const NAMED_MOST: usize = 4096;

static NAMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Names a row that cannot be read in the log, unless that was done before. Other errors are not told.
pub fn tell(error: &StoreError) {
    if let StoreError::Row { table, row, reason } = error {
        tell_of(&format!("{row} of the table {table}"), reason);
    }
}

/// The same of something that is named in words.
pub fn tell_of(what: &str, reason: &str) {
    let is_new = {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.len() < NAMED_MOST && named.insert(what.to_owned())
    };
    if is_new {
        tracing::error!(reason, "{what} cannot be read: damaged, or of a later version; it is left out");
    }
}
