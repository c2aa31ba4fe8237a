//! Times, and sizes, as people say them.
//!
//! [`parse`] is a pure function of the text and of "now", which carries the time zone: a day begins and a
//! clock shows what it does there. Every form that works is in [`FORMS`], which the error repeats. A clock
//! time that the zone skips or repeats (daylight saving) is resolved as RFC 5545 does: the earlier of two,
//! the later side of a gap.
//!
//! ```
//! let now: jiff::Zoned = "2026-11-20T19:55:12+01:00[+01:00]".parse()?;
//! let midnight = treering::spoken::parse("midnight yesterday", &now)?;
//! assert_eq!(midnight.to_string(), "2026-11-18T23:00:00Z");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::{Span, Timestamp, Zoned};

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
    /// It has a known form, but lies too far from now to be told.
    #[error("the time {text:?} lies outside the years -9999 to 9999")]
    OutOfRange {
        /// The text as given.
        text: String,
        /// What the calendar said.
        source: jiff::Error,
    },
}

/// The instant that `text` means when it is said at `now`; to the nanosecond, letter case and spacing aside.
///
/// A day alone means its first instant; a clock time alone means today's; a bare weekday is the latest one,
/// today included, and `last tuesday` the latest before today.
pub fn parse(text: &str, now: &Zoned) -> Result<Timestamp, SpokenError> {
    let words = text.trim();
    if let Ok(time) = words.parse::<Timestamp>() {
        return Ok(time);
    }
    let words = words.to_lowercase();
    let found = match words.strip_prefix('@') {
        Some(seconds) => unix_seconds(seconds),
        None if words == "now" => Some(Ok(now.timestamp())),
        None => ago(&words, now).or_else(|| civil(&words, now)),
    };
    match found {
        Some(Ok(time)) => Ok(time),
        Some(Err(source)) => Err(SpokenError::OutOfRange { text: text.to_owned(), source }),
        None => Err(SpokenError::Unknown { text: text.to_owned() }),
    }
}

/// `None` when the text has another form; an error when it has this one and the calendar ends before it.
type Found = Option<Result<Timestamp, jiff::Error>>;

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
    Some(Timestamp::from_nanosecond(if negative { -nanoseconds } else { nanoseconds }))
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
    Some(now.checked_sub(span).map(|then| then.timestamp()))
}

/// A day, a time of day, or both in either order.
fn civil(words: &str, now: &Zoned) -> Found {
    let today = now.date();
    if let Some(both) = date_time(words) {
        return Some(both.to_zoned(now.time_zone().clone()).map(|then| then.timestamp()));
    }
    let mut words = words.split_whitespace().filter(|&word| word != "at").peekable();
    words.peek()?;
    let (mut day, mut clock) = (None, None);
    while let Some(word) = words.next() {
        let is_new = if let Some(time) = time_of_day(word) {
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
    Some(then.map(|then| then.timestamp()))
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
fn date_time(words: &str) -> Option<DateTime> {
    let (date, time) = words.split_once('t')?;
    let is_plain = date.contains('-') && time.contains(':') && !time.contains(['+', '-', '[', 'z']);
    if is_plain { words.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
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
        for text in ["@999999999999999999", "19000 years ago"] {
            let error = parse(text, &now()).expect_err(text);
            assert!(matches!(error, SpokenError::OutOfRange { .. }), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|[0-9apmt:@. -]{0,20}|(last|[0-9]{1,6}|day|year|ago|noon|[0-9-]{8,10}| ){1,6}") {
            let _ = parse(&text, &now());
        }

        #[test]
        fn reads_back_what_a_timestamp_prints(nanoseconds in -62_000_000_000_000_000_000i128..250_000_000_000_000_000_000) {
            let time = Timestamp::from_nanosecond(nanoseconds).unwrap();
            prop_assert_eq!(parse(&time.to_string(), &now()).unwrap(), time);
        }
    }
}
