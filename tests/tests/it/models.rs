//! Model tests. [`queue`] and [`store`] play random sequences of calls to a backend and to a plain model of it in memory,
//! and compare the two after each; what fails is cut down to the fewest calls that still fail. [`lease`] looks at every
//! order in which a few servers can get into each other's way.

mod lease;
mod queue;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseResult, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;

/// Calls in a sequence at most.
const STEPS: usize = 40;
/// How often a failing sequence is cut down.
const CUTS: u32 = 4_000;

/// A sequence of calls to be played.
struct Steps<T> {
    calls: std::vec::IntoIter<T>,
    /// Counts those that were played: the others need not be tried when a sequence is cut down.
    played: Option<Arc<AtomicUsize>>,
}

impl<T> Iterator for Steps<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let call = self.calls.next()?;
        if let Some(played) = &self.played {
            played.fetch_add(1, Ordering::SeqCst);
        }
        Some(call)
    }
}

/// Plays random sequences with `play`: `cases` of them, or as many as `CARILLON_TEST_CASES` says. The seed of one that fails
/// is added to the file `regressions`, and those in it are played first.
fn check<M: ReferenceStateMachine>(
    cases: u32,
    regressions: &'static str,
    play: impl Fn(M::State, Steps<M::Transition>) -> TestCaseResult,
) {
    let cases = match std::env::var("CARILLON_TEST_CASES") {
        Ok(text) => text.parse().expect("CARILLON_TEST_CASES is a number of cases"),
        Err(_) => cases,
    };
    let config = Config {
        cases,
        max_shrink_iters: CUTS,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        ..Config::default()
    };
    let played = TestRunner::new(config).run(&M::sequential_strategy(1..=STEPS), |(start, calls, played)| {
        play(start, Steps { calls: calls.into_iter(), played })
    });
    match played {
        Ok(()) => {}
        Err(TestError::Fail(why, (_, calls, _))) => {
            let calls: Vec<String> = calls.iter().map(|call| format!("  {call:?}")).collect();
            panic!("{why}\nafter\n{}", calls.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
