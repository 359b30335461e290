//! Known ways to get a process or its daemon wrong, each of which the world of `processes` must not
//! survive. docs/testing.md lists them.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

/// Walks mutants through the same steps and asserts that one of them does not survive, and why.
fn caught(mutant: Mutant, saying: &str) {
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(any_step(), 1..160);
    let why = (0..256).find_map(|_| {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        // Left as it is when it breaks: what is broken may not even be dropped.
        let mut world = ManuallyDrop::new(World::new(Some(mutant)));
        let walk = || {
            steps.into_iter().for_each(|step| world.step(step));
            world.end();
            ManuallyDrop::into_inner(world);
        };
        let panic = catch_unwind(AssertUnwindSafe(walk)).err()?;
        Some(panic.downcast_ref::<String>().cloned().unwrap_or_default())
    });
    let why = why.expect("the mutant was not caught");
    assert!(why.contains(saying), "caught for another reason: {why}");
}

#[test]
fn two_agents_feeding_one_bitmap() {
    caught(Mutant::TwoAgents, "overlaps");
}

#[test]
fn span_returned_before_it_is_detached() {
    caught(Mutant::ReturnedBeforeDetached, "overlaps");
}

#[test]
fn generation_reset_when_a_span_changes_class() {
    caught(Mutant::Granting(Words::Reset), "was used before");
}

#[test]
fn no_floor_when_a_span_changes_class() {
    caught(Mutant::Granting(Words::AsTheyWere), "was used before");
}
