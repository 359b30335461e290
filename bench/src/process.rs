//! What the kernel says of a process: its memory, its children, how often it woke.

use std::fs;

use anyhow::Context as _;

/// Memory of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// What it has in memory, with what it shares with others.
    pub(crate) rss_bytes: f64,
    /// The same, each page divided by how many have it.
    pub(crate) pss_bytes: f64,
}

/// Returns the memory of a process.
///
/// # Errors
/// That it is gone; that the kernel does not tell.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = |key: &str| {
        let value = field(&text, key).with_context(|| format!("no {key} in {path}"))?;
        anyhow::Ok(value * 1024.0)
    };
    Ok(Memory {
        rss_bytes: bytes("Rss:")?,
        pss_bytes: bytes("Pss:")?,
    })
}

/// Returns the children of a process, by any of its threads.
///
/// # Errors
/// That it is gone; that the kernel does not tell.
pub(crate) fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in tasks(pid)? {
        let of_task = fs::read_to_string(format!("{task}/children"))?;
        children.extend(
            of_task
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    Ok(children)
}

/// Returns how often the threads of a process have been given a processor after they had none to
/// run on: each wake-up is one.
///
/// # Errors
/// That it is gone.
pub(crate) fn switches(pid: u32) -> anyhow::Result<f64> {
    let mut switches = 0.0;
    for task in tasks(pid)? {
        // A thread that has ended meanwhile has woken for the last time.
        let Ok(status) = fs::read_to_string(format!("{task}/status")) else {
            switches += 1.0;
            continue;
        };
        for key in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
            switches += field(&status, key).with_context(|| format!("no {key} in {task}"))?;
        }
    }
    Ok(switches)
}

fn tasks(pid: u32) -> anyhow::Result<Vec<String>> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).with_context(|| path.clone())?;
    tasks
        .map(|task| Ok(format!("{path}/{}", task?.file_name().display())))
        .collect()
}

fn field(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}
