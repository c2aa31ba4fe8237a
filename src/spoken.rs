//! Times, and sizes, as people say them.
//!
//! [`parse`] is a pure function of the text and of "now", which carries the time zone: a day begins and a
//! clock shows what it does there. Every form that works is in [`FORMS`], which the error repeats. A clock
//! time that the zone skips or repeats (daylight saving) is resolved as RFC 5545 does: the earlier of two,
//! the later side of a gap.
//!
//! A text is as exact as it is written. [`parse`] gives the beginning of what it means, and [`parse_range`] all of
//! it: a day, a minute, a second. So a time that [`local`] prints to the second means the instant that it was
//! printed of, too.
//!
//! ```
//! let now: jiff::Zoned = "2026-11-20T19:55:12+01:00[+01:00]".parse()?;
//! let midnight = treering::spoken::parse("midnight yesterday", &now)?;
//! assert_eq!(midnight.to_string(), "2026-11-18T23:00:00Z");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::time::SystemTime;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

/// The forms that work, by example.
pub const FORMS: &str = "now, today, yesterday, midnight, noon yesterday, 14:00, 2pm, tuesday, last tuesday 14:00, \
    3h ago, 2 days ago, 1 month 2 days ago, 2026-11-01, 2026-11-01 14:00, 2026-11-01T14:00:30.5, \
    2026-11-01T14:00:30+01:00, @1700000000 (seconds since 1970), @-0.5";

/// A number of bytes: digits, and perhaps `K`, `M`, `G` or `T` behind them for powers of 1024. `None` for
/// anything else, and for more than 64 bits hold.
pub fn parse_size(text: &str) -> Option<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Why text is not a time.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpokenError {
    /// It has none of the known forms.
    #[error("{text:?} is not a time that is understood; these are: {FORMS}")]
    Unknown {
        /// The text as given.
        text: String,
    },
    /// It has a known form, but the calendar ends before it.
    #[error("the time {text:?} is out of range: the calendar goes from -9999-01-02 to 9999-12-30 22:00 UTC")]
    OutOfRange {
        /// The text as given.
        text: String,
    },
}

/// All that a text means, from its first instant to its last one. Both are the same where it names an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRange {
    /// The first instant.
    pub first: Zoned,
    /// The last one.
    pub last: Zoned,
}

/// How exactly a text names a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    Instant,
    Second,
    Minute,
    Day,
}

/// The time that the clock of this machine shows. A clock that is set beyond the calendar stands at its end: what it
/// shows is wrong anyway, and must not keep anybody from making or reading backups.
pub fn clock() -> Timestamp {
    from_clock(SystemTime::now())
}

fn from_clock(time: SystemTime) -> Timestamp {
    let end = if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(time).unwrap_or(end)
}

/// The instant that `text` means when it is said at `now`, or the first one; letter case and spacing aside.
///
/// A day alone means its first instant; a clock time alone means today's; a bare weekday is the latest one,
/// today included, and `last tuesday` the latest before today.
pub fn parse(text: &str, now: &Zoned) -> Result<Timestamp, SpokenError> {
    parse_precise(text, now).map(|(time, _)| time)
}

/// What [`parse`] reads, up to the end of what it means: a day without a time of day lasts until the next one,
/// hours and minutes mean a minute, and seconds without a fraction a second.
pub fn parse_range(text: &str, now: &Zoned) -> Result<TimeRange, SpokenError> {
    let (time, precision) = parse_precise(text, now)?;
    let first = time.to_zoned(now.time_zone().clone());
    let next = match precision {
        Precision::Instant => return Ok(TimeRange { last: first.clone(), first }),
        Precision::Second => first.checked_add(SignedDuration::from_secs(1)),
        Precision::Minute => first.checked_add(SignedDuration::from_mins(1)),
        Precision::Day => first.date().tomorrow().and_then(|day| day.to_zoned(first.time_zone().clone())),
    };
    // The calendar may end before.
    let last = next.and_then(|next| next.checked_sub(SignedDuration::from_nanos(1)));
    let last = last.unwrap_or_else(|_| Timestamp::MAX.to_zoned(first.time_zone().clone()));
    Ok(TimeRange { first, last })
}

/// A time in `zone` to the second, with its offset: `2026-11-01 14:00:30+01:00`, which [`parse_range`] reads.
pub fn local(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

fn parse_precise(text: &str, now: &Zoned) -> Result<(Timestamp, Precision), SpokenError> {
    let words = text.trim();
    if let Ok(time) = words.parse::<Timestamp>() {
        let clock = words.split_once(['T', 't', ' ']).map_or("", |(_, clock)| clock);
        return Ok((time, clock_precision(clock)));
    }
    let words = words.to_lowercase();
    let found = match words.strip_prefix('@') {
        Some(seconds) => unix_seconds(seconds),
        None if words == "now" => Some(Ok((now.timestamp(), Precision::Instant))),
        None => ago(&words, now).or_else(|| civil(&words, now)),
    };
    match found {
        Some(Ok(found)) => Ok(found),
        // What the calendar says of it are numbers of its own.
        Some(Err(_)) => Err(SpokenError::OutOfRange { text: text.to_owned() }),
        None => Err(SpokenError::Unknown { text: text.to_owned() }),
    }
}

/// How exact a time of day is, as it is written; an offset may follow.
fn clock_precision(clock: &str) -> Precision {
    let clock = clock.trim();
    let end = clock.find(|c: char| !c.is_ascii_digit() && !":.,".contains(c)).unwrap_or(clock.len());
    let clock = clock.get(..end).unwrap_or(clock);
    let digits = clock.bytes().filter(u8::is_ascii_digit).count();
    match clock.contains(['.', ',']) {
        true => Precision::Instant,
        // Also without colons, as in 140030.
        false if digits > 4 => Precision::Second,
        false => Precision::Minute,
    }
}

/// `None` when the text has another form; an error when it has this one and the calendar ends before it.
type Found = Option<Result<(Timestamp, Precision), jiff::Error>>;

fn unix_seconds(text: &str) -> Found {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |digits: &str, longest| {
        let is_number =
            (1..=longest).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then(|| digits.parse::<i128>().ok()).flatten()
    };
    // 18 digits are beyond the calendar already, and far from what the arithmetic holds.
    let nanoseconds = number(whole, 18)? * 1_000_000_000 + number(&format!("{fraction:0<9}"), 9)?;
    let time = Timestamp::from_nanosecond(if negative { -nanoseconds } else { nanoseconds });
    let precision = if digits.contains('.') { Precision::Instant } else { Precision::Second };
    Some(time.map(|time| (time, precision)))
}

fn ago(words: &str, now: &Zoned) -> Found {
    let amount = words.strip_suffix("ago")?.trim();
    let amount = match amount.split_once(' ') {
        Some(("a" | "an", unit)) => format!("1 {unit}"),
        _ => amount.to_owned(),
    };
    // A sign, or the `P1D` of ISO 8601, is not how people say it.
    if !amount.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let span: Span = amount.parse().ok()?;
    Some(now.checked_sub(span).map(|then| (then.timestamp(), Precision::Instant)))
}

/// A day, a time of day, or both in either order.
fn civil(words: &str, now: &Zoned) -> Found {
    let today = now.date();
    if let Some((both, precision)) = date_time(words) {
        let then = both.to_zoned(now.time_zone().clone());
        return Some(then.map(|then| (then.timestamp(), precision)));
    }
    let mut words = words.split_whitespace().filter(|&word| word != "at").peekable();
    words.peek()?;
    let (mut day, mut clock) = (None, None);
    let mut precision = Precision::Day;
    while let Some(word) = words.next() {
        let is_new = if let Some(time) = time_of_day(word) {
            precision = clock_precision(word);
            clock.replace(time).is_none()
        } else if word == "last" {
            let weekday = weekday(words.next()?)?;
            day.replace(today.nth_weekday(-1, weekday)).is_none()
        } else {
            day.replace(named_day(word, today)?).is_none()
        };
        if !is_new {
            return None;
        }
    }
    let zone = now.time_zone().clone();
    let then = day.unwrap_or(Ok(today)).and_then(|day| match clock.unwrap_or(Clock::Start) {
        Clock::Start => day.to_zoned(zone),
        Clock::At(time) => day.to_datetime(time).to_zoned(zone),
    });
    Some(then.map(|then| (then.timestamp(), precision)))
}

/// When in a day: a zone may skip midnight, so a day's start is not always 0:00.
#[derive(Clone, Copy)]
enum Clock {
    Start,
    At(Time),
}

fn named_day(word: &str, today: Date) -> Option<Result<Date, jiff::Error>> {
    match word {
        "today" => Some(Ok(today)),
        "yesterday" => Some(today.yesterday()),
        "tomorrow" => Some(today.tomorrow()),
        _ if word.contains('-') => word.parse().ok().map(Ok),
        _ => {
            let weekday = weekday(word)?;
            if today.weekday() == weekday { Some(Ok(today)) } else { Some(today.nth_weekday(-1, weekday)) }
        }
    }
}

fn weekday(word: &str) -> Option<Weekday> {
    match word {
        "monday" | "mon" => Some(Weekday::Monday),
        "tuesday" | "tue" => Some(Weekday::Tuesday),
        "wednesday" | "wed" => Some(Weekday::Wednesday),
        "thursday" | "thu" => Some(Weekday::Thursday),
        "friday" | "fri" => Some(Weekday::Friday),
        "saturday" | "sat" => Some(Weekday::Saturday),
        "sunday" | "sun" => Some(Weekday::Sunday),
        _ => None,
    }
}

fn time_of_day(word: &str) -> Option<Clock> {
    match word {
        "midnight" => return Some(Clock::Start),
        "noon" => return Time::new(12, 0, 0, 0).ok().map(Clock::At),
        _ => {}
    }
    let (clock, half) = match (word.strip_suffix("am"), word.strip_suffix("pm")) {
        (Some(clock), _) => (clock, Some(0)),
        (_, Some(clock)) => (clock, Some(12)),
        _ => (word, None),
    };
    if !clock.starts_with(|first: char| first.is_ascii_digit()) || clock.contains('-') {
        return None;
    }
    let (hour, rest) = match clock.split_once(':') {
        Some((hour, rest)) => (hour, rest),
        None if half.is_some() => (clock, "00"),
        None => return None,
    };
    let hour: u8 = hour.parse().ok()?;
    let hour = match half {
        None => hour,
        Some(half) if (1..=12).contains(&hour) => hour % 12 + half,
        Some(_) => return None,
    };
    format!("{hour:02}:{rest}").parse().ok().map(Clock::At)
}

/// A date and a time joined by `t`. What has an offset came earlier if it was valid; `jiff` would ignore it
/// here.
fn date_time(words: &str) -> Option<(DateTime, Precision)> {
    let (date, time) = words.split_once('t')?;
    let is_plain = date.contains('-') && time.contains(':') && !time.contains(['+', '-', '[', 'z']);
    if is_plain { Some((words.parse().ok()?, clock_precision(time))) } else { None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [("0", 0), ("123", 123), ("4K", 4096), ("1G", 1 << 30), ("2T", 2 << 40)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "K", "1.5G", "-1", "1GB", "99999999T"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    /// An instant in a time zone that is given by its rules, since not every machine has the names of zones.
    fn local(time: &str, rules: &str) -> Zoned {
        time.parse::<DateTime>().unwrap().to_zoned(TimeZone::posix(rules).unwrap()).unwrap()
    }

    /// A Friday in Berlin.
    fn now() -> Zoned {
        local("2026-11-20T19:55:12.123456789", "CET-1CEST,M3.5.0,M10.5.0/3")
    }

    #[track_caller]
    fn means(text: &str, expected: &str) {
        let time = parse(text, &now()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(time.to_string(), expected, "{text}");
    }

    #[test]
    fn understands_every_form_of_its_list() {
        for form in FORMS.split(", ") {
            let form = form.split(" (").next().unwrap();
            assert!(parse(form, &now()).is_ok(), "{form}");
        }
    }

    #[test]
    fn knows_the_days_near_now() {
        means("now", "2026-11-20T18:55:12.123456789Z");
        means("Today", "2026-11-19T23:00:00Z");
        means("yesterday", "2026-11-18T23:00:00Z");
        means("tomorrow", "2026-11-20T23:00:00Z");
        means("midnight", "2026-11-19T23:00:00Z");
        means(" midnight  yesterday ", "2026-11-18T23:00:00Z");
        means("yesterday midnight", "2026-11-18T23:00:00Z");
        means("noon", "2026-11-20T11:00:00Z");
        means("noon yesterday", "2026-11-19T11:00:00Z");
        means("yesterday at 14:00", "2026-11-19T13:00:00Z");
    }

    #[test]
    fn knows_weekdays() {
        means("friday", "2026-11-19T23:00:00Z");
        means("last friday", "2026-11-12T23:00:00Z");
        means("last tuesday 14:00", "2026-11-17T13:00:00Z");
        means("Tue 14:00:30.5", "2026-11-17T13:00:30.5Z");
        means("sat", "2026-11-13T23:00:00Z");
    }

    #[test]
    fn knows_what_is_ago() {
        means("3h ago", "2026-11-20T15:55:12.123456789Z");
        means("2 days ago", "2026-11-18T18:55:12.123456789Z");
        means("an hour ago", "2026-11-20T17:55:12.123456789Z");
        means("1 month 2 days ago", "2026-10-18T17:55:12.123456789Z");
        means("2d12h ago", "2026-11-18T06:55:12.123456789Z");
    }

    #[test]
    fn knows_clocks() {
        means("14:00", "2026-11-20T13:00:00Z");
        means("9:05", "2026-11-20T08:05:00Z");
        means("2pm", "2026-11-20T13:00:00Z");
        means("12am", "2026-11-19T23:00:00Z");
        means("12:30pm", "2026-11-20T11:30:00Z");
    }

    #[test]
    fn knows_written_times() {
        means("2026-11-01", "2026-10-31T23:00:00Z");
        means("2026-11-01 14:00", "2026-11-01T13:00:00Z");
        means("2026-11-01 14:00:30", "2026-11-01T13:00:30Z");
        means("2026-11-01T14:00:30.000000001", "2026-11-01T13:00:30.000000001Z");
        means("2026-11-01T14:00:30Z", "2026-11-01T14:00:30Z");
        means("2026-11-01t14:00:30-05:00", "2026-11-01T19:00:30Z");
        means("1969-12-31 12:00", "1969-12-31T11:00:00Z");
    }

    #[test]
    fn knows_unix_seconds_before_and_after_1970() {
        means("@1700000000", "2023-11-14T22:13:20Z");
        means("@0", "1970-01-01T00:00:00Z");
        means("@-1.5", "1969-12-31T23:59:58.5Z");
        means("@-86400", "1969-12-31T00:00:00Z");
        means("@1.000000001", "1970-01-01T00:00:01.000000001Z");
    }

    #[test]
    fn a_day_starts_when_its_zone_says() {
        let now = local("2018-11-04T12:00:00", "BRT3BRST,M11.1.0/0,M2.3.0/0");
        let start = parse("midnight", &now).unwrap();
        assert_eq!(start.to_string(), "2018-11-04T03:00:00Z", "the clock went from 0:00 to 1:00");
    }

    #[test]
    fn a_text_lasts_as_long_as_it_is_exact() {
        let lasts = |text: &str, first: &str, last: &str| {
            let range = parse_range(text, &now()).unwrap();
            let ends = [range.first, range.last].map(|end| end.timestamp().to_string());
            assert_eq!(ends, [first, last], "{text}");
        };
        lasts("2026-11-01", "2026-10-31T23:00:00Z", "2026-11-01T22:59:59.999999999Z");
        lasts("2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59.999999999Z");
        lasts("today", "2026-11-19T23:00:00Z", "2026-11-20T22:59:59.999999999Z");
        lasts("tuesday", "2026-11-16T23:00:00Z", "2026-11-17T22:59:59.999999999Z");
        lasts("2026-11-01 14:00", "2026-11-01T13:00:00Z", "2026-11-01T13:00:59.999999999Z");
        lasts("2026-11-01T14:00", "2026-11-01T13:00:00Z", "2026-11-01T13:00:59.999999999Z");
        lasts("2pm", "2026-11-20T13:00:00Z", "2026-11-20T13:00:59.999999999Z");
        lasts("midnight", "2026-11-19T23:00:00Z", "2026-11-19T23:00:59.999999999Z");
        lasts("14:00:30 yesterday", "2026-11-19T13:00:30Z", "2026-11-19T13:00:30.999999999Z");
        lasts("2026-11-01T14:00:30", "2026-11-01T13:00:30Z", "2026-11-01T13:00:30.999999999Z");
        lasts("2026-11-01T14:00:30Z", "2026-11-01T14:00:30Z", "2026-11-01T14:00:30.999999999Z");
        lasts("2026-11-01 14:00:30+05:30", "2026-11-01T08:30:30Z", "2026-11-01T08:30:30.999999999Z");
        lasts("2026-11-01T14:00+01:00", "2026-11-01T13:00:00Z", "2026-11-01T13:00:59.999999999Z");
        lasts("@1700000000", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20.999999999Z");
        for instant in ["now", "3h ago", "2 days ago", "@1.5", "14:00:30.5", "2026-11-01T14:00:30.5Z"] {
            let range = parse_range(instant, &now()).unwrap();
            assert_eq!(range.first, range.last, "{instant}");
        }
        lasts("9999-12-30", "9999-12-29T23:00:00Z", &Timestamp::MAX.to_string());
    }

    #[test]
    fn refuses_the_rest_and_says_what_works() {
        let bad = [
            "",
            " ",
            "at",
            "soon",
            "last",
            "last week day",
            "yesterday today",
            "14:00 15:00",
            "25:00",
            "13pm",
            "0am",
            "2026-02-30",
            "2026-13-01",
            "20261101",
            "ago",
            "-2 days ago",
            "p1d ago",
            "2 ago",
            "@",
            "@-",
            "@1e9",
            "2026-11-01T14:00-99:00",
            "@1.0000000001",
            "@--1",
            "1700000000",
            "now yesterday",
            "today now",
        ];
        for text in bad {
            let error = parse(text, &now()).expect_err(text);
            assert!(error.to_string().contains("2 days ago"), "{text:?}: {error}");
        }
    }

    #[test]
    fn tells_a_time_beyond_the_calendar_from_a_wrong_form() {
        for text in ["@999999999999999999", "19000 years ago", "9999-12-31"] {
            let error = parse(text, &now()).expect_err(text);
            assert!(matches!(error, SpokenError::OutOfRange { .. }), "{text:?}: {error}");
            assert!(std::error::Error::source(&error).is_none(), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_clock_beyond_the_calendar_stands_at_its_end() {
        let beyond = Duration::from_secs(400_000_000_000);
        assert_eq!(from_clock(SystemTime::UNIX_EPOCH + beyond), Timestamp::MAX);
        assert_eq!(from_clock(SystemTime::UNIX_EPOCH - beyond), Timestamp::MIN);
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(from_clock(second), Timestamp::from_second(1).unwrap());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|[0-9apmt:@. -]{0,20}|(last|[0-9]{1,6}|day|year|ago|noon|[0-9-]{8,10}| ){1,6}") {
            if let Ok(range) = parse_range(&text, &now()) {
                prop_assert!(range.first <= range.last);
            }
        }

        /// Also in the hour that a zone goes through twice.
        #[test]
        fn a_printed_time_means_the_instant_that_it_was_printed_of(nanoseconds in -62_000_000_000_000_000_000i128..253_402_207_200_999_999_999) {
            let time = Timestamp::from_nanosecond(nanoseconds).unwrap();
            let range = parse_range(&super::local(time, now().time_zone()), &now()).unwrap();
            prop_assert!(range.first.timestamp() <= time && time <= range.last.timestamp());
        }

        #[test]
        fn reads_back_what_a_timestamp_prints(nanoseconds in -62_000_000_000_000_000_000i128..250_000_000_000_000_000_000) {
            let time = Timestamp::from_nanosecond(nanoseconds).unwrap();
            prop_assert_eq!(parse(&time.to_string(), &now()).unwrap(), time);
        }
    }
}
