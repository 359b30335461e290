//! A cable between clients and a daemon's TCP address, that can be cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Connections to it go on to a daemon, while it is whole.
pub(super) struct Cable {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    ends: Vec<TcpStream>,
    is_cut: bool,
    ended: bool,
}

impl Cable {
    pub(super) fn to(daemon: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        {
            let state = Arc::clone(&state);
            thread::spawn(move || carry(&listener, daemon, &state));
        }
        Self { address, state }
    }

    /// Cuts every connection, and new ones at once until it is mended.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for end in state.ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        self.state.lock().unwrap().ended = true;
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(listener: &TcpListener, daemon: SocketAddr, state: &Mutex<State>) {
    for client in listener.incoming() {
        let client = client.unwrap();
        let mut state = state.lock().unwrap();
        if state.ended {
            return;
        }
        if state.is_cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(daemon) else {
            continue;
        };
        let ends = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
        state.ends.extend(ends());
        let [from, to] = ends();
        thread::spawn(move || copy(from, to));
        let [to, from] = ends();
        thread::spawn(move || copy(from, to));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
