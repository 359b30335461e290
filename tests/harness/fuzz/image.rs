//! Segments as bytes: the words that are not 0, in runs, so that megabytes of a pool are a few
//! hundred bytes of corpus.
//!
//! ```text
//! run      segment u8 | first word u32 | number of words u8 | words u64 …
//! length   segment u8, highest bit set | pages of 4 KiB u32: the segment is cut to that
//! ```
//!
//! All little-endian. Numbers of segments and words are taken modulo what there is.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use goumem_shm::os::{Backing as _, BackingKind, MemfdBacking, Segment, SegmentSpec};

use super::Input;

const CUT: u8 = 0x80;
const PAGE_BYTES: u64 = 4096;

/// Words that are not 0, by their index.
pub(super) type Words = Vec<(u64, u64)>;

/// What some segments have in them, and how long they are.
#[derive(Debug)]
pub(super) struct Image<const N: usize> {
    pub(super) lengths: [u64; N],
    pub(super) words: [Words; N],
}

impl<const N: usize> Image<N> {
    /// Reads an image of segments of these lengths, in bytes.
    pub(super) fn read(input: &mut Input<'_>, full: [u64; N]) -> Self {
        let (mut lengths, mut words) = (full, [const { Vec::new() }; N]);
        while !input.is_empty() {
            let (segment, index) = (input.u8(), u64::from(input.u32()));
            let at = usize::from(segment & !CUT) % N;
            if segment & CUT != 0 {
                lengths[at] = (index * PAGE_BYTES).clamp(PAGE_BYTES, full[at]);
                continue;
            }
            for word in 0..u64::from(input.u8()) {
                if input.is_empty() {
                    break;
                }
                words[at].push(((index + word) % (full[at] / 8), input.u64()));
            }
        }
        Self { lengths, words }
    }

    /// Returns a word of a segment.
    pub(super) fn word(&self, segment: usize, index: u64) -> u64 {
        let written = self.words[segment].iter().rev();
        written
            .clone()
            .find(|(at, _)| *at == index)
            .map_or(0, |&(_, word)| word)
    }

    /// Makes a memfd of a segment.
    pub(super) fn memfd(&self, segment: usize) -> Segment {
        let spec = SegmentSpec {
            len_bytes: self.lengths[segment],
            label: "fuzz",
            uid: 0,
            gid: 0,
            mode: 0o600,
            path_stem: None,
        };
        let made = MemfdBacking.create(&spec).unwrap();
        self.fill(
            segment,
            &File::from(made.as_fd().try_clone_to_owned().unwrap()),
        );
        made
    }

    /// Writes what a segment has in it into a file of its length.
    pub(super) fn fill(&self, segment: usize, file: &File) {
        for &(index, word) in &self.words[segment] {
            if index * 8 < self.lengths[segment] {
                file.write_all_at(&word.to_le_bytes(), index * 8).unwrap();
            }
        }
    }
}

/// Makes the bytes of an image.
#[derive(Debug, Default)]
pub(super) struct Runs(pub(super) Vec<u8>);

impl Runs {
    /// Appends the words of a segment.
    pub(super) fn append(&mut self, segment: u8, words: &[(u64, u64)]) {
        let follows = |a: &(u64, u64), b: &(u64, u64)| a.0 + 1 == b.0;
        for run in words.chunk_by(follows).flat_map(|run| run.chunks(255)) {
            let (first, count) = (u32::try_from(run[0].0), u8::try_from(run.len()));
            self.0.push(segment);
            self.0.extend(first.unwrap().to_le_bytes());
            self.0.push(count.unwrap());
            run.iter()
                .for_each(|(_, word)| self.0.extend(word.to_le_bytes()));
        }
    }

    /// Appends that a segment has been cut.
    pub(super) fn append_length(&mut self, segment: u8, pages: u32) {
        self.0.push(segment | CUT);
        self.0.extend(pages.to_le_bytes());
    }
}

/// Returns the words in a file that are not 0.
pub(super) fn words_of(fd: OwnedFd) -> Words {
    let file = File::from(fd.try_clone().unwrap());
    let segment = Segment::from_fd(fd, BackingKind::File, 0).unwrap();
    let mut words = Vec::new();
    for run in segment.written(0..segment.len_bytes()).unwrap() {
        let mut bytes = vec![0; usize::try_from(run.end - run.start).unwrap()];
        file.read_exact_at(&mut bytes, run.start).unwrap();
        let read = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&word| u64::from_le_bytes(word));
        words.extend((run.start / 8..).zip(read).filter(|&(_, word)| word != 0));
    }
    words
}
