//! The protocol from the daemon's side, against the keeper's loop in this process.
