//! Errors that say something.

use super::*;

/// pytorch#5040, arrow#29090: useless errors.
#[test]
fn every_error_says_what_why_with_numbers_and_what_to_do_next() {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("frames", MIB);
    let gone = rpc.alloc(pool_id, 100).unwrap();
    rpc.free(gone).unwrap();
    let arenas = rpc.create_arena_pool("batches", 2, 4096);
    for _ in 0..2 {
        rpc.get_arena(arenas, 0).unwrap();
    }
    let create = |name: &str, capacity_bytes| v1::CreatePoolRequest {
        name: name.to_owned(),
        capacity_bytes,
        ..Default::default()
    };
    let stranger = Rpc::connect(daemon.socket());
    let gone = goumem::Handle::try_from(gone).unwrap();
    let mut said = String::new();
    for detail in [
        rpc.alloc(pool_id, 64 * MIB).unwrap_err(),
        call!(rpc, pools.create(create("frames", 1))).unwrap_err(),
        call!(rpc, pools.create(create("no/name", 1))).unwrap_err(),
        call!(rpc, pools.create(create("zero", 0))).unwrap_err(),
        rpc.free(gone.into()).unwrap_err(),
        stranger.alloc(pool_id, 1).unwrap_err(),
        rpc.get_arena(arenas, 0).unwrap_err(),
        rpc.get_arena(arenas, 20).unwrap_err(),
        call!(
            rpc,
            pools.open(v1::OpenPoolRequest {
                name: "frames".to_owned(),
                expect_capacity_bytes: 2 * MIB,
                ..Default::default()
            })
        )
        .unwrap_err(),
    ] {
        let metadata: Vec<_> = detail
            .metadata
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        said += &format!(
            "{:?} {}: {}\n{}{}\n  {}\n",
            detail.reason.code(),
            detail.reason,
            detail.message,
            if metadata.is_empty() { "" } else { "  " },
            metadata.join(" "),
            detail.reason.advice(),
        );
    }
    // What differs from run to run.
    let said = said.replace(&gone.to_string(), "HANDLE");
    assert_eq!(said, ERRORS);
    for reason in Reason::ALL {
        assert!(
            reason.meaning().ends_with('.') && reason.advice().ends_with('.'),
            "{reason}"
        );
    }
}

const ERRORS: &str = "\
ResourceExhausted POOL_EXHAUSTED: pool frames is full: 67108864 bytes asked for, largest free \
1048576 (0 of 1048576 granted)
  capacity_bytes=1048576 granted_bytes=0 largest_free_bytes=1048576 pool=frames \
requested_bytes=67108864
  Free blocks, raise the pool's capacity, or ask for less.
AlreadyExists POOL_EXISTS: pool frames exists
  pool=frames
  Open it, or call OpenOrCreate.
InvalidArgument INVALID_FIELD: name is \"no/name\": has '/' at byte 2; it must match \
[A-Za-z0-9][A-Za-z0-9._-]{0,63}
  field=name value=\"no/name\" why=has '/' at byte 2; it must match \
[A-Za-z0-9][A-Za-z0-9._-]{0,63}
  Mend the request; `field` and `why` in the metadata say where.
InvalidArgument INVALID_FIELD: capacity_bytes is 0: must be 1 or more
  field=capacity_bytes value=0 why=must be 1 or more
  Mend the request; `field` and `why` in the metadata say where.
FailedPrecondition STALE_HANDLE: handle HANDLE is stale: what it named is gone
  handle=HANDLE
  Drop the handle, and get a new one from whoever allocated it.
Unauthenticated SESSION_REQUIRED: this call needs a session: open one and send its token

  Open a session, and send its token as `goumem-session-bin` with each call.
ResourceExhausted NO_FREE_ARENA: no arena of pool batches is free: 2 held, 0 waiting
  arenas=2 pool=batches waiting=0
  Wait with `wait_ms`, or return an arena.
DeadlineExceeded DEADLINE_EXCEEDED: no arena became free within 20 ms
  waited_ms=20
  Wait again, or look with ListHolders who holds them.
FailedPrecondition GEOMETRY_MISMATCH: pool frames has capacity_bytes 1048576, not 2097152
  expected=2097152 found=1048576 pool=frames what=capacity_bytes
  Ask for what the metadata says it has, or use another name.
";

/// iceoryx2's IncompatibleTypes: a mismatch of types was found as garbage.
#[test]
fn wrong_type_is_a_typed_error_and_never_garbage() {
    let daemon = TestDaemon::start();
    let (alice, bob) = (daemon.client(), daemon.client());
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let theirs = bob.open_pool("p").unwrap();
    let shared = pool.alloc_value(1.5f64).unwrap().share().unwrap();
    let handle = shared.handle();

    let error = theirs.resolve::<u64>(handle).unwrap_err();
    assert!(
        matches!(error, Error::Access(AccessError::WrongType { .. })),
        "{error:?}"
    );
    assert_eq!(error.reason(), Some(Reason::WrongType));
    let error = theirs.take::<i64>(handle).unwrap_err();
    assert_eq!(
        error.reason(),
        Some(Reason::WrongType),
        "and it was not taken"
    );
    let error = theirs.adopt::<u64>(handle).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::WrongType));
    let error = theirs.resolve::<[f64; 2]>(handle).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Access(AccessError::WrongLength {
                expected_bytes: 16,
                found_bytes: 8
            })
        ),
        "{error:?}"
    );
    // As what it is, and as bytes.
    assert_eq!(theirs.resolve::<f64>(handle).unwrap().read().unwrap(), 1.5);
    let bytes = theirs
        .resolve_slice::<u8>(handle)
        .unwrap()
        .read_slice()
        .unwrap();
    assert_eq!(bytes, 1.5f64.to_ne_bytes());
    assert_eq!(shared.read().unwrap(), 1.5);
}
