//! The benchmarks, each with the goal that it is held against. README.md says what each measures.

use anyhow::ensure;

use crate::report::{Goal, Line};
use crate::timing::Effort;
use crate::{
    arena, arena_2p, control, copy_out, first_touch, handoff, idle, mixed, pair, recovery, replace,
    rpc,
};

/// A benchmark.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) goal: Option<Goal>,
    pub(crate) run: fn(&Self, Effort) -> anyhow::Result<Line>,
}

type RunBench = fn(&Bench, Effort) -> anyhow::Result<Line>;

const fn bench(name: &'static str, goal: Goal, run: RunBench) -> Bench {
    let goal = Some(goal);
    Bench { name, goal, run }
}

/// One with nothing to be held against.
const fn without_goal(name: &'static str, run: RunBench) -> Bench {
    let goal = None;
    Bench { name, goal, run }
}

/// Three times the throughput.
const A_THIRD: Goal = Goal::RatioToPeers(0.333);

const BENCHES: &[Bench] = &[
    bench("rpc_alloc_free", Goal::Ratio(1.15), rpc::alloc_free),
    bench("rpc_batch_1000", Goal::Value(300.0), rpc::batch_1000),
    bench("lease_one", Goal::Ratio(1.0), control::one),
    bench("lease_pipelined", Goal::Ratio(1.0), control::pipelined),
    bench("pair_64", Goal::RatioToPeers(1.0), pair::pair::<64>),
    bench("pair_4096", Goal::RatioToPeers(1.0), pair::pair::<4096>),
    bench("pair_80000", Goal::RatioToPeers(1.0), pair::pair::<80_000>),
    bench("mixed", Goal::RatioToPeers(1.0), mixed::mixed),
    bench("mixed_2p", Goal::RatioToPeers(1.1), mixed::mixed_2p),
    bench("handoff_64", A_THIRD, handoff::small),
    bench("handoff_80000", A_THIRD, handoff::large),
    bench("handoff_80000_touch", A_THIRD, handoff::large_touch),
    bench("resolve", Goal::Ratio(1.0), pair::resolve),
    bench("arena_bump", Goal::RatioToPeers(1.5), arena::bump),
    without_goal("arena_fill", arena::fill),
    bench("arena_bump_2p", Goal::Ratio(1.3), arena_2p::bump),
    bench("arena_cycle", Goal::RatioToPeers(1.0), arena::cycle),
    bench("replace", Goal::RatioToPeers(1.0), replace::replace),
    bench("flat", Goal::Ratio(1.3), pair::flat),
    bench("overhead", Goal::Value(1.2), mixed::overhead::overhead),
    bench("copy_out", Goal::Ratio(1.1), copy_out::shared),
    bench("copy_out_private", Goal::Ratio(1.1), copy_out::private),
    without_goal("first_touch_fresh", first_touch::fresh),
    without_goal("first_touch_again", first_touch::again),
    bench("recovery_pools", Goal::Value(100.0), recovery::pools::pools),
    bench("recovery_sweep", Goal::Value(50.0), recovery::sweep::sweep),
    bench(
        "recovery_pause_lease",
        Goal::Value(5.0),
        recovery::sweep::lease_pause,
    ),
    bench(
        "recovery_pause_alloc",
        Goal::Value(5.0),
        recovery::sweep::alloc_pause,
    ),
    without_goal("recovery_sessions", recovery::sessions::sessions),
    bench("idle_memory", Goal::Value(15.0), idle::memory_of),
    bench("idle_start", Goal::Value(50.0), idle::start),
    bench("idle_wakeups", Goal::Value(0.0), idle::wakeups),
];

/// Returns the benchmarks that a name selects, each once; all of them without names.
///
/// # Errors
/// A name that selects none.
pub(crate) fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Bench>> {
    let selects = |name: &String, bench: &Bench| bench.name.starts_with(name.as_str());
    for name in names {
        ensure!(
            BENCHES.iter().any(|bench| selects(name, bench)),
            "no benchmark begins with {name:?}; there are {}",
            BENCHES
                .iter()
                .map(|bench| bench.name)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    let is_chosen =
        |bench: &&Bench| names.is_empty() || names.iter().any(|name| selects(name, bench));
    Ok(BENCHES.iter().filter(is_chosen).collect())
}
