//! Columns of numbers in the fewest bytes: LEB128, with zig-zag and differences for what is signed or grows.
//!
//! Unsigned LEB128 as in the DWARF standard (section 7.6) and WebAssembly; zig-zag as in Protocol Buffers. A
//! reader never reads past its column and refuses a number that does not fit 64 bits.

/// A column that ends too early, holds more than 64 bits in a number, or has bytes left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed column of numbers")]
pub struct VarintError;

/// Appends `value`.
pub fn put(column: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        column.push(value as u8 | 0x80);
        value >>= 7;
    }
    column.push(value as u8);
}

/// Appends `value`, small when its magnitude is.
pub fn put_signed(column: &mut Vec<u8>, value: i64) {
    put(column, (value << 1 ^ value >> 63) as u64);
}

/// Reads a column from its front.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begins at the front of `column`.
    pub fn new(column: &'a [u8]) -> Self {
        Self(column)
    }

    /// The next number.
    pub fn unsigned(&mut self) -> Result<u64, VarintError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(VarintError)?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(VarintError);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(VarintError)
    }

    /// The next number, written by [`put_signed`].
    pub fn signed(&mut self) -> Result<i64, VarintError> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next number, as a type that may be too small for it.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T, VarintError> {
        T::try_from(self.unsigned()?).map_err(|_| VarintError)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], VarintError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(VarintError)?;
        self.0 = rest;
        Ok(taken)
    }

    /// How many bytes are left: no column holds more numbers than that.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<(), VarintError> {
        if self.0.is_empty() { Ok(()) } else { Err(VarintError) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_is_read(values: Vec<u64>, signed: Vec<i64>) {
            let mut column = Vec::new();
            values.iter().for_each(|&value| put(&mut column, value));
            signed.iter().for_each(|&value| put_signed(&mut column, value));
            let mut reader = Reader::new(&column);
            for value in values {
                prop_assert_eq!(reader.unsigned(), Ok(value));
            }
            for value in signed {
                prop_assert_eq!(reader.signed(), Ok(value));
            }
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.unsigned().is_ok() {}
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(Reader::new(&[0xff; 10]).unsigned(), Err(VarintError));
        assert_eq!(Reader::new(&[0x80, 0x80]).unsigned(), Err(VarintError));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).unsigned(),
            Ok(u64::MAX)
        );
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).unsigned(),
            Err(VarintError)
        );
    }
}
