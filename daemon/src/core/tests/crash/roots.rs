//! A world of words alone: ROOT, and those that go with it. Whoever finds them after a death finds
//! what was there before, or what was to come, and between the two nothing but what does no harm.

use goumem_shm::SegmentRefusal;
use goumem_shm::arena::{ArenaSnapshot, ArenaWords};
use goumem_shm::header::{Header, HeaderPage, SegmentRole};
use goumem_shm::member::{Member, MemberWord};
use goumem_shm::root::{
    RequestOp, RequestRecord, RootHeader, RootInfo, Row, SessionRecord, SessionRowState,
};
use goumem_shm::sync::AtomicU64;

use super::*;

type Of = Operation<RootWorld>;

pub(super) const NUMBER: goumem_alloc::SessionNumber = goumem_alloc::SessionNumber::new(7);

/// The words, in private memory.
struct Words {
    root: Vec<AtomicU64>,
    row: Vec<AtomicU64>,
    member: AtomicU64,
    control: Vec<AtomicU64>,
    arena: Vec<AtomicU64>,
}

/// What they say.
#[derive(Debug, PartialEq)]
struct State {
    root: Result<(RootInfo, [u64; 2]), SegmentRefusal>,
    session: Result<Option<SessionRecord>, u64>,
    requests: Vec<RequestRecord>,
    member: Option<Member>,
    control: Result<Header, SegmentRefusal>,
    arena: ArenaSnapshot,
}

impl Words {
    fn zeroes() -> Self {
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            root: words(8),
            row: words(goumem_shm::root::ROW_WORDS),
            member: AtomicU64::new(0),
            control: words(512),
            arena: words(3),
        }
    }

    fn copy(&self) -> Self {
        let one = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        let all = |words: &[AtomicU64]| words.iter().map(one).collect();
        Self {
            root: all(&self.root),
            row: all(&self.row),
            member: one(&self.member),
            control: all(&self.control),
            arena: all(&self.arena),
        }
    }

    fn root(&self) -> RootHeader<'_> {
        RootHeader::new(&self.root).unwrap()
    }

    fn row(&self) -> Row<'_> {
        Row::new(&self.row).unwrap()
    }

    fn arena(&self) -> ArenaWords<'_> {
        ArenaWords::new(&self.arena[0], &self.arena[1], &self.arena[2])
    }

    fn control(&self) -> HeaderPage<'_> {
        HeaderPage::new(&self.control).unwrap()
    }

    fn state(&self) -> State {
        let ids = [4, 5].map(|i: usize| self.root[i].load(Ordering::Relaxed));
        let requests = self
            .row()
            .requests()
            .filter_map(|request| request.load().unwrap());
        // Until it is done nobody reads what came of it.
        let requests = requests.map(|request| match request.done {
            true => request,
            false => RequestRecord {
                outcome: [0, 0],
                ..request
            },
        });
        State {
            root: self.root().load().map(|info| (info, ids)),
            session: self.row().session().load(NUMBER),
            requests: requests.collect(),
            member: MemberWord::new(&self.member).load(),
            control: self.control().load(SegmentRole::Control),
            arena: self.arena().load(),
        }
    }
}

/// The operation, and what there was before it and is to be after.
pub(super) struct RootWorld {
    words: Words,
    operation: fn(&Words),
    before: Option<State>,
    after: Option<State>,
    does_no_harm: fn(&State) -> bool,
}

impl World for RootWorld {
    fn new(_: Dies) -> Self {
        Self {
            words: Words::zeroes(),
            operation: |_| {},
            before: None,
            after: None,
            does_no_harm: |_| false,
        }
    }

    fn bury_repair_and_check(self) {
        let found = Some(self.words.state());
        let is_whole = found == self.before || found == self.after;
        let does_no_harm = found.as_ref().is_some_and(self.does_no_harm);
        assert!(is_whole || does_no_harm, "half done: {found:#?}");
    }
}

impl RootWorld {
    /// Says what is going to be done, and what it comes to.
    fn about(&mut self, operation: fn(&Words)) {
        let done = self.words.copy();
        operation(&done);
        self.operation = operation;
        self.before = Some(self.words.state());
        self.after = Some(done.state());
    }

    fn operate(&mut self) {
        (self.operation)(&self.words);
    }
}

/// The daemon dies in these.
pub(super) const OPERATIONS: &[Of] = &[
    Of {
        name: "publish ROOT",
        before: |w| w.about(publish),
        operation: RootWorld::operate,
    },
    Of {
        name: "the next run of the daemon",
        before: |w| {
            publish(&w.words);
            w.about(|words| words.root().set_epoch(4));
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a new pool id",
        before: |w| {
            publish(&w.words);
            w.about(|words| drop_id(words.root().next_pool_id()));
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a new serial",
        before: |w| {
            publish(&w.words);
            w.about(|words| assert_eq!(words.root().next_serial(), 41));
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "open a session",
        before: |w| w.about(|words| words.row().session().commit(&session())),
        operation: RootWorld::operate,
    },
    Of {
        name: "open a session where another was",
        before: |w| {
            open(&w.words);
            w.words.row().session().clear();
            w.about(|words| {
                let other = SessionRecord {
                    serial: 100,
                    label: "another".to_owned(),
                    ..session()
                };
                words.row().session().commit(&other);
            });
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a new token",
        before: |w| {
            open(&w.words);
            w.about(|words| words.row().session().set_token_hash(&[0xcd; 32]));
            // Part of one and part of the other: no token has that hash.
            w.does_no_harm = |state| {
                let found = state.session.clone().unwrap().unwrap();
                let is_mixed = found.token_hash != [0xab; 32] && found.token_hash != [0xcd; 32];
                let token_hash = session().token_hash;
                is_mixed
                    && SessionRecord {
                        token_hash,
                        ..found
                    } == session()
            };
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a session's end",
        before: |w| {
            open(&w.words);
            w.about(|words| words.row().session().mark_dead());
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a session's number is free",
        before: |w| {
            open(&w.words);
            w.about(|words| words.row().session().clear());
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a request begins, where an old one stood",
        before: |w| {
            begin(&w.words);
            w.about(|words| words.row().request(67).begin(&request(67)));
            // The old one is forgotten before the new one has begun.
            w.does_no_harm = |state| state.requests.is_empty();
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a request ends",
        before: |w| {
            begin(&w.words);
            w.about(|words| words.row().request(3).finish(RequestOp::Alloc, [1, 2]));
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a request is forgotten",
        before: |w| {
            begin(&w.words);
            w.about(|words| words.row().request(3).clear());
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a member",
        before: |w| {
            w.about(|words| {
                let member = Member {
                    serial_low: 99,
                    mappings: 1,
                };
                MemberWord::new(&words.member).store(Some(member));
            });
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "a pool's next run of the daemon",
        before: |w| {
            w.words.control().publish(SegmentRole::Control, &header());
            w.about(|words| words.control().set_run(5, 4));
            // Whose instance is right already is compared by the epoch, which is an old one.
            w.does_no_harm = |state| state.control.as_ref().unwrap().epoch == header().epoch;
        },
        operation: RootWorld::operate,
    },
    Of {
        name: "hand an arena over",
        before: |w| {
            let daemon = goumem_alloc::SessionNumber::DAEMON;
            w.words.arena().claim(daemon).unwrap();
            w.about(|words| {
                let life = words.arena().load().generation();
                words.arena().hand_over(life, NUMBER).unwrap();
            });
        },
        operation: RootWorld::operate,
    },
];

fn publish(words: &Words) {
    let info = RootInfo {
        instance: 11,
        epoch: 3,
    };
    words.root().publish(info, 76, 40);
}

fn drop_id(id: PoolId) {
    assert_eq!(id.get(), 77);
}

fn session() -> SessionRecord {
    SessionRecord {
        state: SessionRowState::Live,
        number: NUMBER,
        serial: 99,
        uid: 1000,
        gid: 100,
        pid: 4242,
        start_time: 88_123,
        pidfd_inode: Some(5),
        local: true,
        may_map: true,
        ttl_ms: None,
        token_hash: [0xab; 32],
        nonce: Some([3; 16]),
        label: "trainer".to_owned(),
    }
}

fn open(words: &Words) {
    words.row().session().commit(&session());
}

fn request(id: u64) -> RequestRecord {
    RequestRecord {
        id,
        op: RequestOp::Alloc,
        done: false,
        pool_id: 77,
        handle: (5, 6),
        outcome: [0, 0],
        extra: 300,
    }
}

fn begin(words: &Words) {
    words.row().request(3).begin(&request(3));
}

fn header() -> Header {
    Header {
        kind: goumem_shm::header::PoolKind::Blocks,
        pool_id: PoolId::new(77).unwrap(),
        state: goumem_shm::header::PoolState::Live,
        epoch: 3,
        units: 16,
        unit_bytes: MIB,
        uid: 1000,
        gid: 100,
        mode: 0o640,
        backing: 1,
        data_bytes: 1 << 24,
        instance: 5,
        made_by: goumem_shm::header::MadeBy::default(),
        name: "frames".to_owned(),
    }
}
