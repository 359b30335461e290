//! Traces for an OpenTelemetry collector (feature `otel`): each call is a span, and goes on with the
//! trace that its client sends along, as the W3C's `traceparent` has it (in gRPC metadata, and in
//! each call of a Control stream). Set up by the environment alone, as every OTLP exporter is
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`); without it, or without the feature, nothing is done.

/// Makes a call's span part of the client's trace. `traceparent` is a client's word: one that makes
/// no sense counts as none.
#[cfg(not(feature = "otel"))]
pub(crate) fn continue_trace(_span: &tracing::Span, _name: &str, _traceparent: Option<&str>) {}

#[cfg(feature = "otel")]
pub(crate) use exported::{Traces, continue_trace};

#[cfg(feature = "otel")]
mod exported {
    use std::ffi::OsString;
    use std::fmt;
    use std::time::Duration;

    use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_otlp::SpanExporter;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::runtime::{Builder, Runtime};
    use tracing::level_filters::LevelFilter;
    use tracing::{Level, Span, Subscriber};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::registry::LookupSpan;

    /// Where the exporter's own rules look for a collector.
    const ENDPOINTS: [&str; 2] = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    /// How long the last spans may take to reach the collector when the process ends.
    const LAST_EXPORT: Duration = Duration::from_secs(2);

    /// The way to the collector. Spans that come faster than it takes them are dropped by the SDK,
    /// beyond `OTEL_BSP_MAX_QUEUE_SIZE` (2 048).
    pub(crate) struct Traces {
        provider: SdkTracerProvider,
        /// The exporter's connection lives here: it is set up before the daemon's runtime, and is
        /// needed after it.
        runtime: Option<Runtime>,
    }

    impl fmt::Debug for Traces {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Traces").finish_non_exhaustive()
        }
    }

    impl Traces {
        /// Returns the way to the collector that the environment names, if it names one.
        ///
        /// # Errors
        /// What the exporter says of its variables, or the OS of a runtime.
        pub(crate) fn from_environment(
            variable: impl Fn(&str) -> Option<OsString>,
        ) -> Result<Option<Self>, Box<dyn std::error::Error + Send + Sync>> {
            let is_set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
            if !ENDPOINTS.iter().any(is_set) {
                return Ok(None);
            }
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("goumemd-otlp")
                .enable_all()
                .build()?;
            let exporter = {
                let _inside = runtime.enter();
                SpanExporter::builder().with_tonic().build()?
            };
            let mut resource = Resource::builder();
            if !is_set(&"OTEL_SERVICE_NAME") {
                resource = resource.with_service_name("goumemd");
            }
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource.build())
                .build();
            Ok(Some(Self {
                provider,
                runtime: Some(runtime),
            }))
        }

        /// Returns what makes spans of goumem's calls. It does not go by the level of the log.
        pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
        where
            S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
        {
            // The exporter's own connection would trace itself for ever.
            let ours = filter_fn(|metadata| {
                metadata.target().starts_with("goumem") && *metadata.level() <= Level::DEBUG
            });
            tracing_opentelemetry::layer()
                .with_tracer(self.provider.tracer("goumemd"))
                .with_location(false)
                .with_threads(false)
                .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
        }

        /// Sends what has not been sent. There are no more spans after that.
        pub(crate) fn end(&self) {
            // A collector that does not answer has lost them.
            let _ = self.provider.shutdown_with_timeout(LAST_EXPORT);
        }
    }

    impl Drop for Traces {
        fn drop(&mut self) {
            if let Some(runtime) = self.runtime.take() {
                runtime.shutdown_background();
            }
        }
    }

    /// See the other one.
    pub(crate) fn continue_trace(span: &Span, name: &str, traceparent: Option<&str>) {
        if span.is_disabled() {
            return;
        }
        span.record("otel.kind", "server");
        span.record("otel.name", name);
        let Some(traceparent) = traceparent else {
            return;
        };
        let context = TraceContextPropagator::new().extract(&Parent(traceparent));
        if context.span().span_context().is_valid() {
            // Without the layer there is no trace to be part of.
            let _ = span.set_parent(context);
        }
    }

    /// A carrier of one header.
    struct Parent<'a>(&'a str);

    impl Extractor for Parent<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            (key == "traceparent").then_some(self.0)
        }

        fn keys(&self) -> Vec<&str> {
            vec!["traceparent"]
        }
    }
}
