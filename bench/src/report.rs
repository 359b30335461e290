//! The line that says how a benchmark went.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::peers;
use crate::suite::Bench;
use crate::timing::Medians;

/// What a benchmark should show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) enum Goal {
    /// goumem's value is at most so many times the yardstick's.
    #[serde(rename = "ratio")]
    Ratio(f64),
    /// goumem's value is at most so many times the best peer's, of all peers.
    #[serde(rename = "ratio")]
    RatioToPeers(f64),
    /// goumem's value is at most so much.
    #[serde(rename = "value")]
    Value(f64),
}

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
    goal: Option<Goal>,
    /// Whether the goal is met; none where it cannot be told.
    holds: Option<bool>,
    /// What else was measured: nothing is compared with it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    also: BTreeMap<&'static str, f64>,
}

impl Line {
    pub(crate) fn new(bench: &Bench, unit: &'static str, medians: Medians) -> Self {
        let Medians { goumem, peers } = medians;
        let best = peers.iter().min_by(|a, b| a.1.total_cmp(b.1));
        let best = best.map(|(&name, &value)| (name, value));
        let ratio = best.map(|(_, value)| goumem / value);
        let holds = match bench.goal {
            Some(Goal::Ratio(most)) => ratio.map(|ratio| ratio <= most),
            Some(Goal::RatioToPeers(most)) if peers::ALL => ratio.map(|ratio| ratio <= most),
            Some(Goal::Value(most)) => Some(goumem <= most),
            Some(Goal::RatioToPeers(_)) | None => None,
        };
        Self {
            bench: bench.name,
            unit,
            goumem: rounded(goumem),
            best_peer: best.map(|(name, _)| name),
            ratio: ratio.map(rounded),
            peers: peers
                .into_iter()
                .map(|(name, value)| (name, rounded(value)))
                .collect(),
            goal: bench.goal,
            holds,
            also: BTreeMap::new(),
        }
    }

    /// Adds what else was measured, with the unit in its name.
    pub(crate) fn also(mut self, figures: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        let figures = figures.into_iter();
        self.also
            .extend(figures.map(|(name, value)| (name, rounded(value))));
        self
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
        let goal = match self.goal {
            Some(Goal::Ratio(most) | Goal::RatioToPeers(most)) => format!("ratio ≤ {most:.2}"),
            Some(Goal::Value(most)) => format!("≤ {most}"),
            None => String::new(),
        };
        let holds = match self.holds {
            Some(true) => "holds",
            Some(false) => "missed",
            None => "",
        };
        let figures = |figures: &BTreeMap<&str, f64>| {
            let figures = figures
                .iter()
                .map(|(name, value)| format!("{name} {value:.1}"));
            figures.collect::<Vec<_>>().join(", ")
        };
        let also = match figures(&self.also) {
            also if also.is_empty() => also,
            also => format!("({also})"),
        };
        println!(
            "{:<22} {:>9} {:>10.2} {ratio:>6}  {goal:<12} {holds:<6}  {}{also}",
            self.bench,
            self.unit,
            self.goumem,
            figures(&self.peers)
        );
        Ok(())
    }
}

/// Prints the head of the table.
#[expect(clippy::print_stdout, reason = "it is what the program is for")]
pub(crate) fn print_head() {
    println!(
        "{:<22} {:>9} {:>10} {:>6}  {:<12} {:<6}  beside",
        "bench", "unit", "goumem", "ratio", "goal", ""
    );
}

/// To a thousandth: more was not measured.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::Effort;

    fn bench(goal: Option<Goal>) -> Bench {
        let run = |bench: &Bench, _| {
            let peers = BTreeMap::from([("slow", 20.0), ("fast", 8.0)]);
            let goumem = 10.0;
            Ok(Line::new(bench, "us", Medians { goumem, peers }))
        };
        Bench {
            name: "b",
            goal,
            run,
        }
    }

    fn measure(bench: &Bench) -> Line {
        (bench.run)(
            bench,
            Effort {
                quick: true,
                alone: false,
            },
        )
        .unwrap()
    }

    #[test]
    fn the_ratio_is_to_the_best_peer() {
        let line = measure(&bench(Some(Goal::Ratio(1.25))));
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"bench":"b","unit":"us","goumem":10.0,"peers":{"fast":8.0,"slow":20.0},"best_peer":"fast","ratio":1.25,"goal":{"ratio":1.25},"holds":true}"#
        );
    }

    #[test]
    fn a_goal_holds_up_to_its_number() {
        let holds = |goal| measure(&bench(Some(goal))).holds;
        assert_eq!(holds(Goal::Ratio(1.24)), Some(false));
        assert_eq!(holds(Goal::Value(10.0)), Some(true));
        assert_eq!(holds(Goal::Value(9.0)), Some(false));
        assert_eq!(measure(&bench(None)).holds, None);
    }

    #[test]
    fn a_goal_about_the_peers_is_not_judged_without_them() {
        let line = measure(&bench(Some(Goal::RatioToPeers(2.0))));
        assert_eq!(line.holds, peers::ALL.then_some(true));
    }

    #[test]
    fn what_else_was_measured_is_said_and_not_compared() {
        let line = measure(&bench(None)).also([("of_ms", 0.25)]);
        let json = serde_json::to_string(&line).unwrap();
        assert!(
            json.ends_with(r#""holds":null,"also":{"of_ms":0.25}}"#),
            "{json}"
        );
        assert_eq!(line.best_peer, Some("fast"));
    }

    #[test]
    fn without_peers_there_is_no_ratio() {
        let peers = BTreeMap::new();
        let goumem = 1.5;
        let goal = Some(Goal::Ratio(1.0));
        let line = Line::new(&bench(goal), "ns", Medians { goumem, peers });
        assert_eq!((line.best_peer, line.ratio, line.holds), (None, None, None));
    }
}
