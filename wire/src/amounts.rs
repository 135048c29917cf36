//! Amounts as Kubernetes writes them.

use core::fmt;

/// A number of bytes: in the largest unit in which it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let unit = if self.0 == 0 { 0 } else { (self.0.trailing_zeros() / 10).min(6) as usize };
        write!(f, "{}{}", self.0 >> (10 * unit), UNITS[unit])
    }
}

/// Thousandths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millicpus(pub u64);

impl fmt::Display for Millicpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) { write!(f, "{}", self.0 / 1_000) } else { write!(f, "{}m", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn amounts_are_written_as_people_write_them() {
        for (millis, expected) in [(0, "0"), (100, "100m"), (1_500, "1500m"), (2_000, "2")] {
            assert_eq!(Millicpus(millis).to_string(), expected);
        }
        for (bytes, expected) in
            [(0, "0"), (1_000, "1000"), (1 << 10, "1Ki"), (3 << 20, "3Mi"), (1 << 34, "16Gi"), (1 << 40, "1Ti")]
        {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }
}
