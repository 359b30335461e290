//! Names read back, and a store gives back what it was given.

use std::io::{Read as _, Seek as _, Write as _};

use super::*;

#[test]
fn every_name_reads_back_and_others_are_nobodys() {
    let id = PoolId::new(0x2a).unwrap();
    for stored in [
        StoredFd::Root,
        StoredFd::Control(id, BackingKind::Memfd),
        StoredFd::Data(id, BackingKind::File),
        StoredFd::Data(PoolId::new(u32::MAX).unwrap(), BackingKind::Named),
        StoredFd::Process(SessionNumber::new(65_534), u64::MAX),
    ] {
        assert_eq!(StoredFd::parse(&stored.name()), Some(stored));
    }
    for name in [
        "roots",
        "root-1",
        "data-memfd-2a",
        "data-tape-0000002a",
        "data-memfd-00000000",
        "process-7",
        "process-07-1",
        "x",
    ] {
        assert_eq!(StoredFd::parse(&FdName::new(name).unwrap()), None, "{name}");
    }
}

#[test]
fn memory_store_gives_back_what_it_was_given() {
    let store = MemoryStore::default();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"here").unwrap();
    let name = StoredFd::Root.name();
    let shared: Arc<dyn KeptFd> = Arc::new(file);
    store.store(name.clone(), shared).unwrap();
    let mut kept = store.kept().unwrap();
    let mut back = std::fs::File::from(kept.fds.remove(&name).unwrap());
    back.rewind().unwrap();
    let mut text = String::new();
    back.read_to_string(&mut text).unwrap();
    assert_eq!(text, "here");
    kept.store.remove(&name);
    assert_eq!(store.names(), []);
}
