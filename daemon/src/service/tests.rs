//! What the routes do with paths that lead nowhere. Everything else is tested with a whole daemon,
//! in `run/tests.rs`.

use goumem_shm::os::reaper::DeathWatch;
use tokio::sync::Notify;

use super::*;
use crate::config::Config;
use crate::core::Wires;
use crate::fd_store::Kept;

fn routes() -> Routes {
    let directory = tempfile::tempdir().unwrap();
    let wires = Wires {
        watch: Arc::new(DeathWatch::new().unwrap()),
        earlier: Arc::new(Notify::new()),
    };
    let limits = Config::private(directory.path()).limits;
    let core = Core::start(limits, None, wires, Kept::nothing(), Instant::now());
    let edge = Edge {
        core: Arc::new(core.unwrap()),
        draining: CancellationToken::new(),
    };
    Routes::new(&edge, HealthReporter::new())
}

#[tokio::test]
async fn unknown_service_or_method_is_unimplemented() {
    let routes = routes();
    for path in [
        "/goumem.v1.NoService/Do",
        "/goumem.v1.PoolService/Do",
        "/",
        "/x",
    ] {
        let request = http::Request::builder().uri(path).body(Body::empty());
        let response = routes.call(request.unwrap()).await.unwrap();
        let status = response.headers().get(Status::GRPC_STATUS).unwrap();
        assert_eq!(status, &(Code::Unimplemented as i32).to_string(), "{path}");
    }
}

#[test]
fn services_have_the_names_of_the_protocol() {
    let names: Vec<_> = routes().routes.iter().map(|(name, _)| *name).collect();
    assert!(SERVICES.iter().all(|service| names.contains(service)));
    assert_eq!(names.len(), SERVICES.len() + 3);
}
