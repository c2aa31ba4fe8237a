//! Names that sort as the times they carry.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// An instant and what tells apart the blobs of that instant.
///
/// Its text has one form and one length, `20261120T195512.123456789Z-5f0c11ab92de7340`: the proleptic
/// Gregorian date and time in UTC to the nanosecond, and a sequence number in hexadecimal. Texts sort as keys
/// do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeKey {
    time: Timestamp,
    sequence: u64,
}

/// Why there is no such key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TimeKeyError {
    /// The text is not a key in its one form.
    #[error("{0:?} is not a time key; one looks like 20261120T195512.123456789Z-5f0c11ab92de7340")]
    Syntax(String),
    /// The time does not fit four digits of a year.
    #[error("the time {0} lies outside the years 0000 to 9999")]
    Year(Timestamp),
    /// Too many blobs have this very time.
    #[error("no further blob fits the time {0}")]
    Exhausted(Timestamp),
}

impl TimeKey {
    /// The length of every key's text, in bytes.
    pub const LEN: usize = 43;

    /// The key of `time` with a given sequence number; [`TimeKeys`] gives ones that nobody else has.
    pub fn new(time: Timestamp, sequence: u64) -> Result<Self, TimeKeyError> {
        match civil(time).year() {
            0.. => Ok(Self { time, sequence }),
            _ => Err(TimeKeyError::Year(time)),
        }
    }

    /// The instant.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// What orders the keys of one instant.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The key's directory below its kind: `2026/11/20`.
    pub(super) fn day(&self) -> String {
        let day = civil(self.time);
        format!("{:04}/{:02}/{:02}", day.year(), day.month(), day.day())
    }
}

fn civil(time: Timestamp) -> DateTime {
    Offset::UTC.to_datetime(time)
}

impl fmt::Display for TimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = civil(self.time);
        write!(f, "{:04}{:02}{:02}", time.year(), time.month(), time.day())?;
        write!(f, "T{:02}{:02}{:02}", time.hour(), time.minute(), time.second())?;
        write!(f, ".{:09}Z-{:016x}", time.subsec_nanosecond(), self.sequence)
    }
}

impl FromStr for TimeKey {
    type Err = TimeKeyError;

    fn from_str(text: &str) -> Result<Self, TimeKeyError> {
        let key = parse(text).and_then(|(time, sequence)| Self::new(time, sequence).ok());
        // A time such as 23:59:60 would be read as another one; only what is printed is a key.
        key.filter(|key| key.to_string() == text).ok_or_else(|| TimeKeyError::Syntax(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<(Timestamp, u64)> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse().ok();
    let narrow = |from, to| number(from, to).and_then(|value: i32| i8::try_from(value).ok());
    let year = i16::try_from(number(0, 4)?).ok()?;
    let (month, day) = (narrow(4, 6)?, narrow(6, 8)?);
    let (hour, minute, second) = (narrow(9, 11)?, narrow(11, 13)?, narrow(13, 15)?);
    let time = DateTime::new(year, month, day, hour, minute, second, number(16, 25)?).ok()?;
    let sequence = u64::from_str_radix(text.get(27..)?, 16).ok()?;
    Some((Offset::UTC.to_timestamp(time).ok()?, sequence))
}

/// Gives keys that no other process gives, and that keep the order in which they were asked for.
///
/// Sequence numbers count up from a random 63-bit start, so the keys of one time from one source sort by
/// arrival.
#[derive(Debug)]
pub struct TimeKeys {
    next: AtomicU64,
}

impl TimeKeys {
    /// A source that begins where `random` bits say.
    pub fn new(random: u64) -> Self {
        Self { next: AtomicU64::new(random >> 1) }
    }

    /// A new key for `time`.
    pub fn key(&self, time: Timestamp) -> Result<TimeKey, TimeKeyError> {
        TimeKey::new(time, self.next.fetch_add(1, Relaxed))
    }

    /// A new key for the time of `last` that sorts after it, whoever gave it.
    ///
    /// `random` bits keep two processes that both follow `last` apart.
    pub fn key_after(&self, last: &TimeKey, random: u32) -> Result<TimeKey, TimeKeyError> {
        let least = last.sequence.checked_add(1).and_then(|next| next.checked_add(u64::from(random)));
        let least = least.filter(|&least| least < u64::MAX).ok_or(TimeKeyError::Exhausted(last.time))?;
        self.next.fetch_max(least, Relaxed);
        self.key(last.time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn prints_the_documented_form() {
        let key = TimeKey::new(time("2026-11-20T19:55:12.123456789Z"), 0x5f0c_11ab_92de_7340).unwrap();
        assert_eq!(key.to_string(), "20261120T195512.123456789Z-5f0c11ab92de7340");
        assert_eq!(key.to_string().len(), TimeKey::LEN);
        assert_eq!(key.day(), "2026/11/20");
    }

    #[test]
    fn sorts_years_before_1970_and_of_fewer_digits() {
        let times = [
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "0999-12-31T23:59:59.999999999Z",
            "1969-12-31T23:59:59.999999999Z",
            "1970-01-01T00:00:00Z",
            "9999-12-30T21:59:59Z",
        ];
        let texts = times.map(|text| TimeKey::new(time(text), 7).unwrap().to_string());
        assert!(texts.is_sorted());
        assert!(TimeKey::new(time("-000001-12-31T23:59:59Z"), 0).is_err());
    }

    #[test]
    fn keys_of_one_time_keep_their_order_of_arrival() {
        let keys = TimeKeys::new(u64::MAX);
        let (early, late) = (time("2026-01-01T00:00:00Z"), time("2026-01-02T00:00:00Z"));
        let first = keys.key(early).unwrap();
        let other = keys.key(late).unwrap();
        let second = keys.key(early).unwrap();
        assert!(first < second && second < other);
        let follower = TimeKeys::new(0).key_after(&second, 5).unwrap();
        assert!(follower > second && follower < other);
        let last = TimeKey::new(early, u64::MAX).unwrap();
        assert!(matches!(keys.key_after(&last, 0), Err(TimeKeyError::Exhausted(_))));
    }

    #[test]
    fn refuses_text_of_another_form() {
        for text in [
            "",
            "20261120T195512.123456789Z",
            "20261120T195512.123456789Z-",
            "20261120T195512.123456789Z-5f0c11ab92de734",
            "20261120T195512.123456789Z-5f0c11ab92de73400",
            "20261120T195512.123456789Z-5F0C11AB92DE7340",
            "20261120T195560.123456789Z-5f0c11ab92de7340",
            "20260230T195512.123456789Z-5f0c11ab92de7340",
            "+0261120T195512.123456789Z-5f0c11ab92de7340",
            "20261120 195512.123456789Z-5f0c11ab92de7340",
            "20261120T195512.12345678éZ-5f0c11ab92de7340",
        ] {
            assert!(matches!(text.parse::<TimeKey>(), Err(TimeKeyError::Syntax(_))), "{text}");
        }
    }

    fn keys() -> impl Strategy<Value = TimeKey> {
        let nanoseconds = -62_167_219_200_000_000_000i128..253_402_200_000_000_000_000;
        (nanoseconds, any::<u64>()).prop_map(|(at, sequence)| {
            TimeKey::new(Timestamp::from_nanosecond(at).unwrap(), sequence).unwrap()
        })
    }

    proptest! {
        #[test]
        fn reads_back_what_it_prints(key in keys()) {
            prop_assert_eq!(key.to_string().parse::<TimeKey>().unwrap(), key);
        }

        #[test]
        fn text_sorts_as_time_does(left in keys(), right in keys()) {
            prop_assert_eq!(left.cmp(&right), left.to_string().cmp(&right.to_string()));
        }

        #[test]
        fn parsing_never_panics(text in "[0-9]{8}T[0-9]{6}\\.[0-9]{9}Z-[0-9a-f]{16}|\\PC{0,50}") {
            if let Ok(key) = text.parse::<TimeKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
