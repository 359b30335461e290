//! The frames of the fd socket and of the keeper: what is read is what would have been written.

use goumem_shm::os::frame::{MapReply, MapRequest};
use goumem_shm::os::keep_frame::{FdName, KeepReply, KeepRequest};

use super::Input;

/// Reads any bytes as a frame of each kind.
///
/// # Panics
/// When one that was accepted says something else when it is written again.
pub fn frames(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (map, keep) = (input.clone().array(), input.clone().array());
    if let Ok(request) = MapRequest::decode(&map) {
        assert_eq!(
            request.encode(),
            map,
            "every byte of a request says something"
        );
    }
    if let Ok(request) = KeepRequest::decode(&keep) {
        // Behind the name may be anything.
        assert_eq!(KeepRequest::decode(&request.encode()), Ok(request.clone()));
        if let KeepRequest::Store(name) | KeepRequest::Remove(name) = request {
            assert_eq!(FdName::new(name.as_str()), Some(name));
        }
    }
    let (map, keep) = (input.clone().array(), input.array());
    if let Ok(reply) = MapReply::decode(&map) {
        assert_eq!(reply.encode(), map, "every byte of a reply says something");
    }
    if let Ok(reply) = KeepReply::decode(&keep) {
        assert_eq!(KeepReply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(name) = FdName::new(text)
    {
        assert_eq!(name.to_string(), text);
        let request = KeepRequest::Store(name);
        assert_eq!(KeepRequest::decode(&request.encode()), Ok(request));
    }
}
