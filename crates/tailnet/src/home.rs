//! Home relay of a node, and when others may know of it. Pure: `now` is an argument.
//!
//! Others are told of a home once its relay has accepted us: packets that they send before that are lost, and
//! WireGuard repeats a lost handshake only after five seconds. A home whose relay cannot be reached is left for one
//! that can, but only while a coordinator can tell the others.
//!
//! # Source
//! tailscale/tailscale issue 11378: a home does not move while nobody can be told.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

use std::time::{Duration, Instant};

/// Time for which the home relay may be away; one that never had us is announced after this time all the same.
const AWAY: Duration = Duration::from_secs(5);

/// Home of a node.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// Regions in order of preference.
    regions: Vec<i32>,
    region: Option<i32>,
    /// Set if the relay has accepted us since it became home.
    has_stood: bool,
    /// Time since which the relay does not have us.
    away_since: Option<Instant>,
    /// Region that is tried in its place, and since when.
    tried: Option<(i32, Instant)>,
    is_coordinated: bool,
}

impl Home {
    /// Home region, if there is one.
    pub(super) fn region(&self) -> Option<i32> {
        self.region
    }

    /// Home region as others may know it.
    pub(super) fn told(&self, now: Instant) -> Option<i32> {
        let is_late = self.is_away(now);
        self.region.filter(|_| self.has_stood || is_late)
    }

    /// Replaces the regions, the best one first. A home that is among them stays.
    pub(super) fn set_regions(&mut self, regions: Vec<i32>, now: Instant) {
        let region = self.region.filter(|region| regions.contains(region));
        let first = regions.first().copied();
        self.regions = regions;
        self.tried = None;
        if region.is_none() {
            self.move_to(first, now);
        }
    }

    /// Records whether there is a coordinator that can tell others.
    pub(super) fn set_coordinated(&mut self, is_coordinated: bool) {
        self.is_coordinated = is_coordinated;
    }

    /// Records that a relay has accepted us. If home is away, this relay becomes home.
    pub(super) fn connected(&mut self, region: i32, now: Instant) {
        if self.region == Some(region) {
            (self.has_stood, self.away_since, self.tried) = (true, None, None);
        } else if self.tried.is_some_and(|(tried, _)| tried == region) && self.may_move(now) {
            self.move_to(Some(region), now);
            (self.has_stood, self.away_since) = (true, None);
        }
    }

    /// Records that a relay no longer has us.
    pub(super) fn lost(&mut self, region: i32, now: Instant) {
        if self.region == Some(region) {
            self.away_since.get_or_insert(now);
        }
    }

    /// Returns the next region to dial because home is away, once for each pause.
    pub(super) fn next_to_try(&mut self, now: Instant) -> Option<i32> {
        if !self.may_move(now) || self.tried.is_some_and(|(_, since)| now < since + AWAY) {
            return None;
        }
        let last = self.tried.map(|(region, _)| region).or(self.region);
        let at = self.regions.iter().position(|it| Some(*it) == last);
        let after = at.map_or(0, |at| at + 1);
        let others = self.regions.iter().cycle().skip(after);
        let others = others.take(self.regions.len());
        let next = others.copied().find(|it| Some(*it) != self.region)?;
        self.tried = Some((next, now));
        Some(next)
    }

    /// Time when [`Home::next_to_try`] or [`Home::told`] may return something else.
    pub(super) fn next_tick(&self, now: Instant) -> Option<Instant> {
        let away = self.away_since? + AWAY;
        if away > now {
            return Some(away);
        }
        let is_alone = self.regions.len() < 2;
        let again = self.tried.map_or(away, |(_, since)| since + AWAY);
        (self.is_coordinated && !is_alone).then_some(again)
    }

    fn is_away(&self, now: Instant) -> bool {
        self.away_since.is_some_and(|since| now >= since + AWAY)
    }

    fn may_move(&self, now: Instant) -> bool {
        self.is_coordinated && self.is_away(now)
    }

    fn move_to(&mut self, region: Option<i32>, now: Instant) {
        (self.region, self.tried) = (region, None);
        (self.has_stood, self.away_since) = (false, region.map(|_| now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(now: Instant) -> Home {
        let mut home = Home::default();
        home.set_regions(vec![7, 8, 9], now);
        home
    }

    #[test]
    fn a_home_is_told_once_its_relay_has_us_or_does_not_come() {
        let now = Instant::now();
        let mut home = home(now);

        assert_eq!((home.region(), home.told(now)), (Some(7), None));
        assert_eq!(home.next_tick(now), Some(now + AWAY));
        assert_eq!(home.told(now + AWAY), Some(7));
        home.connected(7, now);
        assert_eq!((home.told(now), home.next_tick(now)), (Some(7), None));
        // Others keep what they know while it is dialled again.
        home.lost(7, now);
        assert_eq!(home.told(now), Some(7));
    }

    #[test]
    fn a_home_that_is_away_is_left_for_one_that_is_there_once_others_can_be_told() {
        let now = Instant::now();
        let mut home = home(now);
        home.connected(7, now);
        home.lost(7, now);
        let later = now + AWAY;

        assert_eq!(home.next_to_try(later), None, "nobody can be told");
        home.connected(8, later);
        assert_eq!(home.region(), Some(7));
        home.set_coordinated(true);
        assert_eq!(home.next_tick(later), Some(later));
        assert_eq!(home.next_to_try(later), Some(8));
        assert_eq!(home.next_to_try(later), None, "one at a time");
        let later = later + AWAY;
        assert_eq!(home.next_to_try(later), Some(9));
        home.connected(9, later);

        assert_eq!((home.region(), home.told(later)), (Some(9), Some(9)));
        assert_eq!(home.next_tick(later), None);
    }

    #[test]
    fn a_home_that_is_back_in_time_stays() {
        let now = Instant::now();
        let mut home = home(now);
        home.set_coordinated(true);
        home.connected(7, now);
        home.lost(7, now);
        assert_eq!(home.next_to_try(now + AWAY / 2), None);
        home.connected(7, now + AWAY / 2);

        assert_eq!(home.next_to_try(now + AWAY), None);
        home.connected(8, now + AWAY);
        assert_eq!(home.region(), Some(7));
        home.set_regions(vec![8, 7], now);
        assert_eq!(home.region(), Some(7), "a map that has it changes nothing");
        home.set_regions(vec![8], now);
        assert_eq!((home.region(), home.told(now)), (Some(8), None));
    }

    #[test]
    fn whoever_has_one_region_tries_no_other() {
        let now = Instant::now();
        let mut home = Home::default();
        home.set_regions(vec![7], now);
        home.set_coordinated(true);

        assert_eq!(home.next_to_try(now + AWAY), None);
        assert_eq!(home.next_tick(now + AWAY), None);
    }
}
