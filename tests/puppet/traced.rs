//! A client whose calls are part of a trace of its own, which the environment sends to a collector.

use std::process::ExitCode;

use goumem::PoolOptions;
use goumem::blocking::Client;
use goumemd::logging::{LogConfig, LogFormat, init};

/// Calls the daemon on that socket once in each way: by itself, and on the Control stream.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let log = LogConfig {
        level: "error".parse().unwrap(),
        format: LogFormat::Compact,
    };
    let log = init(log).unwrap();
    tracing::info_span!(target: "goumem", "work").in_scope(|| {
        let client = Client::builder().socket(&args[0]).connect().unwrap();
        let pool = client
            .create_pool("traced", PoolOptions::new(1 << 20))
            .unwrap();
        // It needs a lease.
        drop(pool.alloc::<u64>().unwrap());
    });
    log.end();
    ExitCode::SUCCESS
}
