//! Names as they are printed: safe for a terminal, and readable back.
//!
//! [`name`] writes what a terminal could obey, what makes a name look like another, and bytes that are not
//! UTF-8 as escapes; every other name is printed as it is. [`unescape`] is its inverse, so a name can be copied
//! from a listing and given to another command.

use std::fmt::Write as _;

/// A name as it can be printed: what a terminal could obey is written as an escape, as are bytes that are not
/// UTF-8.
pub fn name(bytes: &[u8]) -> String {
    let mut name = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => name.push_str("\\\\"),
                character => push_safe(&mut name, character),
            }
        }
        let _ = write!(name, "{}", chunk.invalid().escape_ascii());
    }
    name
}

/// The name that [`name`] printed so; `None` where it prints no name so, or the name itself.
pub fn unescape(printed: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(printed).ok()?;
    let mut bytes = Vec::with_capacity(printed.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let mut after = escaped.chars();
        match after.next()? {
            '\\' => bytes.push(b'\\'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            'x' => {
                bytes.push(u8::from_str_radix(after.as_str().get(..2)?, 16).ok()?);
                after = after.as_str()[2..].chars();
            }
            'u' => {
                let (digits, behind) = after.as_str().strip_prefix('{')?.split_once('}')?;
                let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                after = behind.chars();
            }
            _ => return None,
        }
        rest = after.as_str();
    }
    bytes.extend_from_slice(rest.as_bytes());
    (bytes != printed).then_some(bytes)
}

/// Text that may quote names, as it can be printed.
pub fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    text.chars().for_each(|character| push_safe(&mut safe, character));
    safe
}

fn push_safe(text: &mut String, character: char) {
    // The marks that turn the direction of writing make a name look like another.
    let turns =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || turns {
        text.extend(character.escape_default());
    } else {
        text.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_reach_the_terminal() {
        assert_eq!(name("häuser/日本".as_bytes()), "häuser/日本");
        assert_eq!(name(b"a\x1b[31m\n\xff\\"), "a\\u{1b}[31m\\n\\xff\\\\");
        assert_eq!(name("ab\u{202e}dc".as_bytes()), "ab\\u{202e}dc");
        for bytes in [&b"a\x1b[31m\n\t\r\xff\\"[..], "ab\u{202e}dc".as_bytes(), b"\\", b"\\\\u{41}", b"\xc3"]
        {
            assert_eq!(unescape(name(bytes).as_bytes()).unwrap(), bytes);
        }
        for none in ["plain", "a\\", "a\\q", "\\x1", "\\u{", "\\u{110000}", "\\xä"] {
            assert_eq!(unescape(none.as_bytes()), None, "{none}");
        }
        assert_eq!(text("cannot read \"a\\b\"\n"), "cannot read \"a\\b\"\\n");
    }
}
