//! Errors as messages of a stream, which has no status for each of its calls.

use super::{Cow, clip};
use super::{ErrorDetail, MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_METADATA_ENTRIES, MAX_VALUE_BYTES};
use crate::v1;

impl From<ErrorDetail> for v1::Failure {
    fn from(detail: ErrorDetail) -> Self {
        let entries = detail.metadata.into_iter().take(MAX_METADATA_ENTRIES);
        Self {
            code: detail.reason.code().into(),
            message: clip(&detail.message, MAX_MESSAGE_BYTES),
            reason: detail.reason.as_str().to_owned(),
            metadata: entries
                .map(|(key, value)| (clip(&key, MAX_KEY_BYTES), clip(&value, MAX_VALUE_BYTES)))
                .collect(),
        }
    }
}

impl ErrorDetail {
    /// Returns what goumemd said in place of a reply. `None` for a reason that this version does
    /// not know.
    pub fn from_failure(failure: v1::Failure) -> Option<Self> {
        let reason = failure.reason.parse().ok()?;
        let mut metadata: Vec<_> = failure
            .metadata
            .into_iter()
            .map(|(key, value)| (Cow::Owned(key), value))
            .collect();
        metadata.sort();
        metadata.truncate(MAX_METADATA_ENTRIES);
        Some(Self {
            reason,
            message: failure.message,
            metadata,
        })
    }
}
