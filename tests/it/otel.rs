//! Traces: what a client does and what the daemon does for it are one trace at the collector.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use harness::{PATIENCE, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::PUPPETS;

/// Keeps the spans that it is sent, with the service they are from.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for of_service in request.into_inner().resource_spans {
            let service = format!("{:?}", of_service.resource);
            for scope in of_service.scope_spans {
                spans.extend(scope.spans.into_iter().map(|span| (service.clone(), span)));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one, and returns its address.
    fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        harness::rpc::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TcpListenerStream::new(listener);
            Server::builder()
                .serve_with_incoming(service, incoming)
                .await
        });
        (collector, endpoint)
    }

    /// Returns the names of all spans, for messages.
    fn names(&self) -> Vec<String> {
        let spans = self.0.lock().unwrap();
        spans.iter().map(|(_, span)| span.name.clone()).collect()
    }

    /// Returns the span of that name which `service` has sent.
    fn span(&self, service: &str, name: &str) -> Option<Span> {
        let spans = self.0.lock().unwrap();
        let found = spans
            .iter()
            .find(|(of, span)| of.contains(service) && span.name == name);
        found.map(|(_, span)| span.clone())
    }
}

/// Starts a puppet that sends its traces there, as `service`.
fn start(role: &[&str], service: &str, endpoint: &str) -> Started {
    let child = Command::new(PUPPETS.binary)
        .args(role)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_SERVICE_NAME", service)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Started(child)
}

struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn calls_of_a_client_and_the_daemons_work_are_one_trace() {
    let (collector, endpoint) = Collector::start();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("goumemd.sock");
    let path = socket.to_str().unwrap();
    let line = [
        "daemon",
        "--",
        "--keeper",
        "none",
        "--log-level",
        "error",
        "--listen",
        path,
    ];
    let _daemon = start(&line, "the-daemon", &endpoint);
    eventually(PATIENCE, "the daemon listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let mut client = start(&["traced", "--", path], "the-client", &endpoint);
    assert!(client.0.wait().unwrap().success());
    let missing = |name: &str| -> ! { panic!("{name} is missing: {:?}", collector.names()) };
    let work = collector.span("the-client", "work");
    let work = work.unwrap_or_else(|| missing("work"));
    assert!(work.parent_span_id.is_empty());
    // Calls by themselves have it in their metadata, those of the Control stream in the message.
    for (called, done) in [
        (
            "goumem.v1.PoolService/Create",
            "goumem.v1.PoolService/Create",
        ),
        ("Control/Lease", "Lease"),
    ] {
        let call = collector.span("the-client", called);
        let call = call.unwrap_or_else(|| missing(called));
        assert_eq!(call.trace_id, work.trace_id, "{called}");
        assert_eq!(call.parent_span_id, work.span_id, "{called}");
        eventually(PATIENCE, "the daemon's span is there", || {
            collector.span("the-daemon", done).is_some()
        });
        let done = collector.span("the-daemon", done).unwrap();
        assert_eq!(done.trace_id, work.trace_id, "{called}");
        assert_eq!(done.parent_span_id, call.span_id, "{called}");
    }
}
