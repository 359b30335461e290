//! The model: which exported blocks there are, with whom each would die, and which worker has the
//! right to do something with it. It lives in the director, which no nemesis kills, and is fed by
//! the workers' lines; what a worker was about when it died is not known, and the ledger says so.
//!
//! A worker tells of a token before anybody else can get it, and of its end after the block is
//! gone. So a block whose token is in the bank exists, unless its owner has died; and one that a
//! dead worker had may be there or not, until the director has freed it.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::stamp::Stamp;
use crate::wire::Token;

/// Where a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Bank,
    At(u16),
}

/// What is to be thought of a block that was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It died with its owner.
    DiedWithOwner,
    /// It should be there.
    Lost(Token),
    /// Nobody has told of it, or not to that worker.
    Unknown,
}

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    tokens: HashMap<Stamp, (Token, Place)>,
    /// In the order in which they came.
    bank: VecDeque<Stamp>,
    /// Workers that were killed. A worker is noted here before it is.
    dead: HashSet<u16>,
}

impl Ledger {
    /// A worker has a token: of a new block, or changed.
    pub(crate) fn have(&mut self, worker: u16, token: Token) {
        self.tokens.insert(token.stamp, (token, Place::At(worker)));
    }

    /// A token is free for anybody.
    pub(crate) fn give(&mut self, token: Token) {
        self.tokens.insert(token.stamp, (token, Place::Bank));
        self.bank.push_back(token.stamp);
    }

    /// A block was freed or taken by the worker that had its token.
    pub(crate) fn gone(&mut self, worker: u16, stamp: Stamp) -> Result<(), String> {
        match self.tokens.remove(&stamp) {
            Some((_, Place::At(at))) if at == worker => Ok(()),
            Some((token, place)) => {
                Err(format!("worker {worker} ended {token}, which is {place:?}"))
            }
            None => Err(format!("worker {worker} ended {stamp}, which nobody knows")),
        }
    }

    /// A worker did not find the block whose token it has.
    pub(crate) fn stale(&mut self, worker: u16, stamp: Stamp) -> Verdict {
        let Some(&(token, place)) = self.tokens.get(&stamp) else {
            return Verdict::Unknown;
        };
        if place != Place::At(worker) {
            return Verdict::Unknown;
        }
        self.tokens.remove(&stamp);
        if self.died_with_owner(&token) {
            Verdict::DiedWithOwner
        } else {
            Verdict::Lost(token)
        }
    }

    /// Returns whether the block's owner is dead, so that it need not be there.
    pub(crate) fn died_with_owner(&self, token: &Token) -> bool {
        token.owner.is_some_and(|owner| self.dead.contains(&owner))
    }

    /// Hands the oldest free token to a worker.
    pub(crate) fn hand_out(&mut self, worker: u16) -> Option<Token> {
        let token = self.take_from_bank()?;
        self.have(worker, token);
        Some(token)
    }

    /// Takes the oldest free token out of the model.
    pub(crate) fn take_from_bank(&mut self) -> Option<Token> {
        while let Some(stamp) = self.bank.pop_front() {
            if let Some(&(token, Place::Bank)) = self.tokens.get(&stamp) {
                self.tokens.remove(&stamp);
                return Some(token);
            }
        }
        None
    }

    /// A worker is about to be killed.
    pub(crate) fn condemn(&mut self, worker: u16) {
        self.dead.insert(worker);
    }

    /// A worker is dead, and every line of it has been read. Returns the tokens that it had, whose
    /// blocks may be there or not, and forgets them.
    pub(crate) fn bury(&mut self, worker: u16) -> Vec<Token> {
        self.condemn(worker);
        self.remove(|_, place| place == Place::At(worker))
    }

    /// Returns and forgets the blocks that must have died with their owners. Only while everybody
    /// stands still is it known that nobody has adopted or kept them meanwhile.
    pub(crate) fn settle(&mut self) -> Vec<Token> {
        let dead = std::mem::take(&mut self.dead);
        let gone = self.remove(|token, _| token.owner.is_some_and(|owner| dead.contains(&owner)));
        self.dead = dead;
        gone
    }

    fn remove(&mut self, is_it: impl Fn(&Token, Place) -> bool) -> Vec<Token> {
        let mut removed = Vec::new();
        self.tokens.retain(|_, (token, place)| {
            let goes = is_it(token, *place);
            if goes {
                removed.push(*token);
            }
            !goes
        });
        removed.sort_by_key(|token| token.stamp);
        removed
    }

    /// Returns every token, by stamp.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.tokens.values().map(|(token, _)| *token).collect();
        tokens.sort_by_key(|token| token.stamp);
        tokens
    }

    /// Returns the tokens that are free.
    pub(crate) fn banked(&self) -> impl Iterator<Item = Token> {
        let in_bank = |stamp: &Stamp| match self.tokens.get(stamp) {
            Some(&(token, Place::Bank)) => Some(token),
            _ => None,
        };
        self.bank.iter().filter_map(in_bank)
    }

    /// Returns how many tokens are free.
    pub(crate) fn in_bank(&self) -> usize {
        self.bank.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(owner: u16, seq: u32) -> Token {
        Token {
            stamp: Stamp::new(owner, seq),
            words: 10,
            handle: "gm1-01020304000000000050000000600011".parse().unwrap(),
            owner: Some(owner),
            named: false,
        }
    }

    #[test]
    fn block_of_a_living_owner_must_be_there_and_that_of_a_dead_one_need_not() {
        let mut ledger = Ledger::default();
        ledger.give(token(1, 1));
        ledger.give(token(1, 2));
        let first = ledger.hand_out(2).unwrap();
        assert_eq!(first.stamp, Stamp::new(1, 1), "the oldest");
        assert_eq!(ledger.stale(2, first.stamp), Verdict::Lost(first));
        assert_eq!(ledger.stale(2, first.stamp), Verdict::Unknown);
        let second = ledger.hand_out(2).unwrap();
        assert_eq!(ledger.stale(3, second.stamp), Verdict::Unknown, "not its");
        ledger.condemn(1);
        assert_eq!(ledger.stale(2, second.stamp), Verdict::DiedWithOwner);
        assert_eq!(ledger.hand_out(2), None);
    }

    #[test]
    fn kept_block_outlives_its_maker_and_adopted_one_lives_with_its_adopter() {
        let mut ledger = Ledger::default();
        let kept = Token {
            owner: None,
            ..token(1, 1)
        };
        let adopted = Token {
            owner: Some(2),
            ..token(1, 2)
        };
        ledger.give(kept);
        ledger.give(token(1, 2));
        ledger.give(token(1, 3));
        assert!(ledger.bury(1).is_empty(), "it had given everything");
        ledger.have(2, adopted);
        assert_eq!(ledger.settle(), [token(1, 3)]);
        assert_eq!(ledger.tokens(), [kept, adopted]);
        ledger.condemn(2);
        assert_eq!(ledger.settle(), [adopted]);
        assert_eq!(ledger.hand_out(3), Some(kept));
        assert_eq!(ledger.stale(3, kept.stamp), Verdict::Lost(kept));
    }

    #[test]
    fn what_a_dead_worker_had_is_uncertain() {
        let mut ledger = Ledger::default();
        ledger.give(token(1, 1));
        ledger.have(2, token(2, 1));
        ledger.hand_out(2).unwrap();
        assert_eq!(ledger.bury(2), [token(1, 1), token(2, 1)]);
        assert!(ledger.tokens().is_empty());
        // Another's token is not a worker's to end.
        ledger.have(3, token(3, 1));
        assert!(ledger.gone(4, Stamp::new(3, 1)).is_err());
        assert!(
            ledger.gone(3, Stamp::new(3, 1)).is_err(),
            "and it says so once"
        );
        ledger.have(3, token(3, 2));
        assert_eq!(ledger.gone(3, Stamp::new(3, 2)), Ok(()));
    }
}
