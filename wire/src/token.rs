//! Keys and join tokens as text: what `hawser device add` prints and `hawser-agent join` reads.

use alloc::string::String;
use core::fmt::{self, Write as _};

use crate::ids::TokenId;

/// A join token: the id says which one, the secret is the pre-shared key of the joining handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token it is. Travels in the clear.
    pub id: TokenId,
    /// The pre-shared key. Never travels.
    pub secret: [u8; 32],
}

/// The text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidToken;

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a join token: expected `hwt1.<16 hex digits>.<64 hex digits>` as printed by `hawser device add`",
        )
    }
}

impl core::error::Error for InvalidToken {}

impl JoinToken {
    /// Reads what [`JoinToken::to_text`] wrote.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let mut parts = text.trim().split('.');
        let (Some("hwt1"), Some(id_text), Some(secret_text), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidToken);
        };
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        parse_hex(id_text, &mut id).ok_or(InvalidToken)?;
        parse_hex(secret_text, &mut secret).ok_or(InvalidToken)?;
        Ok(Self { id: TokenId(id), secret })
    }

    /// The token as one word. Whoever has it can join as the device it was made for, once.
    pub fn to_text(&self) -> String {
        let mut text = String::from("hwt1.");
        // Writing to a String cannot fail.
        let _ = write!(text, "{}.", self.id);
        self.secret.iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        text
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Fills `bytes` from exactly twice as many hexadecimal digits.
pub fn parse_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_token_survives_being_printed_and_read() {
        let token = JoinToken { id: TokenId([1; 8]), secret: [0xab; 32] };
        assert_eq!(JoinToken::parse(&token.to_text()).unwrap(), token);
        assert_eq!(JoinToken::parse(&format!(" {}\n", token.to_text())).unwrap(), token);
    }

    #[test]
    fn the_secret_is_not_shown_by_debug() {
        let token = JoinToken { id: TokenId([1; 8]), secret: [0xab; 32] };
        assert!(!format!("{token:?}").contains("abab"));
    }

    #[test]
    fn what_is_not_a_token_is_refused() {
        let good = JoinToken { id: TokenId([1; 8]), secret: [2; 32] }.to_text();
        for bad in ["", "hwt1", "hwt1..", &good[..good.len() - 1], &format!("{good}.x"), &good.replace("hwt1", "hwt2")]
        {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }
}
