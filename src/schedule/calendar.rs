//! Minutes of the calendar, and when the next of them is in a time zone.
//!
//! What the clock skips or repeats (daylight saving) is settled here. A calendar that names hours means times of
//! a day: one that falls into a gap comes at the gap's end, and one that happens twice counts the first time. A
//! calendar of every hour means steps of time: nothing is added at a gap, and it goes on through a repeated hour.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};

/// How far ahead is looked. The rarest date, 29 February, is missing for eight years around 2100, and one that
/// must also be a certain weekday cannot be written.
const YEARS_AHEAD: i64 = 10;

/// The minutes whose hour, day, month and weekday are all among those named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calendar {
    /// Bits 0 to 59.
    pub minutes: u64,
    /// Bits 0 to 23.
    pub hours: u64,
    /// Days of the month: bits 1 to 31.
    pub days: u64,
    /// Whether also the last day of a month counts.
    pub last_day: bool,
    /// Bits 1 to 12.
    pub months: u64,
    /// Bits 0, for Sunday, to 6.
    pub weekdays: u64,
}

/// The bits `low` to `high`.
pub(super) const fn bits(low: u8, high: u8) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// The numbers in `set`, from the lowest.
pub(super) fn members(set: u64) -> impl Iterator<Item = u8> {
    (0..64).filter(move |&bit| set >> bit & 1 == 1)
}

/// The lowest number in `set` that is not below `from`.
fn lowest(set: u64, from: i8) -> Option<i8> {
    let rest = u8::try_from(from).ok().and_then(|from| u64::MAX.checked_shl(from.into())).unwrap_or(0) & set;
    // At most 63, which it is for no set of hours or minutes.
    (rest != 0).then(|| rest.trailing_zeros() as i8)
}

impl Calendar {
    /// Every minute.
    pub const ALWAYS: Self = Self {
        minutes: bits(0, 59),
        hours: bits(0, 23),
        days: bits(1, 31),
        last_day: false,
        months: bits(1, 12),
        weekdays: bits(0, 6),
    };

    /// Every midnight.
    pub const MIDNIGHT: Self = Self { minutes: 1, hours: 1, ..Self::ALWAYS };

    /// The first of these minutes after `after`; `None` where none comes within ten years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut offset = zone.to_offset(after);
        let mut from = whole_minute_after(offset.to_datetime(after))?;
        let horizon = from.checked_add(Span::new().years(YEARS_AHEAD)).ok()?;
        let mut transitions = zone.following(after);
        // Between two transitions the clock goes steadily.
        loop {
            let transition = transitions.next();
            let end = transition.as_ref().map_or(horizon, |next| offset.to_datetime(next.timestamp()));
            let until = end.min(horizon);
            while let Some(found) = self.first(from, until) {
                if self.is_every_hour() || !is_second_time(found, offset, zone) {
                    return offset.to_timestamp(found).ok();
                }
                from = whole_minute_after(found)?;
            }
            let transition = transition.filter(|_| end < horizon)?;
            offset = transition.offset();
            let resumed = offset.to_datetime(transition.timestamp());
            if !self.is_every_hour() && self.first(end, resumed).is_some() {
                return Some(transition.timestamp());
            }
            from = whole_minute(resumed)?;
        }
    }

    fn is_every_hour(&self) -> bool {
        self.hours == bits(0, 23)
    }

    /// The first of these minutes at or after `from` and before `until`, as the calendar on the wall goes.
    fn first(&self, from: DateTime, until: DateTime) -> Option<DateTime> {
        let from = whole_minute(from)?;
        let (mut date, mut start) = (from.date(), from.time());
        while date.to_datetime(start) < until {
            if self.has_day(date)
                && let Some(time) = self.first_time(start)
            {
                return Some(date.to_datetime(time)).filter(|found| *found < until);
            }
            date = date.tomorrow().ok()?;
            start = Time::midnight();
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let has = |set: u64, number: i8| set >> number & 1 == 1;
        has(self.months, date.month())
            && has(self.weekdays, date.weekday().to_sunday_zero_offset())
            && (has(self.days, date.day()) || (self.last_day && date.day() == date.days_in_month()))
    }

    /// The first time of a day, at or after `start`, which is a whole minute.
    fn first_time(&self, start: Time) -> Option<Time> {
        let hour = lowest(self.hours, start.hour())?;
        let first_minute = if hour == start.hour() { start.minute() } else { 0 };
        match lowest(self.minutes, first_minute) {
            Some(minute) => Time::new(hour, minute, 0, 0).ok(),
            None => Time::new(lowest(self.hours, hour + 1)?, lowest(self.minutes, 0)?, 0, 0).ok(),
        }
    }
}

/// Whether `time` at `offset` is the second of two equal ones.
fn is_second_time(time: DateTime, offset: Offset, zone: &TimeZone) -> bool {
    let read = zone.to_ambiguous_timestamp(time).offset();
    matches!(read, AmbiguousOffset::Fold { before, after } if before != offset && after == offset)
}

/// `time`, or the first whole minute after it.
fn whole_minute(time: DateTime) -> Option<DateTime> {
    if time.second() == 0 && time.subsec_nanosecond() == 0 { Some(time) } else { whole_minute_after(time) }
}

fn whole_minute_after(time: DateTime) -> Option<DateTime> {
    let start = time.with().second(0).subsec_nanosecond(0).build().ok()?;
    start.checked_add(SignedDuration::from_mins(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_of_bits() {
        assert_eq!(bits(0, 0), 1);
        assert_eq!(bits(0, 63), u64::MAX);
        assert_eq!(bits(1, 3), 0b1110);
        assert_eq!(members(0b1010_0001).collect::<Vec<_>>(), [0, 5, 7]);
        assert_eq!(lowest(0b1010_0001, 1), Some(5));
        assert_eq!(lowest(0b1010_0001, 8), None);
        assert_eq!(lowest(u64::MAX, 64), None);
    }

    #[test]
    fn the_first_time_of_a_day_is_at_or_after_the_start() {
        let calendar = Calendar { minutes: 1 << 15 | 1 << 45, hours: 1 << 3 | 1 << 22, ..Calendar::ALWAYS };
        let first = |hour, minute| {
            let found = calendar.first_time(Time::constant(hour, minute, 0, 0));
            found.map(|time| (time.hour(), time.minute()))
        };
        assert_eq!(first(0, 0), Some((3, 15)));
        assert_eq!(first(3, 15), Some((3, 15)));
        assert_eq!(first(3, 16), Some((3, 45)));
        assert_eq!(first(3, 46), Some((22, 15)));
        assert_eq!(first(22, 46), None);
        assert_eq!(first(23, 0), None);
    }

    #[test]
    fn the_end_of_the_calendar_is_no_next_minute() {
        assert_eq!(Calendar::ALWAYS.next(Timestamp::MAX, &TimeZone::UTC), None);
    }

    #[test]
    fn a_day_that_the_zone_skips_runs_when_the_next_begins() {
        // Samoa went over the date line: after 29 December 2011 came the 31st.
        let Ok(zone) = TimeZone::get("Pacific/Apia") else { return };
        let noon = Calendar { hours: 1 << 12, ..Calendar::MIDNIGHT };
        let after = "2011-12-29T12:00:00-10:00".parse().unwrap();
        let next = noon.next(after, &zone).unwrap();
        assert_eq!(next.to_string(), "2011-12-30T10:00:00Z");
        assert_eq!(noon.next(next, &zone).unwrap().to_string(), "2011-12-30T22:00:00Z");
    }
}
