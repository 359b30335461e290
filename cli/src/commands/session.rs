//! `session`: the processes that the daemon knows.

use goumem::SessionNumber;
use goumem::blocking::Client;

use crate::args::SessionCommand;
use crate::error::{Exit, Failure};
use crate::output::{Cell, List, Output, Record};

pub(super) fn run(client: &Client, command: &SessionCommand) -> Result<Output, Failure> {
    match command {
        SessionCommand::Ls => list(client),
        SessionCommand::Kill { session } => kill(client, SessionNumber::new(*session)),
    }
}

fn list(client: &Client) -> Result<Output, Failure> {
    let columns = &[
        "session",
        "pid",
        "uid",
        "age_ms",
        "label",
        "command",
        "leased_bytes",
        "rpc_bytes",
        "arenas",
        "pins",
        "maps",
        "connected",
    ];
    let mut list = List::new(columns);
    for session in client.sessions()? {
        list.push([
            u32::from(session.session.get()).into(),
            session.pid.into(),
            session.uid.into(),
            session.age.into(),
            session.label.as_str().into(),
            session.command.into(),
            Cell::Bytes(session.leased_bytes),
            Cell::Bytes(session.rpc_bytes),
            session.arenas_held.into(),
            session.pins.into(),
            session.may_map.into(),
            session.connected.into(),
        ]);
    }
    Ok(Output::List(list))
}

fn kill(client: &Client, number: SessionNumber) -> Result<Output, Failure> {
    if number == client.session() {
        let message = format!("session {number} is this command's own, which ends by itself");
        return Err(Failure::new(Exit::Usage, message).hint("goumemctl session ls"));
    }
    client.kill_session(number, None)?;
    let done = Record::new().with("killed", u32::from(number.get()));
    Ok(Output::Done(format!("session {number} is killed"), done))
}
