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
    use tracing::{Instrument as _, Span, field};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::{Call, Future, Request};

    pub(crate) fn traced<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        future.instrument(tracing::info_span!(
            "call",
            otel.kind = "client",
            otel.name = field::Empty
        ))
    }

    pub(crate) fn in_current<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        future.in_current_span()
    }

    pub(crate) fn send(request: &mut Request<()>) {
        if let Some(method) = request.extensions().get::<GrpcMethod<'static>>() {
            let name = format!("{}/{}", method.service(), method.method());
            Span::current().record("otel.name", name);
        }
        let value = traceparent().and_then(|text| text.parse().ok());
        if let Some(value) = value {
            request.metadata_mut().insert("traceparent", value);
        }
    }

    pub(crate) fn send_control(call: &Call) -> String {
        Span::current().record("otel.name", format!("Control/{}", name(call)));
        traceparent().unwrap_or_default()
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

    /// Writes the current span as the W3C has it, if it is part of a trace.
    fn traceparent() -> Option<String> {
        let context = Span::current().context();
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| {
            format!(
                "00-{}-{}-{:02x}",
                span.trace_id(),
                span.span_id(),
                span.trace_flags().to_u8()
            )
        })
    }
}
