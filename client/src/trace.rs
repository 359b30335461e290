//! The trace of whoever calls goes along with the call (feature `otel`): each attempt is a span,
//! which the daemon's goes on from. Its id is sent as the W3C's `traceparent`, in gRPC metadata, and
//! in each call of the Control stream. Without the feature nothing is done.

use std::future::Future;

use goumem_proto::v1::control_request::Call;
use tonic::Request;

/// Returns an attempt at a call with a span of its own, which `send` or `send_control` names.
#[cfg(not(feature = "otel"))]
pub(crate) fn traced<F: Future>(future: F) -> F {
    future
}

/// Returns the future for another task, still within the span of this one.
#[cfg(not(feature = "otel"))]
pub(crate) fn in_current<F: Future>(future: F) -> F {
    future
}

/// Sends the current trace along with a call.
#[cfg(not(feature = "otel"))]
pub(crate) fn send(_request: &mut Request<()>) {}

/// Returns the `traceparent` of a control call; empty for none.
#[cfg(not(feature = "otel"))]
pub(crate) fn send_control(_call: &Call) -> String {
    String::new()
}

#[cfg(feature = "otel")]
pub(crate) use sent::{in_current, send, send_control, traced};

#[cfg(feature = "otel")]
mod sent {
    use opentelemetry::trace::TraceContextExt as _;
    use tonic::GrpcMethod;
    use tracing::{Instrument as _, Span};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::{Call, Future, Request};

    /// What an attempt is called until its method is known.
    const ATTEMPT: &str = "call";

    pub(crate) fn traced<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        future.instrument(tracing::info_span!(ATTEMPT, otel.kind = "client"))
    }

    pub(crate) fn in_current<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        future.in_current_span()
    }

    pub(crate) fn send(request: &mut Request<()>) {
        let method = request.extensions().get::<GrpcMethod<'static>>();
        let name = method.map(|method| format!("{}/{}", method.service(), method.method()));
        let value = traceparent(name).and_then(|text| text.parse().ok());
        if let Some(value) = value {
            request.metadata_mut().insert("traceparent", value);
        }
    }

    pub(crate) fn send_control(call: &Call) -> String {
        traceparent(Some(format!("Control/{}", name(call)))).unwrap_or_default()
    }

    fn name(call: &Call) -> &'static str {
        match call {
            Call::Lease(_) => "Lease",
            Call::ReturnSpans(_) => "ReturnSpans",
            Call::Keep(_) => "Keep",
            Call::Pin(_) => "Pin",
            Call::Unpin(_) => "Unpin",
            Call::Share(_) => "Share",
            Call::Attach(_) => "Attach",
            Call::Detach(_) => "Detach",
            Call::Wake(_) => "Wake",
        }
    }

    /// Writes the current span as the W3C has it, if it is part of a trace, and gives it a name if
    /// it is an attempt's: the streams are opened within the caller's own.
    fn traceparent(name: Option<String>) -> Option<String> {
        let current = Span::current();
        let is_attempt = current.metadata().is_some_and(|metadata| {
            metadata.name() == ATTEMPT && metadata.target() == module_path!()
        });
        let context = current.context();
        let span = context.span();
        let ids = span.span_context();
        if !ids.is_valid() {
            return None;
        }
        if let Some(name) = name.filter(|_| is_attempt) {
            // It has begun, and a field of tracing's would come too late.
            span.update_name(name);
        }
        let (trace, flags) = (ids.trace_id(), ids.trace_flags().to_u8());
        Some(format!("00-{trace}-{}-{flags:02x}", ids.span_id()))
    }
}
