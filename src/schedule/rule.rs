//! The text of a schedule, and the times that it means.
//!
//! Two ways to write one: as in a crontab (five fields, or `@daily` and its like), or in words. [`FORMS`] shows
//! all of the second kind, and the error repeats them. Times are those of the clock on the wall in a time zone
//! that comes in as an argument; only `every 90 seconds` and its like count time as it passes.
//!
//! The two crates that read crontabs well compute with `chrono`, and neither gives away the fields, which the
//! timers of systemd need. The grammar is shorter than the bridge would be.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::calendar::{Calendar, bits, members};

/// The forms that work, by example.
pub const FORMS: &str = "hourly; hourly at :15; daily; daily at 03:00; daily at 03:00, 15:30; weekdays at 18:00; \
    weekly on sunday at 04:00; weekly on mon, thu at 04:00; monthly on 1 at 04:00; monthly on 1, 15, last; \
    yearly; every 15 minutes; every 2 hours; as in a crontab: */15 * * * *; 0 3 * * mon-fri; @daily";

/// The longest step between two runs that are counted in time, in seconds.
const LONGEST_STEP: u64 = 366 * 24 * 3600;

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It has none of the known forms.
    #[error("{text:?} is not a schedule that is understood; these are: {FORMS}")]
    Unknown {
        /// The text as given.
        text: String,
    },
    /// A field of a crontab has a value that it cannot have.
    #[error("{value:?} is not a {field} in the schedule {text:?}: use numbers from {low} to {high}, or *")]
    Field {
        /// The text as given.
        text: String,
        /// The part of it that is wrong.
        value: String,
        /// What the field is called.
        field: &'static str,
        /// The smallest number that it may have.
        low: u8,
        /// The largest.
        high: u8,
    },
    /// No day is like that.
    #[error("the schedule {text:?} never comes: its months have no such day")]
    Never {
        /// The text as given.
        text: String,
    },
}

/// When something is to happen, again and again.
///
/// ```
/// use jiff::tz::TimeZone;
/// use treering::schedule::Rule;
///
/// let rule: Rule = "weekly on sunday at 04:00".parse()?;
/// let next = rule.next("2026-11-20T19:55:12Z".parse()?, &TimeZone::UTC).unwrap();
/// assert_eq!(next.to_string(), "2026-11-22T04:00:00Z");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule {
    text: String,
    times: Times,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Times {
    /// The minutes of any of these.
    Calendar(Vec<Calendar>),
    /// Each time that this many seconds have passed, counted from 1970.
    Every(u64),
}

impl Rule {
    /// The first time after `after` that the rule means, in `zone`; `None` where the calendar ends before it.
    ///
    /// A time of day that daylight saving skips comes at the end of the gap, and one that it repeats comes once,
    /// the first time. A rule for every hour follows the minutes of the clock through both.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.times {
            Times::Calendar(calendars) => {
                calendars.iter().filter_map(|calendar| calendar.next(after, zone)).min()
            }
            Times::Every(seconds) => {
                let step = i128::from(*seconds) * 1_000_000_000;
                let next = (after.as_nanosecond().div_euclid(step) + 1) * step;
                Timestamp::from_nanosecond(next).ok()
            }
        }
    }

    /// The lines that make a systemd timer elapse at these times.
    pub(super) fn timer_lines(&self) -> Vec<String> {
        match &self.times {
            Times::Calendar(calendars) => {
                calendars.iter().flat_map(on_calendar).map(|when| format!("OnCalendar={when}")).collect()
            }
            Times::Every(seconds) => {
                vec![format!("OnActiveSec={seconds}s"), format!("OnUnitActiveSec={seconds}s")]
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl std::str::FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let lower = text.to_lowercase().replace(',', ", ");
        let words: Vec<_> = lower.split_whitespace().collect();
        let unknown = || RuleError::Unknown { text: text.to_owned() };
        let times = match words.as_slice() {
            [name] if name.starts_with('@') => Times::Calendar(vec![nickname(name).ok_or_else(unknown)?]),
            [first, ..] if first.starts_with(|c: char| c == '*' || c.is_ascii_digit()) => {
                Times::Calendar(crontab(text)?)
            }
            ["every", step @ ..] => Times::Every(step_of(step).ok_or_else(unknown)?),
            words => Times::Calendar(in_words(words).ok_or_else(unknown)?),
        };
        let rule = Self { text: text.trim().to_owned(), times };
        // Every date that there is comes within these years.
        let start = Timestamp::from_second(946_684_800).unwrap_or_default();
        match rule.next(start, &TimeZone::UTC) {
            Some(_) => Ok(rule),
            None => Err(RuleError::Never { text: text.to_owned() }),
        }
    }
}

const SUNDAY: u64 = 1;
const MONDAY: u64 = 1 << 1;

fn nickname(name: &str) -> Option<Calendar> {
    const FIRST_DAY: Calendar = Calendar { days: 1 << 1, ..Calendar::MIDNIGHT };
    match name {
        "@hourly" => Some(Calendar { hours: bits(0, 23), ..Calendar::MIDNIGHT }),
        "@daily" | "@midnight" => Some(Calendar::MIDNIGHT),
        "@weekly" => Some(Calendar { weekdays: SUNDAY, ..Calendar::MIDNIGHT }),
        "@monthly" => Some(FIRST_DAY),
        "@yearly" | "@annually" => Some(Calendar { months: 1 << 1, ..FIRST_DAY }),
        _ => None,
    }
}

/// A number and a unit, in seconds.
fn step_of(words: &[&str]) -> Option<u64> {
    let (number, unit) = match words {
        [unit] => (1, unit),
        [number, unit] => (number.parse::<u64>().ok()?, unit),
        _ => return None,
    };
    let seconds = match unit.trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        _ => return None,
    };
    number.checked_mul(seconds).filter(|step| (1..=LONGEST_STEP).contains(step))
}

/// What is said after `on` and after `at`.
fn in_words(words: &[&str]) -> Option<Vec<Calendar>> {
    let (name, rest) = words.split_first()?;
    let (mut on, mut at) = (None, None);
    let mut rest = rest;
    while let Some((word, after)) = rest.split_first() {
        let slot = match *word {
            "on" if on.is_none() && at.is_none() => &mut on,
            "at" if at.is_none() => &mut at,
            _ => return None,
        };
        let length = after.iter().take_while(|word| !matches!(**word, "on" | "at")).count();
        let (list, next) = after.split_at(length);
        *slot = Some(list_of(list)?);
        rest = next;
    }
    let is_never_on = on.is_none();
    let base = match *name {
        "hourly" if is_never_on => {
            let hourly = Calendar { hours: bits(0, 23), ..Calendar::MIDNIGHT };
            let Some(minutes) = at else { return Some(vec![hourly]) };
            let minutes = set_of(&minutes, |word| number_in(word.strip_prefix(':')?, 0, 59))?;
            return Some(vec![Calendar { minutes, ..hourly }]);
        }
        "daily" if is_never_on => Calendar::MIDNIGHT,
        "weekdays" if is_never_on => Calendar { weekdays: bits(1, 5), ..Calendar::MIDNIGHT },
        "weekly" => {
            let days = on.map_or(Some(MONDAY), |days| set_of(&days, weekday))?;
            Calendar { weekdays: days, ..Calendar::MIDNIGHT }
        }
        "monthly" => {
            let days = on.unwrap_or_else(|| vec!["1"]);
            let last_day = days.contains(&"last");
            let numbers: Vec<_> = days.into_iter().filter(|day| *day != "last").collect();
            let days = set_of(&numbers, |day| number_in(day, 1, 31))?;
            Calendar { days, last_day, ..Calendar::MIDNIGHT }
        }
        "yearly" if is_never_on => Calendar { months: 1 << 1, days: 1 << 1, ..Calendar::MIDNIGHT },
        _ => return None,
    };
    let Some(clocks) = at else { return Some(vec![base]) };
    let at_clock = |clock: &str| {
        let (hour, minute) = clock.split_once(':')?;
        let two_digits = minute.len() == 2;
        let (hour, minute) = (number_in(hour, 0, 23)?, number_in(minute, 0, 59).filter(|_| two_digits)?);
        Some(Calendar { hours: 1 << hour, minutes: 1 << minute, ..base })
    };
    clocks.into_iter().map(at_clock).collect()
}

/// The members of a list such as `mon, thu and sat`; at least one.
fn list_of<'a>(words: &[&'a str]) -> Option<Vec<&'a str>> {
    let mut members = Vec::new();
    // Whether a member has just been read, after which only a comma or `and` may come.
    let mut is_complete = false;
    for word in words {
        let (member, ends) = match word.strip_suffix(',') {
            Some(member) => (member, true),
            None => (*word, false),
        };
        match (member, is_complete) {
            ("and", true) if !ends => is_complete = false,
            ("", true) if ends => is_complete = false,
            ("" | "and", _) | (_, true) => return None,
            (member, false) => {
                members.push(member);
                is_complete = !ends;
            }
        }
    }
    is_complete.then_some(members)
}

fn set_of(members: &[&str], number: impl Fn(&str) -> Option<u8>) -> Option<u64> {
    members.iter().try_fold(0, |set, member| Some(set | 1 << number(member)?))
}

fn number_in(text: &str, low: u8, high: u8) -> Option<u8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| is_number && (low..=high).contains(number))
}

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The number of a weekday by its name or the first three letters of it; Sunday is 0.
fn weekday(word: &str) -> Option<u8> {
    let is_it = |name: &&str| *name == word || (word.len() == 3 && name.starts_with(word));
    WEEKDAYS.iter().position(is_it).and_then(|at| u8::try_from(at).ok())
}

fn month(word: &str) -> Option<u8> {
    MONTHS.iter().position(|name| *name == word).and_then(|at| u8::try_from(at + 1).ok())
}

/// A field of a crontab.
struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    named: fn(&str) -> Option<u8>,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, named: |_| None },
    Field { name: "hour", low: 0, high: 23, named: |_| None },
    Field { name: "day of the month", low: 1, high: 31, named: |_| None },
    Field { name: "month", low: 1, high: 12, named: month },
    // Sunday is both 0 and 7.
    Field { name: "weekday", low: 0, high: 7, named: weekday },
];

/// The five fields of a crontab, as crontab(5) describes them. Where both days are restricted, either will do.
fn crontab(text: &str) -> Result<Vec<Calendar>, RuleError> {
    let lower = text.to_lowercase();
    let fields: Vec<_> = lower.split_whitespace().collect();
    let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
        return Err(RuleError::Unknown { text: text.to_owned() });
    };
    let [minute, hour, day, month, weekday] = &FIELDS;
    let read = |field: &Field, value: &str| {
        field.set(value).ok_or_else(|| RuleError::Field {
            text: text.to_owned(),
            value: value.to_owned(),
            field: field.name,
            low: field.low,
            high: field.high,
        })
    };
    let named = read(weekday, weekdays)?;
    let both = Calendar {
        minutes: read(minute, minutes)?,
        hours: read(hour, hours)?,
        days: read(day, days)?,
        last_day: false,
        months: read(month, months)?,
        weekdays: (named | named >> 7) & bits(0, 6),
    };
    if days.starts_with('*') || weekdays.starts_with('*') {
        return Ok(vec![both]);
    }
    let by_day = Calendar { weekdays: bits(0, 6), ..both };
    Ok(vec![by_day, Calendar { days: bits(1, 31), ..both }])
}

impl Field {
    /// What a list of numbers, ranges and steps names.
    fn set(&self, list: &str) -> Option<u64> {
        list.split(',').try_fold(0, |set, part| Some(set | self.part(part)?))
    }

    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number_in(step, 1, self.high)?)),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.high),
            Some((low, high)) => {
                let (low, high) = (self.number(low)?, self.number(high)?);
                let is_sunday = high == 0 && self.high == 7;
                (low, if is_sunday { 7 } else { high })
            }
            None => {
                let number = self.number(range)?;
                (number, if step.is_some() { self.high } else { number })
            }
        };
        let numbers = (low <= high).then_some(low..=high)?;
        Some(numbers.step_by(step.unwrap_or(1).into()).fold(0, |set, number| set | 1 << number))
    }

    fn number(&self, text: &str) -> Option<u8> {
        (self.named)(text).or_else(|| number_in(text, self.low, self.high))
    }
}

/// The calendar expressions of systemd.time(7) for the same minutes.
fn on_calendar(calendar: &Calendar) -> Vec<String> {
    let list = |set: u64, all: u64| match set == all {
        true => "*".to_owned(),
        false => members(set).map(|number| format!("{number:02}")).collect::<Vec<_>>().join(","),
    };
    let Calendar { minutes, hours, days, last_day, months, weekdays } = *calendar;
    let weekdays = match weekdays == bits(0, 6) {
        true => String::new(),
        false => {
            let name = |day: u8| WEEKDAYS.get(usize::from(day)).and_then(|name| name.get(..3));
            members(weekdays).filter_map(name).collect::<Vec<_>>().join(",") + " "
        }
    };
    let months = list(months, bits(1, 12));
    let clock = format!("{}:{}:00", list(hours, bits(0, 23)), list(minutes, bits(0, 59)));
    let by_number = (days != 0).then(|| format!("{weekdays}*-{months}-{} {clock}", list(days, bits(1, 31))));
    let by_end = last_day.then(|| format!("{weekdays}*-{months}~01 {clock}"));
    by_number.into_iter().chain(by_end).collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use jiff::civil::DateTime;
    use proptest::prelude::*;

    use super::*;

    /// Zones by their rules, since not every machine has the names of zones.
    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    const NEW_YORK: &str = "EST5EDT,M3.2.0,M11.1.0";
    /// Here daylight saving is half an hour.
    const LORD_HOWE: &str = "LHST-10:30LHDT-11,M10.1.0,M4.1.0";

    fn zone(rules: &str) -> TimeZone {
        TimeZone::posix(rules).unwrap()
    }

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The first times after `after`, as the clock in `rules` shows them, with its offset.
    fn times(text: &str, after: &str, rules: &str, count: usize) -> Vec<String> {
        let (rule, zone) = (rule(text), zone(rules));
        let start = after.parse::<DateTime>().unwrap().to_zoned(zone.clone()).unwrap().timestamp();
        let next = |from: &Timestamp| rule.next(*from, &zone);
        let shown = |time: Timestamp| time.to_zoned(zone.clone()).strftime("%m-%d %H:%M %:z").to_string();
        std::iter::successors(next(&start), next).take(count).map(shown).collect()
    }

    /// A rule, and what it means from Friday, 20 November 2026, 19:55:12 on.
    #[track_caller]
    fn means(text: &str, expected: &[&str]) {
        let shown = times(text, "2026-11-20T19:55:12", "UTC0", expected.len());
        let shown: Vec<_> = shown.iter().map(|time| time.trim_end_matches(" +00:00")).collect();
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn understands_every_form_of_its_list() {
        for form in FORMS.split("; ") {
            rule(form.trim_start_matches("as in a crontab: "));
        }
    }

    #[test]
    fn words_mean_what_they_say() {
        means("hourly", &["11-20 20:00", "11-20 21:00"]);
        means("Hourly at :15 and :45", &["11-20 20:15", "11-20 20:45", "11-20 21:15"]);
        means("daily", &["11-21 00:00", "11-22 00:00"]);
        means(" daily  at 3:00 ", &["11-21 03:00", "11-22 03:00"]);
        means("daily at 03:00, 19:56 and 15:30", &["11-20 19:56", "11-21 03:00", "11-21 15:30"]);
        means("weekdays at 18:00", &["11-23 18:00", "11-24 18:00"]);
        means("weekly", &["11-23 00:00", "11-30 00:00"]);
        means("weekly on sunday at 04:00", &["11-22 04:00", "11-29 04:00"]);
        means("weekly on mon,thu", &["11-23 00:00", "11-26 00:00", "11-30 00:00"]);
        means("monthly", &["12-01 00:00", "01-01 00:00"]);
        means("monthly on 15, last at 04:00", &["11-30 04:00", "12-15 04:00", "12-31 04:00"]);
        means("monthly on 31", &["12-31 00:00", "01-31 00:00", "03-31 00:00"]);
        means("yearly at 12:00", &["01-01 12:00", "01-01 12:00"]);
        means("every 15 minutes", &["11-20 20:00", "11-20 20:15"]);
        means("every hour", &["11-20 20:00"]);
        assert_eq!(
            rule("every 90 seconds").next(Timestamp::UNIX_EPOCH, &TimeZone::UTC).unwrap().as_second(),
            90
        );
        let before = Timestamp::from_nanosecond(-1_500_000_000).unwrap();
        assert_eq!(rule("every 1 second").next(before, &TimeZone::UTC).unwrap().as_second(), -1);
    }

    #[test]
    fn crontabs_mean_what_they_mean_to_cron() {
        means("*/15 * * * *", &["11-20 20:00", "11-20 20:15"]);
        means("5/20 * * * *", &["11-20 20:05", "11-20 20:25", "11-20 20:45", "11-20 21:05"]);
        means("0 3 * * mon-fri", &["11-23 03:00", "11-24 03:00"]);
        means("0 3 * * 0,7", &["11-22 03:00", "11-29 03:00"]);
        means("0 3 * * fri-sun", &["11-21 03:00", "11-22 03:00", "11-27 03:00"]);
        means("0 0 1,15 * *", &["12-01 00:00", "12-15 00:00"]);
        means("0 0 29 feb *", &["02-29 00:00", "02-29 00:00"]);
        means("30 8-18/5 * DEC mon", &["12-07 08:30", "12-07 13:30", "12-07 18:30", "12-14 08:30"]);
        // Where both days are restricted, either will do.
        means("0 0 13 * fri", &["11-27 00:00", "12-04 00:00", "12-11 00:00", "12-13 00:00"]);
        means("0 0 */2 * fri", &["11-27 00:00", "12-11 00:00"]);
        means("@hourly", &["11-20 20:00"]);
        means("@daily", &["11-21 00:00"]);
        means("@weekly", &["11-22 00:00"]);
        means("@monthly", &["12-01 00:00"]);
        means("@annually", &["01-01 00:00"]);
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        let unknown = [
            "",
            "soon",
            "daily at",
            "daily at 3",
            "daily at 24:00",
            "daily at 03:0",
            "daily on monday",
            "hourly at 15",
            "weekly on",
            "weekly on sunday,",
            "weekly on ,",
            "weekly on sunday monday",
            "weekly on sunday and",
            "weekly at 04:00 on sunday",
            "monthly on 0",
            "monthly on 32",
            "every",
            "every 0 minutes",
            "every 5 weeks",
            "every -1 minutes",
            "every 99999999999999999999 hours",
            "every 9000000 hours",
            "* * * *",
            "* * * * * *",
            "@reboot",
            "daily at 03:00 at 04:00",
            "1",
            "*",
        ];
        for text in unknown {
            let error = text.parse::<Rule>().expect_err(text);
            assert!(matches!(error, RuleError::Unknown { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains("daily at 03:00"), "{error}");
        }
        let fields = [
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * * foo *", "month"),
            ("* * * * 8", "weekday"),
            ("*/0 * * * *", "minute"),
            ("5-1 * * * *", "minute"),
            ("1, * * * *", "minute"),
            ("* +1 * * *", "hour"),
            ("* * * * fri-mon", "weekday"),
        ];
        for (text, name) in fields {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(
                error.contains(&format!("is not a {name} ")) && error.contains("use numbers"),
                "{text}: {error}"
            );
        }
        let error = "0 0 30 2 *".parse::<Rule>().unwrap_err();
        assert!(matches!(error, RuleError::Never { .. }), "{error}");
    }

    #[test]
    fn a_time_in_a_gap_comes_at_its_end() {
        // On 29 March the clock goes from 2:00 to 3:00.
        let shown = times("daily at 02:30", "2026-03-28T00:00:00", BERLIN, 3);
        assert_eq!(shown, ["03-28 02:30 +01:00", "03-29 03:00 +02:00", "03-30 02:30 +02:00"]);
        let shown = times("daily at 02:15, 02:45, 03:00", "2026-03-29T00:00:00", BERLIN, 2);
        assert_eq!(shown, ["03-29 03:00 +02:00", "03-30 02:15 +02:00"], "several in one gap come once");
        let shown = times("0 2 * * *", "2026-03-07T12:00:00", NEW_YORK, 2);
        assert_eq!(shown, ["03-08 03:00 -04:00", "03-09 02:00 -04:00"]);
        let shown = times("daily at 02:15", "2026-10-03T12:00:00", LORD_HOWE, 2);
        assert_eq!(shown, ["10-04 02:30 +11:00", "10-05 02:15 +11:00"]);
    }

    #[test]
    fn a_time_that_is_repeated_comes_once() {
        // On 25 October the clock goes from 3:00 to 2:00.
        let shown = times("daily at 02:30", "2026-10-24T12:00:00", BERLIN, 2);
        assert_eq!(shown, ["10-25 02:30 +02:00", "10-26 02:30 +01:00"]);
        let shown = times("*/30 1-3 * * *", "2026-10-25T01:15:00", BERLIN, 6);
        let expected = ["01:30 +02:00", "02:00 +02:00", "02:30 +02:00", "03:00 +01:00", "03:30 +01:00"];
        assert_eq!(shown[..5], expected.map(|time| format!("10-25 {time}")));
        assert_eq!(shown[5], "10-26 01:00 +01:00");
        let shown = times("30 1 * * *", "2026-10-31T12:00:00", NEW_YORK, 2);
        assert_eq!(shown, ["11-01 01:30 -04:00", "11-02 01:30 -05:00"]);
        let shown = times("45 1 * * *", "2026-04-04T12:00:00", LORD_HOWE, 2);
        assert_eq!(shown, ["04-05 01:45 +11:00", "04-06 01:45 +10:30"]);
    }

    #[test]
    fn a_rule_for_every_hour_goes_on_through_gaps_and_repeats() {
        let shown = times("30 * * * *", "2026-03-29T01:00:00", BERLIN, 3);
        assert_eq!(shown, ["03-29 01:30 +01:00", "03-29 03:30 +02:00", "03-29 04:30 +02:00"]);
        let shown = times("30 * * * *", "2026-10-25T02:00:00", BERLIN, 3);
        assert_eq!(shown, ["10-25 02:30 +02:00", "10-25 02:30 +01:00", "10-25 03:30 +01:00"]);
        let shown = times("hourly", "2026-10-03T23:30:00", LORD_HOWE, 4);
        assert_eq!(
            shown,
            ["10-04 00:00 +10:30", "10-04 01:00 +10:30", "10-04 03:00 +11:00", "10-04 04:00 +11:00"]
        );
    }

    #[test]
    fn timers_of_systemd_get_the_same_times() {
        let lines = |text: &str| rule(text).timer_lines().join(";");
        assert_eq!(lines("daily at 03:00"), "OnCalendar=*-*-* 03:00:00");
        assert_eq!(lines("daily at 03:00, 15:30"), "OnCalendar=*-*-* 03:00:00;OnCalendar=*-*-* 15:30:00");
        assert_eq!(lines("weekly on sun, wed"), "OnCalendar=sun,wed *-*-* 00:00:00");
        assert_eq!(lines("monthly on 1, last"), "OnCalendar=*-*-01 00:00:00;OnCalendar=*-*~01 00:00:00");
        assert_eq!(lines("*/30 2-3 * jan,feb *"), "OnCalendar=*-01,02-* 02,03:00,30:00");
        assert_eq!(lines("every 2 minutes"), "OnActiveSec=120s;OnUnitActiveSec=120s");
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let clock = (0..24u8, 0..60u8).prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"));
        let texts = prop_oneof![
            Just("hourly".to_owned()),
            (0..60u8).prop_map(|minute| format!("hourly at :{minute:02}")),
            clock.clone().prop_map(|clock| format!("daily at {clock}")),
            (0..7usize, clock.clone())
                .prop_map(|(day, clock)| format!("weekly on {} at {clock}", WEEKDAYS[day])),
            (1..32u8, clock).prop_map(|(day, clock)| format!("monthly on {day} at {clock}")),
            (1..5000u32).prop_map(|seconds| format!("every {seconds} seconds")),
            (1..60u8, 0..24u8, 0..24u8)
                .prop_map(|(step, one, two)| { format!("*/{step} {}-{} * * *", one.min(two), one.max(two)) }),
        ];
        texts.prop_map(|text| rule(&text))
    }

    proptest! {
        #[test]
        fn the_next_time_is_later_and_the_first(
            rule in any_rule(),
            rules in prop_oneof![Just(BERLIN), Just(NEW_YORK), Just(LORD_HOWE)],
            after in 1_750_000_000i64..1_850_000_000,
            part in 0.0..1.0,
        ) {
            let zone = zone(rules);
            let after = Timestamp::from_second(after).unwrap();
            let next = rule.next(after, &zone).unwrap();
            prop_assert!(next > after);
            // From anywhere in between it is the same.
            let between = next.duration_since(after).as_secs_f64() * part;
            let between = after + SignedDuration::from_secs(between as i64);
            prop_assert_eq!(rule.next(between, &zone).unwrap(), next);
        }

        #[test]
        fn around_a_change_of_the_clock_each_day_has_its_one_run(
            hour in 0..24u8,
            minute in 0..60u8,
            rules in prop_oneof![Just(BERLIN), Just(NEW_YORK), Just(LORD_HOWE)],
            year in 2026i16..2036,
        ) {
            let (zone, rule) = (zone(rules), rule(&format!("daily at {hour:02}:{minute:02}")));
            let mut time = DateTime::constant(year, 1, 1, 0, 0, 0, 0).to_zoned(zone.clone()).unwrap().timestamp();
            let mut day = DateTime::constant(year - 1, 12, 31, 0, 0, 0, 0).date();
            if (hour, minute) == (0, 0) {
                // This day's has just passed.
                day = day.tomorrow().unwrap();
            }
            for _ in 0..400 {
                time = rule.next(time, &zone).unwrap();
                let next_day = zone.to_datetime(time).date();
                prop_assert_eq!(next_day, day.tomorrow().unwrap());
                day = next_day;
            }
        }

        #[test]
        fn never_panics(text in "\\PC*|([*0-9,/a-z@: -]{0,12} ?){0,7}|(every|daily|weekly|on|at|,|[0-9:]{1,5}|mon| ){1,8}") {
            if let Ok(rule) = text.parse::<Rule>() {
                for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                    let _ = rule.next(time, &zone(BERLIN));
                }
                let _ = rule.timer_lines();
            }
        }
    }
}
