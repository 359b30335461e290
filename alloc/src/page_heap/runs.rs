//! The state of every page of a pool, held as runs of pages in the same state.

use std::collections::BTreeMap;

/// The state of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody's, without memory behind it.
    Uncommitted,
    /// Nobody's, with memory behind it since it was given back.
    Committed {
        /// When it was given back.
        since_ms: u64,
    },
    /// Between reserve and commit or abort.
    Reserved,
    /// Part of a granted span.
    Granted,
    /// Never to be granted again.
    Retired,
}

impl State {
    pub(super) const fn is_free(self) -> bool {
        matches!(self, Self::Uncommitted | Self::Committed { .. })
    }
}

/// Pages in a row that are in the same state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) pages: u32,
    pub(super) state: State,
}

impl Run {
    pub(super) const fn end(self) -> u32 {
        self.first + self.pages
    }
}

/// The runs of a pool.
///
/// # Invariants
///
/// They cover all pages without gap or overlap, and no two free runs in the same state touch. Runs
/// that are not free keep the bounds they were made with.
#[derive(Debug)]
pub(super) struct Runs {
    /// First page → (pages, state).
    by_first: BTreeMap<u32, (u32, State)>,
}

impl Runs {
    /// Makes a pool of free pages without memory behind them.
    pub(super) fn new(pages: u32) -> Self {
        Self {
            by_first: BTreeMap::from([(0, (pages, State::Uncommitted))]),
        }
    }

    /// Takes runs that are as the invariants say, by place.
    pub(super) fn from_sorted(runs: Vec<Run>) -> Self {
        let runs = runs.into_iter();
        Self {
            by_first: runs
                .map(|run| (run.first, (run.pages, run.state)))
                .collect(),
        }
    }

    /// Puts a run of pages into another state, and returns what they were before.
    pub(super) fn replace(&mut self, run: Run) -> Vec<Run> {
        self.split_at(run.first);
        self.split_at(run.end());
        let before: Vec<Run> = self.starting_in(run.first, run.end()).collect();
        for old in &before {
            self.by_first.remove(&old.first);
        }
        self.join(run);
        before
    }

    /// Returns whether `run` is one of the runs, with these bounds and in this state.
    pub(super) fn has(&self, run: Run) -> bool {
        self.by_first.get(&run.first) == Some(&(run.pages, run.state))
    }

    /// Returns the run that `page` is in, or `None` past the end.
    pub(super) fn at(&self, page: u32) -> Option<Run> {
        let (&first, &(pages, state)) = self.by_first.range(..=page).next_back()?;
        let run = Run {
            first,
            pages,
            state,
        };
        (page < run.end()).then_some(run)
    }

    /// Returns the runs that start on the pages from `first` up to `end`, by place.
    pub(super) fn starting_in(&self, first: u32, end: u32) -> impl Iterator<Item = Run> {
        let runs = self.by_first.range(first..end);
        runs.map(|(&first, &(pages, state))| Run {
            first,
            pages,
            state,
        })
    }

    /// Ends a run before `page`, if one goes across.
    fn split_at(&mut self, page: u32) {
        if let Some((&first, run)) = self.by_first.range_mut(..page).next_back()
            && first + run.0 > page
        {
            let (pages, state) = *run;
            run.0 = page - first;
            self.by_first.insert(page, (first + pages - page, state));
        }
    }

    /// Adds a run where there is none, joined to free ones in the same state beside it.
    fn join(
        &mut self,
        Run {
            mut first,
            mut pages,
            state,
        }: Run,
    ) {
        if state.is_free() {
            if let Some((&before, &(length, other))) = self.by_first.range(..first).next_back()
                && other == state
            {
                first = before;
                pages += length;
            }
            if let Some(&(length, other)) = self.by_first.get(&(first + pages))
                && other == state
            {
                self.by_first.remove(&(first + pages));
                pages += length;
            }
        }
        self.by_first.insert(first, (pages, state));
    }
}
