//! `goumemctl top`: pools, arena pools and sessions by bytes, live. A poller, the keyboard and the
//! signals each have a thread and send events to one bounded queue; the main thread updates the
//! model by them and draws. It only looks: nothing here changes anything.

mod history;
mod keys;
mod model;
mod picture;
mod poller;
mod view;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use tokio::signal::unix::{SignalKind, signal};

use self::model::{Effect, Event, Model};
use self::view::Theme;
use crate::args::TopArgs;
use crate::commands;
use crate::error::{Exit, Failure, no_colour};
use crate::observation::Observation;
use crate::output::Output;

/// How often to look, unless told.
const INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait while a frame is drawn; whoever has one more waits too.
const MAX_EVENTS: usize = 64;

/// Runs it until the user has seen enough.
pub(crate) fn run(socket: Option<&Path>, args: &TopArgs) -> Result<Output, Failure> {
    if args.once {
        return once(socket, args.interval);
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "stdout is not a terminal, so there is nothing to draw on",
        )
        .hint("goumemctl top --once"));
    }
    // A wrong socket is better said in a line than on a screen that waits.
    drop(commands::connect(socket)?);
    let (events, inbox) = mpsc::sync_channel(MAX_EVENTS);
    let interval = args.interval.unwrap_or(INTERVAL);
    let ask = start_poller(socket.map(Path::to_owned), interval, events.clone());
    end_on_signals(events.clone())?;
    // Restores the screen also when a thread panics.
    let mut terminal = ratatui::try_init()?;
    read_keys(events);
    let model = Model::new(interval);
    let shown = show(&mut terminal, model, &inbox, &ask, args.picture.is_some());
    ratatui::try_restore()?;
    let last = shown?;
    if let (Some(path), Some(buffer)) = (&args.picture, last) {
        std::fs::write(path, picture::svg(&buffer))?;
    }
    Ok(Output::Nothing)
}

/// Prints one look; with an interval two, that far apart, so that there are changes.
fn once(socket: Option<&Path>, interval: Option<Duration>) -> Result<Output, Failure> {
    let client = commands::connect(socket)?;
    let start = Instant::now();
    let mut now = Observation::take(&client, Duration::ZERO)?;
    let mut before = None;
    if let Some(interval) = interval {
        thread::sleep(interval);
        before = Some(std::mem::replace(
            &mut now,
            Observation::take(&client, start.elapsed())?,
        ));
    }
    Ok(now.output(before.as_ref()))
}

/// Draws and reacts until the end; returns the last picture if it is wanted.
fn show(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    inbox: &Receiver<Input>,
    ask: &SyncSender<Duration>,
    keep_picture: bool,
) -> io::Result<Option<Buffer>> {
    let theme = Theme {
        colour: !no_colour(),
    };
    let mut last = None;
    loop {
        let frame = terminal.draw(|frame| view::draw(frame, &mut model, theme))?;
        if keep_picture {
            last = Some(frame.buffer.clone());
        }
        let Ok(input) = inbox.recv() else {
            return Ok(last);
        };
        let event = match input {
            Input::Event(event) => Some(event),
            Input::Terminal(said) => keys::event(&said, model.mode),
            Input::Broken => return Err(io::Error::other("a thread of it has panicked")),
        };
        match event.map_or(Effect::Draw, |event| model.update(event)) {
            Effect::Draw => {}
            Effect::Quit => return Ok(last),
            Effect::Poll(interval) => {
                // One that waits already is as good.
                let _ = ask.try_send(interval);
            }
        }
    }
}

/// What the threads send.
#[derive(Debug)]
enum Input {
    Event(Event),
    /// Means something else in each mode, which the main thread knows.
    Terminal(crossterm::event::Event),
    /// A thread has panicked, and said so.
    Broken,
}

/// Says so when the thread that has it panics.
struct Watched(SyncSender<Input>);

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            // The main thread has gone first.
            let _ = self.0.send(Input::Broken);
        }
    }
}

fn start_poller(
    socket: Option<PathBuf>,
    interval: Duration,
    events: SyncSender<Input>,
) -> SyncSender<Duration> {
    let (ask, asked) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let events = Watched(events);
        poller::run(socket, interval, &asked, &events.0);
    });
    ask
}

/// Sends on what the terminal says, until it is gone.
fn read_keys(events: SyncSender<Input>) {
    thread::spawn(move || {
        let events = Watched(events);
        while let Ok(said) = crossterm::event::read() {
            if events.0.send(Input::Terminal(said)).is_err() {
                return;
            }
        }
        let _ = events.0.send(Input::Event(Event::End));
    });
}

/// Ends in order on the signals that would leave a terminal as it is. In raw mode Ctrl-C is a key,
/// but others may send SIGINT.
fn end_on_signals(events: SyncSender<Input>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut terminate, mut interrupt, mut hangup) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        )
    };
    thread::spawn(move || {
        let events = Watched(events);
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let _ = events.0.send(Input::Event(Event::End));
    });
    Ok(())
}
