//! Control calls: what the stream adds to the calls that it carries.

use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;

/// A stream of control calls.
struct Control {
    calls: mpsc::Sender<v1::ControlRequest>,
    replies: Streaming<v1::ControlReply>,
    last: u64,
}

impl Control {
    async fn open(session: &Session) -> Result<Self, Status> {
        let (calls, queue) = mpsc::channel(256);
        let mut sessions = SessionServiceClient::new(session.channel.clone());
        let stream = sessions.control(session.with(ReceiverStream::new(queue)));
        Ok(Self {
            calls,
            replies: stream.await?.into_inner(),
            last: 0,
        })
    }

    async fn send(&mut self, call: Call) -> u64 {
        self.last += 1;
        let request = v1::ControlRequest {
            sequence: self.last,
            call: Some(call),
            traceparent: String::new(),
        };
        self.calls.send(request).await.unwrap();
        self.last
    }

    async fn next(&mut self) -> (u64, Outcome) {
        let reply = within(self.replies.message()).await.unwrap().unwrap();
        (reply.sequence, reply.outcome.unwrap())
    }

    async fn call(&mut self, call: Call) -> Outcome {
        let sent = self.send(call).await;
        let (sequence, outcome) = self.next().await;
        assert_eq!(sequence, sent);
        outcome
    }
}

fn lease(pool_id: u32, request_id: u64) -> Call {
    Call::Lease(v1::LeaseRequest {
        pool_id,
        size_class: 20,
        request_id,
        ..Default::default()
    })
}

fn spans(outcome: Outcome) -> Vec<v1::Span> {
    v1::LeaseReply::try_from(outcome).unwrap().spans
}

fn failure(outcome: Outcome) -> ErrorDetail {
    let Outcome::Failure(failure) = outcome else {
        panic!("{outcome:?}");
    };
    let code = failure.code;
    let detail = ErrorDetail::from_failure(failure).unwrap();
    assert_eq!(code, i32::from(detail.reason.code()));
    detail
}

#[tokio::test]
async fn calls_of_a_stream_do_what_the_calls_of_their_names_do() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let block = session.alloc(pool_id, 100).await;
    let mut control = Control::open(&session).await.unwrap();

    let leased = spans(control.call(lease(pool_id, 1)).await);
    let give_back = v1::ReturnSpansRequest {
        pool_id,
        spans: leased,
        request_id: 2,
    };
    let outcome = control.call(Call::ReturnSpans(give_back)).await;
    let returned = v1::ReturnSpansReply::try_from(outcome).unwrap();
    assert_eq!(returned.returned, 1);
    let on_block = |request_id| v1::HandleRequest {
        handle: Some(block),
        request_id,
    };
    for call in [
        Call::Pin(on_block(3)),
        Call::Unpin(on_block(4)),
        Call::Keep(on_block(5)),
    ] {
        let reply = v1::HandleReply::try_from(control.call(call).await).unwrap();
        assert_eq!(reply.handle, Some(block));
    }
    let stat = v1::StatPoolRequest {
        name: "p".to_owned(),
    };
    let mut pools = PoolServiceClient::new(session.channel.clone());
    let stat = pools.stat(session.with(stat)).await.unwrap().into_inner();
    assert_eq!((stat.pins, stat.kept_blocks), (0, 1));

    let arenas = session.create_arena_pool("a", 1).await;
    let arena = session.get_arena(arenas, 0).await.unwrap();
    let share = v1::ShareArenaRequest {
        arena: Some(arena),
        name: "batch/17".to_owned(),
        request_id: 6,
    };
    let outcome = control.call(Call::Share(share)).await;
    let shared = v1::ArenaReply::try_from(outcome).unwrap();
    let attach = v1::AttachArenaRequest {
        pool_id: arenas,
        name: "batch/17".to_owned(),
        access: 0,
        request_id: 7,
    };
    let outcome = control.call(Call::Attach(attach)).await;
    assert_eq!(
        v1::ArenaReply::try_from(outcome).unwrap().arena,
        shared.arena
    );
    let detach = v1::DetachArenaRequest {
        arena: shared.arena,
        request_id: 8,
    };
    let outcome = control.call(Call::Detach(detach)).await;
    assert!(v1::DetachArenaReply::try_from(outcome).unwrap().returned);
    let wake = v1::WakeRequest { pool_id: arenas };
    let outcome = control.call(Call::Wake(wake)).await;
    v1::WakeReply::try_from(outcome).unwrap();
    daemon.end().await;
}

#[tokio::test]
async fn many_calls_are_under_way_at_once_and_each_gets_its_reply() {
    const CALLS: u64 = 500;
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let mut control = Control::open(&session).await.unwrap();
    let calls = control.calls.clone();
    // 64 pages: most of the leases are refused, and the rest of the calls make no sense.
    let sending = tokio::spawn(async move {
        for sequence in 1..=CALLS {
            let call = (sequence % 5 != 0).then(|| lease(pool_id, sequence));
            calls
                .send(v1::ControlRequest {
                    sequence,
                    call,
                    traceparent: String::new(),
                })
                .await
                .unwrap();
        }
    });
    let (mut leased, mut missing) = (Vec::new(), 0);
    let mut unanswered: std::collections::HashSet<_> = (1..=CALLS).collect();
    for _ in 0..CALLS {
        let (sequence, outcome) = control.next().await;
        assert!(unanswered.remove(&sequence), "{sequence} twice");
        match outcome {
            Outcome::Lease(reply) => leased.extend(reply.spans),
            outcome => match failure(outcome).reason {
                Reason::PoolExhausted => {}
                reason => {
                    assert_eq!((reason, sequence % 5), (Reason::InvalidField, 0));
                    missing += 1;
                }
            },
        }
    }
    sending.await.unwrap();
    assert_eq!(missing, CALLS / 5);
    let mut pages: Vec<_> = leased.iter().map(|span| span.first_page).collect();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!((leased.len(), pages.len()), (64, 64), "each page once");
    daemon.end().await;
}

#[tokio::test]
async fn call_that_is_sent_again_on_the_next_stream_happens_once() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let pool_id = session.create_pool("p").await;
    let mut first = Control::open(&session).await.unwrap();
    let leased = spans(first.call(lease(pool_id, 1)).await);

    let again = Session {
        channel: daemon.channel().await,
        token: session.token.clone(),
    };
    let mut second = Control::open(&again).await.unwrap();
    assert!(
        within(first.replies.message()).await.unwrap().is_none(),
        "the first has ended"
    );
    assert_eq!(spans(second.call(lease(pool_id, 1)).await), leased);
    // And by a call of its own: both end in the same place.
    let Call::Lease(unary) = lease(pool_id, 1) else {
        unreachable!();
    };
    let mut pools = PoolServiceClient::new(session.channel.clone());
    let reply = pools.lease(session.with(unary)).await.unwrap();
    assert_eq!(reply.into_inner().spans, leased);
    daemon.end().await;
}

#[tokio::test]
async fn client_that_does_not_read_is_not_listened_to() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let mut control = Control::open(&session).await.unwrap();
    // The refusal is longer than the call.
    let pin = v1::HandleRequest {
        handle: Some(v1::Handle {
            high: 7 << 32,
            low: 1,
        }),
        request_id: 0,
    };
    let no_pool = |sequence| v1::ControlRequest {
        sequence,
        call: Some(Call::Pin(pin)),
        traceparent: String::new(),
    };
    // Until the windows of both directions are full.
    let mut n_sent = 0;
    while timeout(Duration::from_millis(500), control.calls.reserve())
        .await
        .is_ok()
    {
        n_sent += 1;
        control.calls.send(no_pool(n_sent)).await.unwrap();
        assert!(n_sent < 1_000_000, "nothing stops the client");
    }
    // Others are served meanwhile, and so is this one when it reads.
    session.create_pool("p").await;
    for sequence in 1..=n_sent {
        assert_eq!(control.next().await.0, sequence);
    }
    control.calls.send(no_pool(0)).await.unwrap();
    assert_eq!(control.next().await.0, 0);
    daemon.end().await;
}

#[tokio::test]
async fn stream_needs_a_session_and_ends_with_it() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let nobody = Session {
        token: Vec::new(),
        ..session.clone()
    };
    let mut sessions = SessionServiceClient::new(nobody.channel);
    let refused = sessions.control(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::SessionRequired);

    let mut control = Control::open(&session).await.unwrap();
    let close = v1::CloseSessionRequest { force: false };
    sessions.close(session.with(close)).await.unwrap();
    assert!(within(control.replies.message()).await.unwrap().is_none());
    daemon.end().await;
}

#[tokio::test]
async fn shutdown_ends_the_stream() {
    let daemon = TestDaemon::start();
    let session = Session::open(daemon.channel().await).await;
    let mut control = Control::open(&session).await.unwrap();
    daemon.shutdown.cancel();
    assert!(within(control.replies.message()).await.unwrap().is_none());
    // Long before the deadline for calls that are under way.
    daemon.end().await;
}
