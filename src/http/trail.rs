//! The audit trail: each line is in the log at once, and in the store in its turn.
//!
//! Each act that changes something has a line of its own. Attempts that are refused have one up to [`REFUSED_LINES`] for an
//! actor and an action in a minute, and those who only look at one thing up to [`LOOKED_LINES`]; one more line counts the
//! rest. So neither log nor store grows as fast as somebody asks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::session::now;
use crate::store::{AuditRow, SharedStore, brief};
use crate::tasks::Tasks;

/// How many lines may wait for the store.
const WAITING_LINES: usize = 4096;

/// For how long, and how often, a line is brought to a store that does not take it.
const STORE_LIMIT: Duration = Duration::from_secs(10 * 60);
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// How many refused attempts of one actor at one action have lines of their own in a [`BUDGET_TIME`].
const REFUSED_LINES: u64 = 20;
const BUDGET_TIME: Duration = Duration::from_secs(60);

/// Most lines of their own that one actor's looks at one session, or at logs, have in a [`BUDGET_TIME`].
const LOOKED_LINES: u64 = 60;

/// Actions that only look.
const LOOKS: [&str; 3] = ["join", "logs", "read"];

/// How many actors and actions have a budget of their own; all others share one for each action.
const BUDGETS: usize = 1024;

/// How many addresses the line for the rest names.
const NAMED_ADDRESSES: usize = 8;

/// The actor of lines that speak of many.
const MANY: &str = "(many)";

/// Acts that share a budget.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Attempt {
    actor: String,
    action: String,
    /// Of looks, the session.
    session: Option<Uuid>,
    refused: bool,
}

impl Attempt {
    /// Returns what a line shares its budget with, and how many lines that has; none for a line that has no budget.
    fn of(row: &AuditRow) -> Option<(Self, u64)> {
        let refused = row.outcome != "ok";
        let (session, limit) = match refused {
            true => (None, REFUSED_LINES),
            false if LOOKS.contains(&row.action.as_str()) => (row.session, LOOKED_LINES),
            false => return None,
        };
        Some((Self { actor: row.actor.clone(), action: row.action.clone(), session, refused }, limit))
    }
}

/// What was done within the time that a budget is for.
#[derive(Default)]
struct Budget {
    limit: u64,
    count: u64,
    /// Of those without a line of their own: how many had which outcome, and from where they came.
    outcomes: BTreeMap<String, u64>,
    addresses: BTreeSet<String>,
    more_addresses: bool,
}

impl Budget {
    /// Counts an attempt. Whether it has a line of its own.
    fn note(&mut self, row: &AuditRow) -> bool {
        self.count += 1;
        if self.count <= self.limit {
            return true;
        }
        *self.outcomes.entry(row.outcome.clone()).or_default() += 1;
        if self.addresses.len() < NAMED_ADDRESSES {
            self.addresses.insert(row.address.clone());
        } else {
            self.more_addresses |= !self.addresses.contains(&row.address);
        }
        false
    }

    /// The line for those that have none of their own.
    fn rest(self, attempt: Attempt) -> Option<AuditRow> {
        let Attempt { actor, action, session, refused } = attempt;
        let rest = self.count.checked_sub(self.limit).filter(|rest| *rest > 0)?;
        let outcomes: Vec<_> = self.outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
        let more = self.more_addresses.then(|| "more".to_owned());
        let addresses: Vec<_> = self.addresses.into_iter().chain(more).collect();
        let (outcome, done) = if refused { ("refused", "were refused") } else { ("ok", "came") };
        let detail = format!("{rest} more {done} within {} s: {}", BUDGET_TIME.as_secs(), outcomes.join(", "));
        Some(AuditRow {
            time: now(),
            actor,
            action,
            session,
            address: addresses.join(", "),
            outcome: outcome.into(),
            detail,
        })
    }
}

/// See the module's documentation. Clones share all.
#[derive(Clone)]
pub struct Trail {
    lines: mpsc::Sender<AuditRow>,
    budgets: Arc<Mutex<HashMap<Attempt, Budget>>>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Trail {
    /// A trail, and what [`write_trail`] writes.
    #[must_use]
    pub fn new(tasks: Tasks, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<AuditRow>) {
        let (lines, written) = mpsc::channel(WAITING_LINES);
        (Self { lines, budgets: Arc::default(), tasks, metrics }, written)
    }

    /// How many lines wait for the store.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lines.max_capacity() - self.lines.capacity()
    }

    /// Writes a line, cut where a caller made it long. A store that is slow or away does not stop what is audited: the
    /// log has it.
    pub fn add(&self, mut row: AuditRow) {
        for text in [&mut row.actor, &mut row.address, &mut row.detail] {
            // No text of PostgreSQL's has it, and what was asked for may.
            text.retain(|letter| letter != '\0');
            brief::cut(text);
        }
        if self.has_line(&row) {
            self.write(row);
        }
    }

    fn write(&self, row: AuditRow) {
        tracing::info!(
            target: "audit", actor = row.actor, action = row.action, session = row.session.map(tracing::field::display),
            address = row.address, outcome = row.outcome, detail = row.detail,
        );
        if self.lines.try_send(row).is_err() {
            self.metrics.audit_unstored.inc();
            tracing::error!("a line of the audit trail is in the log alone: too many wait for the store");
        }
    }

    /// Returns whether an act has a line of its own, and counts it.
    fn has_line(&self, row: &AuditRow) -> bool {
        let Some((mut attempt, limit)) = Attempt::of(row) else { return true };
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= BUDGETS && !budgets.contains_key(&attempt) {
            attempt = Attempt { actor: MANY.into(), session: None, ..attempt };
        }
        let budget = budgets.entry(attempt.clone()).or_insert_with(|| {
            let trail = self.clone();
            self.tasks.spawn_to_end("audit-rest", async move { trail.tell_rest(attempt).await });
            Budget { limit, ..Budget::default() }
        });
        budget.note(row)
    }

    /// Writes the line for the rest of what is done from now on, when the budget's time is over or the hub stops.
    async fn tell_rest(self, attempt: Attempt) {
        let _the_hub_stops = self.tasks.stopping().run_until_cancelled(sleep(BUDGET_TIME)).await;
        let budget = self.budgets.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
        if let Some(row) = budget.and_then(|budget| budget.rest(attempt)) {
            self.write(row);
        }
    }
}

/// Writes the trail to the store until all who could add to it are gone. Nobody waits for it.
pub async fn write_trail(store: SharedStore, mut lines: mpsc::Receiver<AuditRow>, metrics: Arc<Metrics>) {
    while let Some(row) = lines.recv().await {
        let since = Instant::now();
        while let Err(error) = store.add_audit(&row).await {
            // A database that is away comes back; what it never takes is not to keep out all that comes behind it.
            if error.is_of_the_data() || lines.is_closed() || since.elapsed() > STORE_LIMIT {
                metrics.audit_unstored.inc();
                tracing::error!(%error, "cannot store a line of the audit trail; the log has it");
                break;
            }
            sleep(STORE_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(actor: &str, address: &str, outcome: &str) -> AuditRow {
        let (actor, action, address, outcome) = (actor.into(), "start".into(), address.into(), outcome.into());
        AuditRow { time: 1, actor, action, session: None, address, outcome, detail: String::new() }
    }

    fn written(lines: &mut mpsc::Receiver<AuditRow>) -> Vec<AuditRow> {
        std::iter::from_fn(|| lines.try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_beyond_the_budget_is_one_line_a_minute_and_what_succeeds_is_always_told() {
        let (trail, mut lines) = Trail::new(Tasks::default(), Metrics::new());
        for number in 0..500 {
            trail.add(line("bob", &format!("10.0.0.{}", number % 9), "forbidden"));
            trail.add(line("bob", "10.0.0.1", "ok"));
        }
        trail.add(line("bob", "10.0.0.1", "too_many_sessions"));
        trail.add(line("ann", "10.0.0.1", "forbidden"));
        let told = written(&mut lines);
        let count =
            |actor: &str, outcome: &str| told.iter().filter(|row| row.actor == actor && row.outcome == outcome).count();
        assert_eq!((count("bob", "ok"), count("bob", "forbidden"), count("ann", "forbidden")), (500, 20, 1));
        assert_eq!(told.len(), 521);

        sleep(BUDGET_TIME + Duration::from_secs(1)).await;
        let [rest] = &written(&mut lines)[..] else { panic!("one line") };
        assert_eq!((&rest.actor[..], &rest.action[..], &rest.outcome[..]), ("bob", "start", "refused"));
        assert_eq!(rest.detail, "481 more were refused within 60 s: forbidden 480, too_many_sessions 1");
        assert_eq!((rest.address.matches("10.0.0.").count(), rest.address.ends_with(", more")), (8, true), "{rest:?}");

        trail.add(line("bob", "10.0.0.1", "forbidden"));
        assert_eq!(written(&mut lines).len(), 1, "a new minute has a new budget");
        sleep(BUDGET_TIME + Duration::from_secs(1)).await;
        assert_eq!(written(&mut lines), []);
    }

    #[tokio::test(start_paused = true)]
    async fn many_actors_have_no_more_lines_than_there_are_budgets() {
        let tasks = Tasks::default();
        let (trail, mut lines) = Trail::new(tasks.clone(), Metrics::new());
        for number in 0..BUDGETS + 500 {
            trail.add(line(&format!("ticket:{number}"), "10.0.0.1", "forbidden"));
        }
        assert_eq!(written(&mut lines).len(), BUDGETS + REFUSED_LINES as usize);
        // A hub that stops tells the rest at once.
        tasks.stop();
        assert!(tasks.ended(Duration::from_secs(1)).await);
        let [rest] = &written(&mut lines)[..] else { panic!("one line") };
        assert_eq!((&rest.actor[..], &rest.detail[..]), (MANY, "480 more were refused within 60 s: forbidden 480"));
    }

    #[tokio::test]
    async fn what_a_caller_made_long_is_cut() {
        let (trail, mut lines) = Trail::new(Tasks::default(), Metrics::new());
        let long = || "x".repeat(800_000);
        trail.add(AuditRow { detail: long(), ..line(&long(), &long(), "ok") });
        let [row] = &written(&mut lines)[..] else { panic!("one line") };
        for text in [&row.actor, &row.address, &row.detail] {
            assert_eq!((text.len(), text.ends_with("x…")), (brief::SHOWN_BYTES + 3, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_at_the_same_again_and_again_has_one_line_for_the_rest() {
        let (trail, mut lines) = Trail::new(Tasks::default(), Metrics::new());
        let sessions = [Uuid::from_u128(1), Uuid::from_u128(2)];
        for session in sessions {
            for _ in 0..LOOKED_LINES + 1000 {
                trail.add(AuditRow {
                    action: "join".into(),
                    session: Some(session),
                    ..line("ticket:1", "10.0.0.1", "ok")
                });
            }
        }
        assert_eq!(written(&mut lines).len() as u64, 2 * LOOKED_LINES);
        sleep(BUDGET_TIME * 2).await;
        let mut rest = written(&mut lines);
        rest.sort_by_key(|row| row.session);
        let told = |row: &AuditRow| (row.session, row.outcome.clone(), row.detail.clone());
        let expected = sessions.map(|id| (Some(id), "ok".to_owned(), "1000 more came within 60 s: ok 1000".to_owned()));
        assert_eq!(rest.iter().map(told).collect::<Vec<_>>(), expected);
    }
}
