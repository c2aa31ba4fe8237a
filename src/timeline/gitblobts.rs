//! File names of `gitblobts` 0.0.7, which says when a blob is by its
//! file's name alone.
//!
//! A name is url-safe base64 of a signed big-endian integer, the time in nanoseconds since 1970 shifted left
//! by 256 bits, which are random; a dot; and the base64 of the format's version, 1. The files lie at the root
//! of the tree.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use jiff::Timestamp;

/// What follows the dot: version 1.
const VERSION: &str = "AQ==";

/// How many random bytes end the number.
const RANDOM: usize = 32;

/// How many bytes a time takes here; those that a [`Timestamp`] holds need 10.
const TIME: usize = size_of::<i128>();

/// The name of a blob of `time`.
pub(super) fn name(time: Timestamp, random: &[u8; RANDOM]) -> String {
    let number = [&time.as_nanosecond().to_be_bytes()[..], random].concat();
    // A byte that only repeats the sign is left out.
    let is_spare = |pair: &&[u8]| matches!((pair[0], pair[1] < 0x80), (0, true) | (0xff, false));
    let spare = number.windows(2).take_while(is_spare).count();
    format!("{}.{VERSION}", URL_SAFE.encode(&number[spare..]))
}

/// The time that `name` tells, if it is a name of this kind.
pub(super) fn time(name: &str) -> Result<Timestamp, &'static str> {
    let (stem, version) = name.rsplit_once('.').ok_or("its name has no version")?;
    if version != VERSION {
        return Err("its name has another version than 1");
    }
    let number = URL_SAFE.decode(stem).map_err(|_| "its name is not base64")?;
    let sign = match number.first() {
        None => return Err("its name holds no number"),
        Some(..0x80) => 0,
        Some(_) => 0xff,
    };
    let mut whole = [sign; TIME + RANDOM];
    let missing = whole.len().checked_sub(number.len()).ok_or("its time is beyond the calendar")?;
    whole[missing..].copy_from_slice(&number);
    let (time, _) = whole.split_first_chunk().ok_or("its name holds no time")?;
    Timestamp::from_nanosecond(i128::from_be_bytes(*time)).map_err(|_| "its time is beyond the calendar")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_a_name_that_gitblobts_wrote() {
        let names = [
            ("ppfRAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAH.AQ==", -1_500_000_000),
            ("_wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AQ==", -1),
            ("BQ==.AQ==", 0),
            ("AIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AQ==", 0),
            ("GOnWz0EmTRX__________________________________________w==.AQ==", 1_795_202_112_123_456_789),
        ];
        for (name, expected) in names {
            assert_eq!(time(name).map(Timestamp::as_nanosecond), Ok(expected), "{name}");
        }
        let largest = Timestamp::from_nanosecond(1_795_202_112_123_456_789).unwrap();
        assert_eq!(name(largest, &[0xff; RANDOM]), names[4].0);
    }

    #[test]
    fn refuses_other_names() {
        let long = format!("{}.AQ==", URL_SAFE.encode([1; 49]));
        for text in
            ["", ".", "README", "README.md", ".AQ==", "AQ==", "AQ==.AQ==x", "AQ==.Ag==", "A.AQ==", &long]
        {
            assert!(time(text).is_err(), "{text}");
        }
        let far = format!("{}.AQ==", URL_SAFE.encode([1; 48]));
        assert_eq!(time(&far), Err("its time is beyond the calendar"));
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(
            at in prop_oneof![
                Just(0), Just(-1), -300i128..300, -377_000_000_000_000_000_000i128..253_000_000_000_000_000_000
            ],
            random: [u8; RANDOM],
        ) {
            let at = Timestamp::from_nanosecond(at).unwrap();
            prop_assert_eq!(time(&name(at, &random)), Ok(at));
        }

        #[test]
        fn never_panics(text in "\\PC*|[A-Za-z0-9_-]{0,70}={0,2}\\.AQ==") {
            let _ = time(&text);
        }
    }
}
