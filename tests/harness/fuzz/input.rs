//! Bytes as a script: numbers are read off the front, and behind the end all are 0.

/// What is left of the bytes.
#[derive(Debug, Clone)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut array = [0; N];
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(super) fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Returns a number below `end`, which is not 0, out of one byte.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.u8()) % end
    }

    /// Returns one of the things that there are.
    pub(super) fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }

    /// Takes something out of a list, unless that is empty.
    pub(super) fn remove<T>(&mut self, list: &mut Vec<T>) -> Option<T> {
        let at = self.u8();
        (!list.is_empty()).then(|| list.swap_remove(usize::from(at) % list.len()))
    }

    /// Returns a word: any bits, or a small generation, owner, state and pin as in a slot word.
    pub(super) fn word(&mut self) -> u64 {
        match self.u8() {
            0 => self.u64(),
            1 => u64::MAX - u64::from(self.u8()),
            generation => {
                let low = self.u16();
                u64::from(generation - 2) << 20 | u64::from(low & 0xff)
            }
        }
    }
}
