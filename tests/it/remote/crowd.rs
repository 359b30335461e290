//! Remote clients in numbers: what one of them may take, and that the others go on.

use std::net::TcpStream;

use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use harness::{Rpc, call, rpc};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::*;

#[test]
fn two_thousand_half_open_handshakes_keep_nobody_out() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| secured(config, files));
    let address = daemon.tcp().unwrap();
    let early = connect(over_tls(&daemon, files).token(ALICE));
    let half_open: Vec<TcpStream> = (0..2000)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let start = Instant::now();
    for token in [ALICE, BOB] {
        let late = connect(over_tls(&daemon, files).token(token));
        late.create_pool(token, PoolOptions::new(MIB)).unwrap();
    }
    early.ping().unwrap();
    daemon.client().ping().unwrap();
    let took = start.elapsed();
    // The deadline of a handshake is 10 s: nobody has waited for one to pass.
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(half_open);
}

/// Waits for an arena beside the calling thread, for as long as a test takes.
fn wait_for_arena(rpc: &Rpc, pool_id: u32) -> JoinHandle<Result<(), Status>> {
    let get = v1::GetArenaRequest {
        pool_id,
        wait_ms: 60_000,
        request_id: 0,
    };
    let (request, mut arenas) = (rpc.with(get), rpc.arenas());
    rpc::spawn(async move { arenas.get(request).await.map(drop) })
}

fn waiting(client: &Client, pool: &str) -> u32 {
    client.stat_arena_pool(pool).unwrap().waiting
}

#[test]
fn calls_too_many_are_refused_by_name_and_local_clients_go_on() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| {
        with_tokens(config, files);
        let tokens: String = (0..5)
            .map(|i| format!("client-{i}: the-token-of-client-{i}\n"))
            .collect();
        write_secret(&files.join("tokens"), &tokens);
        // Two for each.
        config.tcp_options.max_calls = 8;
    });
    let address = daemon.tcp().unwrap();
    let local = daemon.rpc();
    let root = daemon.client();
    let create = v1::CreateArenaPoolRequest {
        name: "a".to_owned(),
        arenas: 1,
        arena_bytes: 4096,
        permissions: Some(v1::Permissions {
            mode: 0o666,
            ..Default::default()
        }),
        ..Default::default()
    };
    let pool = call!(local, arenas.create(create)).unwrap().pool.unwrap();
    let held = local.get_arena(pool.pool_id, 0).unwrap();
    let clients: Vec<Rpc> = (0..5)
        .map(|i| {
            let rpc = Rpc::connect_tcp(address).with_bearer(&format!("the-token-of-client-{i}"));
            let token = rpc.open_session().token;
            rpc.with_token(token)
        })
        .collect();
    let refused = |rpc: &Rpc| -> (Status, ErrorDetail) {
        let ping = rpc.with(v1::PingRequest {});
        let status = rpc::wait(rpc.daemons().ping(ping)).unwrap_err();
        let detail = ErrorDetail::from_status(&status).unwrap();
        (status, detail)
    };

    // One client has its share: another has its own.
    let mut waits: Vec<_> = (0..2)
        .map(|_| wait_for_arena(&clients[0], pool.pool_id))
        .collect();
    eventually(PATIENCE, "both wait", || waiting(&root, "a") == 2);
    let (status, detail) = refused(&clients[0]);
    assert_eq!(
        (status.code(), detail.reason),
        (Code::Unavailable, Reason::Overloaded)
    );
    assert_eq!(detail.get("calls_of"), Some("this client"));
    assert_eq!(detail.number("limit"), Some(2));
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains("google.rpc.RetryInfo"), "{details}");
    call!(clients[1], daemons.ping(v1::PingRequest {})).unwrap();

    // All of them together have what there is for TCP; local clients have their own.
    for client in &clients[1..4] {
        waits.extend((0..2).map(|_| wait_for_arena(client, pool.pool_id)));
    }
    eventually(PATIENCE, "all wait", || waiting(&root, "a") == 8);
    let (_, detail) = refused(&clients[4]);
    assert_eq!(detail.get("calls_of"), Some("remote clients"));
    let blocks = local.create_pool("p", MIB);
    let block = local.alloc(blocks, 100).unwrap();
    local.free(block).unwrap();
    root.ping().unwrap();

    // The client library waits for its turn.
    let fifth = plainly(address).token("the-token-of-client-4");
    let connecting = std::thread::spawn(move || fifth.connect().map(|client| client.ping()));
    for wait in waits {
        wait.abort();
    }
    eventually(PATIENCE, "no one waits", || waiting(&root, "a") == 0);
    // It may have been one too many when it came; it was told so, or waited.
    match connecting.join().unwrap() {
        Ok(pinged) => pinged.unwrap(),
        Err(error) => assert_eq!(error.reason(), Some(Reason::Overloaded)),
    }
    eventually(PATIENCE, "calls are answered again", || {
        let ping = clients[4].with(v1::PingRequest {});
        rpc::wait(clients[4].daemons().ping(ping)).is_ok()
    });
    local.return_arena(held).unwrap();
}

#[test]
fn answers_keep_their_place_until_they_have_been_read() {
    let daemon = TestDaemon::start_with(|config| {
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
        config.tcp_options.max_calls = 8;
    });
    let rpc = Rpc::connect_tcp(daemon.tcp().unwrap());
    let token = rpc.open_session().token;
    let rpc = rpc.with_token(token);
    let pool = rpc.create_pool("p", 16 * MIB);
    let block = rpc.alloc(pool, 8 * MIB).unwrap();
    let read = || {
        let read = v1::ReadRequest {
            handle: Some(block),
            ..Default::default()
        };
        rpc::wait(rpc.bytes().read(rpc.with(read)))
    };
    let first = read().unwrap();
    let second = read().unwrap();
    let third = ErrorDetail::from_status(&read().unwrap_err()).unwrap();
    assert_eq!(third.reason, Reason::Overloaded);
    drop((first, second));
    eventually(PATIENCE, "their places are free", || read().is_ok());
}
