//! The lines between the director and its workers. A line is shorter than what a pipe takes in
//! one piece, so it is either there or not, whenever its writer dies; and what was written before
//! a death can still be read after it.

use std::fmt;
use std::str::FromStr;

use goumem::Handle;

use crate::stamp::Stamp;

/// An exported block, and the right to do something with it: one process has it at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// The block's name in the model, and what is written in it.
    pub(crate) stamp: Stamp,
    pub(crate) words: usize,
    pub(crate) handle: Handle,
    /// The worker with which the block dies; none if it was kept.
    pub(crate) owner: Option<u16>,
    /// Whether it was published, under [`Token::name`].
    pub(crate) named: bool,
}

impl Token {
    /// Returns the name under which the block is published, if it is.
    pub(crate) fn name(&self) -> String {
        format!("b-{}", self.stamp)
    }
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// The token is yours.
    Take(Token),
    /// Look at the block; it is somebody else's, who may free it at any time.
    Look(Token),
    /// Attach to the arena of that name, which its holders may return at any time.
    Attach(String),
    /// Stand still, and say what you have.
    Pause,
    /// Give up everything you have, then as `Pause`.
    Drain,
    /// Go on.
    Go,
    /// Do the wrong thing, once.
    Sabotage(Sabotage),
}

/// What a worker tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// Its sessions, as (number, serial).
    Hello(Vec<(u16, u64)>),
    /// The token is at the worker: a block that it has just exported or adopted.
    Have(Token),
    /// The token is free for anybody.
    Give(Token),
    /// The block was freed or taken; there is no such token any more.
    Gone(Stamp),
    /// The block was not there any more.
    Stale(Stamp, String),
    /// An arena was shared under that name.
    Arena(String),
    /// So many operations since the last time.
    Ops(u64),
    /// A thread stands still.
    Paused(Belongings),
    /// Something is wrong.
    Bug(Wrong, String),
    /// How long the steady threads have paused.
    Pauses(Pauses),
}

/// What a thread has while it stands still, beside tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Belongings {
    /// Blocks that were taken over.
    pub(crate) taken: u64,
    pub(crate) pins: u64,
    /// Arenas held alone.
    pub(crate) arenas: u64,
    /// Threads of the process.
    pub(crate) threads: u64,
}

/// The longest pauses so far, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pauses {
    /// Of the thread that allocates and frees, without what it waited for a processor.
    pub(crate) own_us: u64,
    /// The same by the clock.
    pub(crate) wall_us: u64,
    /// Of a thread that uses no goumem, without what it waited for a processor.
    pub(crate) control_us: u64,
    /// The same by the clock.
    pub(crate) control_wall_us: u64,
}

/// The kinds of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// A block that should be alive is not, or its bytes are gone.
    Lost,
    /// Somebody else's stamp in a block.
    Overlap,
    /// Something of the dead, or of nobody, is still there.
    Leak,
    /// A living process has lost its session.
    FalseDeath,
    /// The daemon's counts do not add up.
    Conservation,
    /// A call has happened twice, or not at all.
    Once,
    /// A thread that needed no daemon has waited for one.
    Pause,
    /// A handle that names nothing was accepted.
    Stale,
    /// An error that should not be, a process that ended by itself, a hang.
    Error,
}

/// Wrongs that can be planted, to see that they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sabotage {
    /// Somebody writes into a block that is somebody else's.
    Overlap,
    /// A block is kept and forgotten.
    Leak,
    /// Somebody frees a block that is somebody else's.
    Lost,
    /// A worker's session is ended while it lives.
    FalseDeath,
    /// A pin is taken of which nobody tells.
    Once,
    /// The steady thread waits.
    Pause,
}

macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("no {}: {text}", stringify!($type))),
                }
            }
        }
    )+};
}

words! {
    Wrong {
        Lost = "lost",
        Overlap = "overlap",
        Leak = "leak",
        FalseDeath = "false-death",
        Conservation = "conservation",
        Once = "once",
        Pause = "pause",
        Stale = "stale",
        Error = "error",
    }
    Sabotage {
        Overlap = "overlap",
        Leak = "leak",
        Lost = "lost",
        FalseDeath = "false-death",
        Once = "once",
        Pause = "pause",
    }
}

/// The words of a line.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn text(&mut self) -> Result<&'a str, String> {
        let (field, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        if field.is_empty() {
            return Err("the line is too short".to_owned());
        }
        Ok(field)
    }

    fn get<T: FromStr<Err: fmt::Display>>(&mut self) -> Result<T, String> {
        let text = self.text()?;
        text.parse().map_err(|error| format!("{text}: {error}"))
    }

    fn token(&mut self) -> Result<Token, String> {
        Ok(Token {
            stamp: self.get()?,
            words: self.get()?,
            handle: self.get()?,
            owner: Some(self.get()?).filter(|&owner| owner != 0),
            named: self.get::<u8>()? != 0,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stamp,
            words,
            handle,
            owner,
            named,
        } = self;
        let (owner, named) = (owner.unwrap_or(0), u8::from(*named));
        write!(f, "{stamp} {words} {handle} {owner} {named}")
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Take(token) => write!(f, "take {token}"),
            Self::Look(token) => write!(f, "look {token}"),
            Self::Attach(name) => write!(f, "attach {name}"),
            Self::Pause => f.write_str("pause"),
            Self::Drain => f.write_str("drain"),
            Self::Go => f.write_str("go"),
            Self::Sabotage(which) => write!(f, "sabotage {which}"),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut fields = Fields(line);
        Ok(match fields.text()? {
            "take" => Self::Take(fields.token()?),
            "look" => Self::Look(fields.token()?),
            "attach" => Self::Attach(fields.get()?),
            "pause" => Self::Pause,
            "drain" => Self::Drain,
            "go" => Self::Go,
            "sabotage" => Self::Sabotage(fields.get()?),
            other => return Err(format!("no order: {other}")),
        })
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(sessions) => {
                f.write_str("hello")?;
                sessions
                    .iter()
                    .try_for_each(|(number, serial)| write!(f, " {number} {serial}"))
            }
            Self::Have(token) => write!(f, "have {token}"),
            Self::Give(token) => write!(f, "give {token}"),
            Self::Gone(stamp) => write!(f, "gone {stamp}"),
            Self::Stale(stamp, doing) => write!(f, "stale {stamp} {doing}"),
            Self::Arena(name) => write!(f, "arena {name}"),
            Self::Ops(n) => write!(f, "ops {n}"),
            Self::Paused(has) => {
                let Belongings {
                    taken,
                    pins,
                    arenas,
                    threads,
                } = has;
                write!(f, "paused {taken} {pins} {arenas} {threads}")
            }
            Self::Bug(wrong, text) => write!(f, "bug {wrong} {}", text.replace('\n', " ")),
            Self::Pauses(pauses) => {
                let Pauses {
                    own_us,
                    wall_us,
                    control_us,
                    control_wall_us,
                } = pauses;
                write!(
                    f,
                    "pauses {own_us} {wall_us} {control_us} {control_wall_us}"
                )
            }
        }
    }
}

impl FromStr for News {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut fields = Fields(line);
        Ok(match fields.text()? {
            "hello" => {
                let mut sessions = Vec::new();
                while !fields.0.is_empty() {
                    sessions.push((fields.get()?, fields.get()?));
                }
                Self::Hello(sessions)
            }
            "have" => Self::Have(fields.token()?),
            "give" => Self::Give(fields.token()?),
            "gone" => Self::Gone(fields.get()?),
            "stale" => Self::Stale(fields.get()?, fields.0.to_owned()),
            "arena" => Self::Arena(fields.get()?),
            "ops" => Self::Ops(fields.get()?),
            "paused" => Self::Paused(Belongings {
                taken: fields.get()?,
                pins: fields.get()?,
                arenas: fields.get()?,
                threads: fields.get()?,
            }),
            "bug" => Self::Bug(fields.get()?, fields.0.to_owned()),
            "pauses" => Self::Pauses(Pauses {
                own_us: fields.get()?,
                wall_us: fields.get()?,
                control_us: fields.get()?,
                control_wall_us: fields.get()?,
            }),
            other => return Err(format!("no news: {other}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(owner: Option<u16>, named: bool) -> Token {
        Token {
            stamp: Stamp::new(3, 4),
            words: 5,
            handle: "gm1-01020304000000000050000000600011".parse().unwrap(),
            owner,
            named,
        }
    }

    #[test]
    fn orders_and_news_read_back_as_they_were() {
        let orders = [
            Order::Take(token(Some(9), false)),
            Order::Look(token(None, true)),
            Order::Attach("a/3.4".to_owned()),
            Order::Pause,
            Order::Drain,
            Order::Go,
            Order::Sabotage(Sabotage::FalseDeath),
        ];
        for order in orders {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        let news = [
            News::Hello(vec![(1, 2), (3, 4)]),
            News::Hello(Vec::new()),
            News::Have(token(None, false)),
            News::Give(token(Some(1), true)),
            News::Gone(Stamp::new(1, 2)),
            News::Stale(Stamp::new(1, 2), "free it".to_owned()),
            News::Arena("a/1.2".to_owned()),
            News::Ops(7),
            News::Paused(Belongings {
                taken: 1,
                pins: 2,
                arenas: 3,
                threads: 4,
            }),
            News::Bug(Wrong::FalseDeath, "it is gone".to_owned()),
            News::Pauses(Pauses {
                own_us: 1,
                wall_us: 2,
                control_us: 3,
                control_wall_us: 4,
            }),
        ];
        for news in news {
            assert_eq!(news.to_string().parse(), Ok(news));
        }
        assert!("give 1.2 3".parse::<News>().is_err());
        assert!("".parse::<News>().is_err());
    }
}
