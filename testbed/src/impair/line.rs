//! What becomes of each frame: an impaired line, without its ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::Impairment;

/// Of how many frames shares are told.
const ALL: u32 = 1000;
/// Length of the link layer's header, which nothing is done to: frames would come to somebody else.
const ETHERNET: usize = 14;
/// How long a frame waits to be overtaken if no other comes.
const PATIENCE: Duration = Duration::from_millis(200);

/// Frames on their way.
pub(super) struct Line {
    impairment: Impairment,
    random: Rng,
    /// By when they leave, and of those that leave at the same time in the order in which they came.
    queue: BTreeMap<(Instant, u64), Vec<u8>>,
    next: u64,
    /// The frame that waits to be overtaken.
    held: Option<(Instant, Vec<u8>)>,
}

impl Line {
    pub(super) fn new(impairment: Impairment) -> Self {
        let random = Rng::with_seed(impairment.seed);
        Self { impairment, random, queue: BTreeMap::new(), next: 0, held: None }
    }

    /// A frame comes.
    pub(super) fn enter(&mut self, mut frame: Vec<u8>, now: Instant) {
        let Impairment { delay_ms, lose, corrupt, duplicate, reorder, .. } = self.impairment;
        // Each is drawn for every frame, so that one share does not change what another hits.
        let [lose, corrupt, duplicate, reorder] =
            [lose, corrupt, duplicate, reorder].map(|share| self.random.u32(..ALL) < share);
        if lose {
            return;
        }
        if corrupt && frame.len() > ETHERNET {
            let byte = self.random.usize(ETHERNET..frame.len());
            frame[byte] ^= 1 << self.random.u8(..8);
        }
        let leaves = now + Duration::from_millis(delay_ms);
        if reorder && self.held.is_none() {
            self.held = Some((leaves + PATIENCE, frame));
            return;
        }
        if duplicate {
            self.queue(leaves, frame.clone());
        }
        self.queue(leaves, frame);
        if let Some((_, held)) = self.held.take() {
            self.queue(leaves, held);
        }
    }

    fn queue(&mut self, leaves: Instant, frame: Vec<u8>) {
        self.queue.insert((leaves, self.next), frame);
        self.next += 1;
    }

    /// When the next frame leaves.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.queue.keys().next().map(|(leaves, _)| *leaves);
        let held = self.held.as_ref().map(|(until, _)| *until);
        first.into_iter().chain(held).min()
    }

    /// The next frame that leaves by now.
    pub(super) fn leave(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some((_, frame)) = self.held.take_if(|(until, _)| *until <= now) {
            self.queue(now, frame);
        }
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of a line, when, in milliseconds, that takes a frame every millisecond. Frames tell their number.
    fn through(impairment: Impairment, count: u16) -> Vec<(u64, Vec<u8>)> {
        let start = Instant::now();
        let mut line = Line::new(impairment);
        let mut out = Vec::new();
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            if ms < u64::from(count) {
                line.enter([[0; ETHERNET].as_slice(), &(ms as u16).to_be_bytes()].concat(), now);
            }
            out.extend(std::iter::from_fn(|| line.leave(now)).map(|frame| (ms, frame)));
        }
        assert_eq!(line.due(), None, "nothing stays");
        out
    }

    fn numbers(out: &[(u64, Vec<u8>)]) -> Vec<u16> {
        out.iter().map(|(_, frame)| u16::from_be_bytes([frame[ETHERNET], frame[ETHERNET + 1]])).collect()
    }

    #[test]
    fn without_impairment_all_comes_through_at_once() {
        let out = through(Impairment::default(), 500);
        assert_eq!(numbers(&out), (0..500).collect::<Vec<_>>());
        assert!(out.iter().zip(0..).all(|((ms, _), sent)| *ms == sent));
    }

    #[test]
    fn a_delay_is_the_same_for_all() {
        let out = through(Impairment { delay_ms: 50, ..Impairment::default() }, 500);
        assert_eq!(numbers(&out), (0..500).collect::<Vec<_>>());
        assert!(out.iter().zip(50..).all(|((ms, _), due)| *ms == due));
    }

    #[test]
    fn shares_are_kept_and_seeds_repeat() {
        let half_percent = Impairment { lose: 5, seed: 1, ..Impairment::default() };
        assert!(matches!(through(half_percent, 800).len(), 790..=799));
        let twentieth = Impairment { lose: 50, seed: 1, ..Impairment::default() };
        let out = through(twentieth, 800);
        assert!(matches!(out.len(), 740..=780), "{}", out.len());
        assert_eq!(numbers(&out), numbers(&through(twentieth, 800)));
        assert_ne!(numbers(&out), numbers(&through(Impairment { seed: 2, ..twentieth }, 800)));
        assert!(through(Impairment { lose: ALL, ..Impairment::default() }, 800).is_empty());
    }

    #[test]
    fn twice_is_twice_the_same() {
        let out = through(Impairment { duplicate: ALL, ..Impairment::default() }, 100);
        assert_eq!(numbers(&out), (0..200).map(|n| n / 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_spoilt_frame_differs_in_one_bit() {
        let out = through(Impairment { corrupt: ALL, ..Impairment::default() }, 100);
        let wrong = numbers(&out).into_iter().zip(0u16..).map(|(got, sent)| (got ^ sent).count_ones());
        assert_eq!(wrong.collect::<Vec<_>>(), [1; 100]);
        assert!(out.iter().all(|(_, frame)| frame[..ETHERNET] == [0; ETHERNET]));
    }

    #[test]
    fn the_next_overtakes_and_the_last_does_not_wait_for_ever() {
        let out = through(Impairment { reorder: ALL, ..Impairment::default() }, 5);
        assert_eq!(numbers(&out), [1, 0, 3, 2, 4]);
        assert_eq!(out[4].0, 4 + PATIENCE.as_millis() as u64);
    }
}
