//! The countdown itself, on words in private memory.

use super::*;

/// Writes three words one after the other, and says so on the way out however it ends.
struct Three<'a> {
    words: &'a [AtomicU64; 3],
    last_words: &'a AtomicU64,
}

impl Three<'_> {
    fn write(&self) -> u64 {
        self.words[0].store(1, Ordering::Relaxed);
        self.words[1].fetch_or(1, Ordering::Relaxed);
        let expected = self.words[2].load(Ordering::Relaxed);
        let exchanged = self.words[2].compare_exchange(
            expected,
            expected + 1,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        exchanged.unwrap()
    }
}

impl Drop for Three<'_> {
    fn drop(&mut self) {
        // Tries until it is there, as a guard would that gives something back.
        while self.last_words.load(Ordering::Relaxed) == 0 {
            let told = self
                .last_words
                .compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
            if told.is_ok() {
                return;
            }
        }
    }
}

fn written(stop: Option<Stop>) -> ([u64; 3], u64) {
    let words = [const { AtomicU64::new(0) }; 3];
    let last_words = AtomicU64::new(0);
    let write = || {
        let three = Three {
            words: &words,
            last_words: &last_words,
        };
        three.write()
    };
    match stop {
        Some(stop) => assert_eq!(stop_at(stop, write), None),
        None => assert_eq!(write(), 0),
    }
    let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
    (words.each_ref().map(read), read(&last_words))
}

#[test]
fn every_write_is_made_up_to_the_stop_and_none_after_it() {
    assert_eq!(written(None), ([1, 1, 1], 1));
    assert_eq!(written(Some(Stop::Before(1))), ([0, 0, 0], 0));
    assert_eq!(written(Some(Stop::After(1))), ([1, 0, 0], 0));
    assert_eq!(written(Some(Stop::Before(2))), ([1, 0, 0], 0));
    assert_eq!(written(Some(Stop::After(2))), ([1, 1, 0], 0));
    assert_eq!(written(Some(Stop::After(3))), ([1, 1, 1], 0));
    assert_eq!(written(Some(Stop::Before(4))), ([1, 1, 1], 0));
    assert_eq!(written(Some(Stop::After(4))), ([1, 1, 1], 1));
}

#[test]
fn an_operation_that_ends_earlier_is_not_stopped_and_failed_exchanges_do_not_count() {
    let word = AtomicU32::new(7);
    let fail = || word.compare_exchange(8, 9, Ordering::Relaxed, Ordering::Relaxed);
    let (outcome, writes) = count(fail);
    assert_eq!((outcome, writes.count), (Err(7), 0));
    assert_eq!(stop_at(Stop::Before(1), fail), Some(Err(7)));
    let (was, writes) = count(|| word.swap(8, Ordering::Relaxed));
    assert_eq!((was, writes.count), (7, 1));
    assert_eq!(word.load(Ordering::Relaxed), 8);
}

#[test]
fn writes_know_the_lines_that_made_them() {
    let word = AtomicU64::new(0);
    let line = line!() + 1;
    let (_, writes) = count(|| word.store(1, Ordering::Relaxed));
    let here = Site {
        file: "shm/src/crash/tests.rs".into(),
        line,
    };
    assert!(writes.sites.contains(&here), "{:?}", writes.sites);
}

#[test]
fn remains_of_the_dead_write_nothing_and_the_living_do() {
    let words = [const { AtomicU64::new(0) }; 3];
    let last_words = AtomicU64::new(0);
    let three = Three {
        words: &words,
        last_words: &last_words,
    };
    bury(three);
    assert_eq!(last_words.load(Ordering::Relaxed), 0);
    last_words.store(5, Ordering::Relaxed);
    assert_eq!(last_words.load(Ordering::Relaxed), 5);
}

#[test]
fn other_panics_of_an_operation_come_through() {
    let word = AtomicU64::new(0);
    let panics = || -> () {
        word.store(1, Ordering::Relaxed);
        resume_unwind(Box::new("mine"));
    };
    for _ in 0..2 {
        let outcome = catch_unwind(AssertUnwindSafe(|| stop_at(Stop::Before(2), panics)));
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"mine"));
    }
}

#[test]
fn interloper_comes_just_before_the_write_and_its_own_do_not_count() {
    let word = std::rc::Rc::new(AtomicU64::new(0));
    let others = std::rc::Rc::clone(&word);
    let (seen, writes) = count(|| {
        interrupt(2, move || {
            others.store(10, Ordering::Relaxed);
            others.store(20, Ordering::Relaxed);
        });
        word.store(1, Ordering::Relaxed);
        let before = word.fetch_add(1, Ordering::Relaxed);
        (before, word.fetch_add(1, Ordering::Relaxed))
    });
    assert_eq!((seen, writes.count), ((20, 21), 3));
}
