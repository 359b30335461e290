//! Bearer tokens: whose they are. Only their hashes are kept, and all of them are compared with
//! what a caller shows, each in constant time: how long a refusal takes tells nothing of them.

use std::path::Path;

use goumem_proto::name::Label;
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::files::{self, Secrecy};
use super::{TlsError, parse_name};

/// The shortest token: 16 characters of base64 are 96 bits. What is shorter can be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// The longest; a header of a call is not to be larger.
const MAX_TOKEN_BYTES: usize = 1024;
/// The most tokens: comparing with all of them takes tens of microseconds then.
const MAX_TOKENS: usize = 1024;
/// Before the hash in place of a token.
const HASH_PREFIX: &str = "sha256:";

type TokenHash = [u8; 32];

/// The tokens of a file.
#[derive(Debug)]
pub(super) struct Tokens(Vec<Entry>);

struct Entry {
    name: Label,
    hash: TokenHash,
}

impl Tokens {
    /// Reads a file of tokens: `NAME: TOKEN` or `NAME: sha256:HEX` in each line, `#` begins a
    /// comment. A name may have several tokens, so that one can be replaced by the next.
    ///
    /// # Errors
    /// `Exposed`, `Read`, `Token`, `Nothing`.
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let text = files::read(path, Secrecy::Owner)?;
        let wrong = |line: usize, why| TlsError::Token {
            path: path.to_owned(),
            line: line + 1,
            why,
        };
        let text = std::str::from_utf8(&text).map_err(|_| wrong(0, "is not UTF-8"))?;
        let mut entries = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if entries.len() == MAX_TOKENS {
                return Err(wrong(n, "is one token too many: there may be 1024"));
            }
            entries.push(parse(line).map_err(|why| wrong(n, why))?);
        }
        if entries.is_empty() {
            return Err(TlsError::Nothing {
                path: path.to_owned(),
                what: "token",
            });
        }
        Ok(Self(entries))
    }

    /// Returns whose token that is.
    pub(super) fn name_of(&self, token: &str) -> Option<Label> {
        let hash: TokenHash = Sha256::digest(token).into();
        let mut found = u32::MAX;
        for (i, entry) in (0..).zip(&self.0) {
            found.conditional_assign(&i, entry.hash.ct_eq(&hash));
        }
        // Which one it was is no secret to whoever has it.
        let found = self.0.get(usize::try_from(found).ok()?)?;
        Some(found.name.clone())
    }
}

fn parse(line: &str) -> Result<Entry, &'static str> {
    let (name, secret) = line.split_once(':').ok_or("is not NAME: TOKEN")?;
    let name =
        parse_name(name.trim()).map_err(|_| "the name is not 1 to 64 bytes of printable text")?;
    let secret = secret.trim();
    let hash = match secret.strip_prefix(HASH_PREFIX) {
        Some(hex) => parse_hash(hex).ok_or("the hash has not 64 hexadecimal digits")?,
        None if secret.len() < MIN_TOKEN_BYTES => {
            return Err("the token is shorter than 16 characters, and could be guessed");
        }
        None if secret.len() > MAX_TOKEN_BYTES => {
            return Err("the token is longer than 1024 characters");
        }
        None if !secret.bytes().all(|byte| byte.is_ascii_graphic()) => {
            return Err("the token has characters that do not go into a header");
        }
        None => Sha256::digest(secret).into(),
    };
    Ok(Entry { name, hash })
}

fn parse_hash(hex: &str) -> Option<TokenHash> {
    let mut hash = TokenHash::default();
    if hex.len() != 2 * hash.len() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Entry").field(&self.name).finish()
    }
}
