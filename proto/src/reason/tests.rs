//! Reasons keep their text and code, and errors survive the way to a status and back.

use std::collections::HashSet;

use super::*;
use crate::v1;

#[test]
fn every_reason_has_its_own_text_and_parses_back() {
    let texts: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(texts.len(), Reason::ALL.len());
    for &reason in Reason::ALL {
        assert_eq!(reason.as_str().parse(), Ok(reason));
        // The variant's name is the text in another case, and google.rpc.ErrorInfo's rule holds.
        let squeezed = reason.as_str().replace('_', "");
        assert_eq!(squeezed, format!("{reason:?}").to_uppercase());
        assert!(reason.as_str().len() <= 63);
        for sentence in [reason.meaning(), reason.advice()] {
            assert!(sentence.ends_with('.') && sentence.starts_with(char::is_uppercase));
        }
    }
    assert_eq!(
        "NO_SUCH".parse::<Reason>(),
        Err(UnknownReason("NO_SUCH".into()))
    );
}

#[test]
fn every_reason_that_the_proto_speaks_of_exists() {
    // Words in capitals with a line below, but for these and the values of enums, are reasons.
    const OTHERS: [&str; 2] = ["XDG_RUNTIME_DIR", "SO_PEERCRED"];
    let proto = include_str!("../../goumem/v1/goumem.proto");
    let values: Vec<&str> = proto
        .lines()
        .filter_map(|line| Some(line.trim().split_once(" = ")?.0))
        .collect();
    let words = proto.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let capitals = |word: &&str| {
        word.len() > 1
            && word.contains('_')
            && word.chars().all(|c| c == '_' || c.is_ascii_uppercase())
    };
    let mut n_reasons = 0;
    let is_other = |word: &&str| OTHERS.contains(word) || values.contains(word);
    for word in words.filter(capitals).filter(|word| !is_other(word)) {
        assert!(word.parse::<Reason>().is_ok(), "{word}");
        n_reasons += 1;
    }
    assert!(n_reasons > 40);
}

#[test]
fn codes_are_those_of_the_contract() {
    for (reason, code) in [
        (Reason::InvalidField, Code::InvalidArgument),
        (Reason::PoolNotFound, Code::NotFound),
        (Reason::PoolExists, Code::AlreadyExists),
        (Reason::GeometryMismatch, Code::FailedPrecondition),
        (Reason::StaleHandle, Code::FailedPrecondition),
        (Reason::NotOwner, Code::PermissionDenied),
        (Reason::PoolExhausted, Code::ResourceExhausted),
        (Reason::QuotaExceeded, Code::ResourceExhausted),
        (Reason::SessionExpired, Code::Aborted),
        (Reason::Recovering, Code::Unavailable),
        (Reason::ShuttingDown, Code::Unavailable),
        (Reason::CorruptSegment, Code::DataLoss),
        (Reason::Internal, Code::Internal),
        (Reason::SessionRequired, Code::Unauthenticated),
        (Reason::DeadlineExceeded, Code::DeadlineExceeded),
        (Reason::OutOfRange, Code::OutOfRange),
    ] {
        assert_eq!(reason.code(), code, "{reason}");
    }
}

#[test]
fn only_what_a_pause_may_mend_is_retryable() {
    let retryable: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| reason.is_retryable())
        .collect();
    assert_eq!(
        retryable,
        [
            &Reason::RequestInFlight,
            &Reason::Overloaded,
            &Reason::ShuttingDown,
            &Reason::Recovering
        ]
    );
}

#[test]
fn an_error_survives_the_way_to_a_status_and_back() {
    for &reason in Reason::ALL {
        let detail = ErrorDetail::new(reason, "alloc of 4096 bytes")
            .with("largest_free_bytes", 0)
            .with("requested_bytes", 4096);
        let status = Status::from(detail.clone());
        assert_eq!(status.code(), reason.code());
        let back = ErrorDetail::from_status(&status).unwrap();
        assert_eq!(back, detail);
        assert_eq!(back.number("requested_bytes"), Some(4096));
        assert_eq!(back.number("absent"), None);
    }
}

#[test]
fn a_status_of_the_library_has_no_detail() {
    assert_eq!(
        ErrorDetail::from_status(&Status::unavailable("connection refused")),
        None
    );
    let foreign = |domain: &str, reason: &str| {
        let info = ErrorDetails::with_error_info(reason, domain, HashMap::new());
        Status::with_error_details(Code::Internal, "", info)
    };
    assert_eq!(
        ErrorDetail::from_status(&foreign("googleapis.com", "INTERNAL")),
        None
    );
    assert_eq!(
        ErrorDetail::from_status(&foreign("goumem", "FROM_THE_FUTURE")),
        None
    );
    assert!(ErrorDetail::from_status(&foreign("goumem", "INTERNAL")).is_some());
    let garbage = Status::with_details(Code::Internal, "", vec![0xff; 40].into());
    assert_eq!(ErrorDetail::from_status(&garbage), None);
}

#[test]
fn an_error_always_fits_the_headers() {
    let mut detail = ErrorDetail::new(Reason::Internal, "é".repeat(100_000));
    for i in 0..100 {
        detail = detail.with(format!("{i:03}{}", "k".repeat(1000)), "v".repeat(100_000));
    }
    let status = Status::from(detail);
    assert!(status.details().len() + status.message().len() * 3 < 9_000);
    let back = ErrorDetail::from_status(&status).unwrap();
    assert_eq!(back.metadata.len(), MAX_METADATA_ENTRIES);
    assert!(back.message.ends_with('…') && back.message.len() <= 512);
}

#[test]
fn a_protocol_error_says_which_field_and_why() {
    let error = ProtocolError::invalid("spec.size_bytes", 0, "must be 1 or more");
    let detail = ErrorDetail::from(error);
    assert_eq!(detail.reason, Reason::InvalidField);
    assert_eq!(detail.message, "spec.size_bytes is 0: must be 1 or more");
    assert_eq!(detail.get("field"), Some("spec.size_bytes"));
    let missing = ErrorDetail::from(ProtocolError::missing("handle"));
    assert_eq!(missing.message, "handle is missing");
}

/// docs/errors.md begins with the table above; goumemctl's messages follow. `GOUMEM_WRITE_DOCS=1
/// cargo test -p goumem-proto` writes it anew.
#[test]
fn the_error_reference_lists_every_reason_as_it_is() {
    let mut page = String::from(
        "# Errors\n\n\
         Every error of goumemd carries `google.rpc.ErrorInfo {reason, domain: \"goumem\", \
         metadata}`; the metadata are the numbers. An error has changed nothing, but for \
         `CALL_TIMED_OUT`, after which the call may still take effect. A status without it came from the gRPC library or the network. The Rust client has the same as \
         `goumem::Error::reason()`.\n\n\
         | reason | code | what has happened | what to do next |\n|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        page += &format!(
            "| `{reason}` | {:?} | {} | {} |\n",
            reason.code(),
            reason.meaning().trim_end_matches('.'),
            reason.advice().trim_end_matches('.'),
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let read = || std::fs::read_to_string(path).unwrap();
    let first_part = |written: &str| match written.find("\n## ") {
        Some(end) => (written[..end].to_owned(), written[end..].to_owned()),
        None => (written.to_owned(), String::new()),
    };
    if std::env::var_os("GOUMEM_WRITE_DOCS").is_some() {
        let (_, rest) = first_part(&read());
        std::fs::write(path, format!("{page}{rest}")).unwrap();
    }
    let (written, _) = first_part(&read());
    assert_eq!(
        written, page,
        "run GOUMEM_WRITE_DOCS=1 cargo test -p goumem-proto"
    );
}

#[test]
fn an_error_survives_the_way_to_a_message_and_back() {
    for &reason in Reason::ALL {
        let detail = ErrorDetail::new(reason, "lease of 4 spans")
            .with("largest_free_bytes", 0)
            .with("requested_bytes", 4096);
        let failure = v1::Failure::from(detail.clone());
        assert_eq!(failure.code, i32::from(reason.code()));
        assert_eq!(ErrorDetail::from_failure(failure), Some(detail));
    }
    let unknown = v1::Failure {
        reason: "FROM_THE_FUTURE".to_owned(),
        ..v1::Failure::default()
    };
    assert_eq!(ErrorDetail::from_failure(unknown), None);
    let mut long = ErrorDetail::new(Reason::Internal, "é".repeat(100_000));
    for i in 0..100 {
        long = long.with(format!("{i:03}{}", "k".repeat(1000)), "v".repeat(100_000));
    }
    let failure = v1::Failure::from(long);
    assert_eq!(failure.metadata.len(), MAX_METADATA_ENTRIES);
    assert!(failure.message.len() <= 512);
}
