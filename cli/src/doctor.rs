//! `goumemctl doctor`: looks at the daemon and at the machine for what goes wrong in practice, and
//! says for each finding what it is, the numbers, and what to type. The checks are functions over a
//! [`Machine`], which may be a directory that looks like one: so each is tested with its fault.

mod checks;
mod finding;
mod machine;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::checks::CHECKS;
use self::finding::{Finding, Level};
use self::machine::Machine;
use crate::error::Failure;
use crate::output::{Cell, List, Output, Record};

/// Runs every check. Ends with 1 if there is a problem.
pub(crate) fn run(socket: Option<&Path>) -> Result<Output, Failure> {
    Ok(report(&examine(&Machine::this(socket)?)))
}

fn examine(machine: &Machine) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(machine)).collect()
}

fn report(findings: &[Finding]) -> Output {
    let mut text = String::new();
    let mut list = List::new(&["check", "level", "message", "numbers", "try"]);
    for finding in findings {
        text.push_str(&finding.to_string());
        list.push([
            finding.check.into(),
            finding.level.name().into(),
            finding.message.as_str().into(),
            Cell::Record(finding.numbers.clone()),
            Cell::Texts(finding.mend.clone()),
        ]);
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count() as u64;
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let (notes, ok) = (count(Level::Note), count(Level::Ok));
    text.push_str(&format!(
        "\n{problems} problems, {warnings} warnings, {notes} notes, {ok} ok\n"
    ));
    let facts = Record::new()
        .with("problems", problems)
        .with("warnings", warnings)
        .with("notes", notes)
        .with("ok", ok)
        .with("findings", list);
    Output::Report {
        text,
        facts,
        failed: problems > 0,
    }
}
