//! Which lines of an answer were told already: a log is asked for from more than a second
//! before the line that was told last, and has all of that again.

use crate::logs::position::ContainerAt;

/// Where one answer goes on from, and how far it has come.
#[derive(Clone, Debug)]
pub struct Seen {
    from: ContainerAt,
    at: ContainerAt,
    same: u64,
    late: u64,
}

impl Seen {
    /// An answer that starts at or before the second of this position.
    #[must_use]
    pub fn from(at: ContainerAt) -> Self {
        Self { from: at, at, same: 0, late: 0 }
    }

    /// Takes the next line, by its time: the position behind it; none where it was told already.
    pub fn take(&mut self, time: u64) -> Option<ContainerAt> {
        let from = self.from;
        if time == from.time && self.same < from.count {
            self.same += 1;
            return None;
        }
        if time < from.time {
            if self.same < from.count || from.count == 0 {
                return None;
            }
            // Behind the last line that was told: some of these were told, too.
            if self.late < from.late {
                self.late += 1;
                return None;
            }
        }
        let at = &mut self.at;
        match time.cmp(&at.time) {
            std::cmp::Ordering::Greater => (at.time, at.count, at.late) = (time, 1, 0),
            std::cmp::Ordering::Equal => (at.count, at.late) = (at.count + 1, 0),
            std::cmp::Ordering::Less => at.late += 1,
        }
        Some(*at)
    }

    /// Whether nothing was told before.
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.from.count == 0
    }

    /// Whether the last line that was told has not come yet.
    #[must_use]
    pub fn lacks(&self) -> bool {
        self.same < self.from.count
    }

    /// Whether the last line that was told is not in the log any more: it was rotated since.
    #[must_use]
    pub fn has_moved_on(&self) -> bool {
        self.lacks() && self.at != self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The positions behind the lines of an answer that were new.
    fn told(from: ContainerAt, times: &[u64]) -> Vec<ContainerAt> {
        let mut seen = Seen::from(from);
        times.iter().filter_map(|time| seen.take(*time)).collect()
    }

    #[test]
    fn lines_of_one_time_are_counted() {
        let at = *told(ContainerAt::start(0), &[5, 7, 7]).last().expect("lines");
        assert_eq!((at.time, at.count), (7, 2));
        assert_eq!(told(at, &[5, 7, 7, 7, 9]).len(), 2);
        assert!(told(at, &[5, 7, 7]).is_empty());
        // Rotated: what is there now is new, but for what is known to be old.
        let mut seen = Seen::from(at);
        assert_eq!((seen.take(6), seen.take(8).map(|at| at.time)), (None, Some(8)));
        assert!(seen.has_moved_on());
    }

    #[test]
    fn a_time_without_a_count_is_where_the_log_starts() {
        let from = ContainerAt { time: 7, ..ContainerAt::default() };
        assert_eq!(told(from, &[5, 7, 7, 8]).len(), 3);
    }

    proptest! {
        /// Wherever a reading broke off, the next one goes on just there, although two outputs share the log.
        #[test]
        fn each_line_is_told_once(steps in proptest::collection::vec(0u64..4, 1..40), cut in 0usize..40, back in 0usize..40) {
            let mut now = 100;
            let times: Vec<u64> = steps.iter().map(|step| { now += step; if *step == 1 { now - 2 } else { now } }).collect();
            let positions = told(ContainerAt::start(3), &times);
            prop_assert_eq!(positions.len(), times.len());
            prop_assert!(positions.is_sorted());
            let cut = cut % times.len();
            // The answer starts anywhere before the line that was told last has its first like.
            let first = times.iter().position(|time| *time == positions[cut].time).unwrap_or(0);
            let from = if first == 0 { 0 } else { back % first };
            let rest = told(positions[cut], &times[from..]);
            prop_assert_eq!(rest, &positions[cut + 1..]);
        }
    }
}
