//! The line that says how a benchmark went.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::timing::Medians;

/// What was measured: less is better.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    bench: &'static str,
    unit: &'static str,
    goumem: f64,
    peers: BTreeMap<&'static str, f64>,
    /// The peer with the least.
    best_peer: Option<&'static str>,
    /// goumem's value over the best peer's.
    ratio: Option<f64>,
}

impl Line {
    pub(crate) fn new(bench: &'static str, unit: &'static str, medians: Medians) -> Self {
        let Medians { goumem, peers } = medians;
        let best = peers.iter().min_by(|a, b| a.1.total_cmp(b.1));
        let best = best.map(|(&name, &value)| (name, value));
        Self {
            bench,
            unit,
            goumem: rounded(goumem),
            best_peer: best.map(|(name, _)| name),
            ratio: best.map(|(_, value)| rounded(goumem / value)),
            peers: peers
                .into_iter()
                .map(|(name, value)| (name, rounded(value)))
                .collect(),
        }
    }

    /// Prints it, as JSON or as a row of the table.
    ///
    /// # Errors
    /// None that a line of numbers could have.
    #[expect(clippy::print_stdout, reason = "it is what the program is for")]
    pub(crate) fn print(&self, json: bool) -> serde_json::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let ratio = self
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let peers: Vec<_> = self
            .peers
            .iter()
            .map(|(name, value)| format!("{name} {value:.1}"))
            .collect();
        println!(
            "{:<16} {:>9} {:>10.1} {ratio:>6}  {}",
            self.bench,
            self.unit,
            self.goumem,
            peers.join(", ")
        );
        Ok(())
    }
}

/// Prints the head of the table.
#[expect(clippy::print_stdout, reason = "it is what the program is for")]
pub(crate) fn print_head() {
    println!(
        "{:<16} {:>9} {:>10} {:>6}  beside",
        "bench", "unit", "goumem", "ratio"
    );
}

/// To a thousandth: more was not measured.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_best_peer() {
        let peers = BTreeMap::from([("slow", 20.0), ("fast", 8.0)]);
        let line = Line::new(
            "b",
            "us",
            Medians {
                goumem: 10.0,
                peers,
            },
        );
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"bench":"b","unit":"us","goumem":10.0,"peers":{"fast":8.0,"slow":20.0},"best_peer":"fast","ratio":1.25}"#
        );
    }

    #[test]
    fn without_peers_there_is_no_ratio() {
        let line = Line::new(
            "b",
            "ns",
            Medians {
                goumem: 1.5,
                peers: BTreeMap::new(),
            },
        );
        assert_eq!((line.best_peer, line.ratio), (None, None));
    }
}
