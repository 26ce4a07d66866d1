//! What an authorizer answered a moment ago.
//!
//! Invariant: of one question, one is under way at a time; who asks the same meanwhile gets its answer. An authorizer
//! that is away takes back nothing that it gave in the last [`TRUST`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::review::Away;
use crate::session::lock;

/// How long a yes is believed.
const YES: Duration = Duration::from_secs(10);

/// How long a no is believed, and how long one that is away is not asked the same again.
const NO: Duration = Duration::from_secs(2);

/// How long the last yes holds while the authorizer is away.
pub const TRUST: Duration = Duration::from_secs(300);

/// Answers, by their questions.
#[derive(Debug)]
pub(super) struct Remembered<V> {
    known: Mutex<HashMap<String, Arc<Slot<V>>>>,
    most: usize,
}

type Slot<V> = tokio::sync::Mutex<Known<V>>;

#[derive(Debug)]
struct Known<V> {
    /// The last answer, and how long it is believed.
    last: Option<(Instant, Answer<V>)>,
    /// The last yes, unless a no came since.
    yes: Option<(Instant, V)>,
}

#[derive(Clone, Debug)]
enum Answer<V> {
    Yes(V),
    No,
    Away(Away),
}

impl<V: Clone> Remembered<V> {
    /// Remembers so many answers at most.
    pub(super) fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most }
    }

    /// The answer to a question, if there is a fresh one, else what `review` says; none is a no.
    pub(super) async fn ask(
        &self,
        question: String,
        review: impl Future<Output = Result<Option<V>, Away>>,
    ) -> Result<Option<V>, Away> {
        let slot = self.slot(question);
        let mut known = slot.lock().await;
        if let Some((until, answer)) = known.last.as_ref().filter(|(until, _)| Instant::now() < *until) {
            let _fresh = until;
            return answer.clone().told();
        }
        let answer = match review.await {
            Ok(Some(value)) => {
                known.yes = Some((Instant::now(), value.clone()));
                Answer::Yes(value)
            }
            Ok(None) => {
                known.yes = None;
                Answer::No
            }
            Err(away) => match &known.yes {
                Some((at, value)) if at.elapsed() < TRUST => Answer::Yes(value.clone()),
                _ => Answer::Away(away),
            },
        };
        let believed = if matches!(answer, Answer::Yes(_)) { YES } else { NO };
        known.last = Some((Instant::now() + believed, answer.clone()));
        answer.told()
    }

    fn slot(&self, question: String) -> Arc<Slot<V>> {
        let mut known = lock(&self.known);
        if known.len() >= self.most && !known.contains_key(&question) {
            // Those that are asked now, and those whose yes still counts.
            known.retain(|_, slot| {
                let counts = |known: &Known<V>| known.yes.as_ref().is_some_and(|(at, _)| at.elapsed() < TRUST);
                slot.try_lock().map_or(true, |known| counts(&known))
            });
            if known.len() >= self.most {
                known.clear();
            }
        }
        known.entry(question).or_insert_with(|| Arc::new(Slot::new(Known { last: None, yes: None }))).clone()
    }
}

impl<V> Answer<V> {
    fn told(self) -> Result<Option<V>, Away> {
        match self {
            Self::Yes(value) => Ok(Some(value)),
            Self::No => Ok(None),
            Self::Away(away) => Err(away),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(
        remembered: &Remembered<u8>,
        question: &str,
        review: Result<Option<u8>, Away>,
    ) -> Result<Option<u8>, Away> {
        remembered.ask(question.into(), async { review }).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_for_a_moment() {
        let remembered = Remembered::new(4);
        assert_eq!(ask(&remembered, "a", Ok(Some(1))).await, Ok(Some(1)));
        assert_eq!(ask(&remembered, "a", Ok(None)).await, Ok(Some(1)), "a yes is fresh");
        tokio::time::advance(YES).await;
        assert_eq!(ask(&remembered, "a", Ok(None)).await, Ok(None));
        assert_eq!(ask(&remembered, "a", Ok(Some(2))).await, Ok(None), "a no is fresh, too");
        tokio::time::advance(NO).await;
        assert_eq!(ask(&remembered, "a", Ok(Some(2))).await, Ok(Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_away_takes_nothing_back_for_a_while() {
        let (remembered, away) = (Remembered::new(4), || Err(Away("it is away".into())));
        assert_eq!(ask(&remembered, "a", away()).await, away());
        tokio::time::advance(NO).await;
        assert_eq!(ask(&remembered, "a", Ok(Some(1))).await, Ok(Some(1)));
        for _ in 0..TRUST.as_secs() / YES.as_secs() - 1 {
            tokio::time::advance(YES).await;
            assert_eq!(ask(&remembered, "a", away()).await, Ok(Some(1)));
        }
        tokio::time::advance(YES).await;
        assert_eq!(ask(&remembered, "a", away()).await, away(), "not for ever");
        tokio::time::advance(NO).await;
        assert_eq!(ask(&remembered, "a", Ok(None)).await, Ok(None));
        tokio::time::advance(NO).await;
        assert_eq!(ask(&remembered, "a", away()).await, away(), "what was taken back is not given again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_much_is_no_burden_and_takes_nobodys_answer() {
        let remembered = Remembered::new(8);
        assert_eq!(ask(&remembered, "good", Ok(Some(1))).await, Ok(Some(1)));
        for junk in 0..100 {
            assert_eq!(ask(&remembered, &junk.to_string(), Ok(None)).await, Ok(None));
            assert!(lock(&remembered.known).len() <= 8);
        }
        assert_eq!(ask(&remembered, "good", Ok(None)).await, Ok(Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_question_is_asked_once_at_a_time() {
        let remembered = Remembered::new(8);
        let slow = remembered.ask("a".into(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Some(1))
        });
        let other = remembered.ask("a".into(), async { panic!("asked twice") });
        assert_eq!(tokio::join!(slow, other), (Ok(Some(1)), Ok(Some(1))));
    }
}
