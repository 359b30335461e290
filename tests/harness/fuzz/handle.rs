//! Handles as words, bytes and text: what is one is the same in every form.

use goumem_alloc::{GRAIN_BYTES, Handle};

/// Reads any bytes as a handle in each of its forms.
///
/// # Panics
/// When one that was accepted does not come back from another form.
pub fn handle(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(handle) = text.parse::<Handle>()
    {
        assert_eq!(handle.to_string(), text.to_ascii_lowercase());
        forms(handle);
    }
    let mut array = [0; 16];
    let n = bytes.len().min(16);
    array[..n].copy_from_slice(&bytes[..n]);
    let bits = u128::from_be_bytes(array);
    let halves = [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap());
    let from_words = Handle::from_words(halves[0], halves[1]);
    assert_eq!(Handle::from_bytes(array), from_words);
    if let Ok(handle) = from_words {
        assert_eq!(handle.to_bytes(), array);
        forms(handle);
    }
}

fn forms(handle: Handle) {
    let (high, low) = handle.to_words();
    assert_eq!(Handle::from_words(high, low), Ok(handle));
    assert_eq!(Handle::from_bytes(handle.to_bytes()), Ok(handle));
    assert_eq!(handle.to_string().parse(), Ok(handle));
    assert_eq!(
        handle
            .to_string()
            .to_uppercase()
            .replace("GM1", "gm1")
            .parse(),
        Ok(handle)
    );
    let (pool, generation) = (handle.pool(), handle.generation());
    assert!(handle.offset().get().is_multiple_of(GRAIN_BYTES));
    assert_eq!(
        Handle::new(pool, generation, handle.offset(), handle.kind()),
        handle
    );
}
