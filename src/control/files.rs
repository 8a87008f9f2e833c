//! The tree of files below `.stats` and `.stats.d`, and the source of each text.

use std::sync::Arc;

use super::{Control, Report, command, json, render, tables};
use crate::engine::Engine;
use crate::fs::types::{Caller, ROOT};
use crate::virtual_files::{Done, VirtualDirectory, VirtualFile, VirtualTree};

/// Builds the tree.
pub(super) fn tree(control: &Arc<Control>) -> VirtualTree {
    let (uid, gid) = control.mount.owner;
    let owner = Caller { uid, gid, pid: 0 };
    let mut tree = VirtualTree::new(owner, control.parts.clock.clone());
    tree.add_file(ROOT, ".stats", Arc::new(Summary(control.clone())));
    let parts = tree.add_directory(ROOT, ".stats.d");
    let add = |tree: &mut VirtualTree, name, mode, text: fn(&Control) -> String| {
        tree.add_file(parts, name, Arc::new(Part { control: control.clone(), mode, text }));
    };
    add(&mut tree, "json", 0o444, |control| json::json(&control.report()));
    add(&mut tree, "prom", 0o444, |control| control.prometheus());
    add(&mut tree, "ops", 0o444, |control| tables::operations(&control.report()));
    add(&mut tree, "engine", 0o444, |control| format!("{:#?}\n", control.parts.engine.shape()));
    add(&mut tree, "events", 0o444, |control| control.events());
    add(&mut tree, "history", 0o444, |control| control.history());
    add(&mut tree, "lsm.json", 0o444, |control| tables::picture(&*control.parts.engine));
    add(&mut tree, "trace", 0o400, |control| control.explained());
    tree.add_file(parts, "ctl", Arc::new(Commands(control.clone())));
    add(&mut tree, "levels", 0o444, |control| render::levels(&control.report()));
    add(&mut tree, "config", 0o400, config);
    add(&mut tree, "help", 0o444, |_| help());
    tree.add_dynamic(parts, "since", Arc::new(Since(control.clone())));
    tree
}

/// `.stats`: the report, and the commands.
struct Summary(Arc<Control>);

impl VirtualFile for Summary {
    fn read(&self) -> Vec<u8> {
        render::text(&self.0.report()).into_bytes()
    }
    fn mode(&self) -> u32 {
        0o644
    }
    fn write(&self, caller: Caller, text: &[u8], done: Done) {
        self.0.execute(caller, text, done);
    }
}

/// `.stats.d/ctl`: takes commands as `.stats` does, and lists the last ones with their results.
struct Commands(Arc<Control>);

impl VirtualFile for Commands {
    fn read(&self) -> Vec<u8> {
        self.0.commands().into_bytes()
    }
    fn mode(&self) -> u32 {
        0o600
    }
    fn write(&self, caller: Caller, text: &[u8], done: Done) {
        self.0.execute(caller, text, done);
    }
}

/// A file of `.stats.d` that is only read.
struct Part {
    control: Arc<Control>,
    mode: u32,
    text: fn(&Control) -> String,
}

impl VirtualFile for Part {
    fn read(&self) -> Vec<u8> {
        (self.text)(&self.control).into_bytes()
    }
    fn mode(&self) -> u32 {
        self.mode
    }
}

/// `.stats.d/since`: `NAME` and `NAME.json` for each mark.
struct Since(Arc<Control>);

impl VirtualDirectory for Since {
    fn names(&self) -> Vec<Vec<u8>> {
        let both = |name: String| [format!("{name}.json").into_bytes(), name.into_bytes()];
        self.0.marks().into_iter().flat_map(both).collect()
    }

    fn file(&self, name: &[u8]) -> Option<Arc<dyn VirtualFile>> {
        let name = std::str::from_utf8(name).ok()?;
        let (mark, print): (&str, fn(&Report) -> String) = match name.strip_suffix(".json") {
            Some(mark) => (mark, json::json),
            None => (name, render::text),
        };
        let there = self.0.marks.lock().contains_key(mark);
        let growth = Growth { control: self.0.clone(), mark: mark.to_string(), print };
        there.then(|| Arc::new(growth) as Arc<dyn VirtualFile>)
    }
}

struct Growth {
    control: Arc<Control>,
    mark: String,
    print: fn(&Report) -> String,
}

impl VirtualFile for Growth {
    fn read(&self) -> Vec<u8> {
        // Empty if the mark went away since the file was found.
        self.control
            .report_since(&self.mark)
            .map(|report| (self.print)(&report))
            .unwrap_or_default()
            .into_bytes()
    }
}

fn config(control: &Control) -> String {
    let mount = &control.mount;
    let fixed = [
        ("version", mount.version.clone()),
        ("uuid", mount.uuid.clone()),
        ("store", mount.store_path.clone()),
        ("mount", mount.mount_path.clone()),
        ("pid", mount.pid.to_string()),
    ];
    let options = mount.config.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let lines = fixed.into_iter().chain(options).map(|(name, value)| format!("{name} {value}\n"));
    let changed = control.settings().into_iter().map(|(name, value)| format!("set {name}={value}\n"));
    lines.chain(changed).collect()
}

fn help() -> String {
    let mut text = String::from(
        "Write one command a line to .stats; the write returns when it has begun, with 'wait' when it has ended.\n\n",
    );
    for (form, what) in command::HELP {
        text += &format!("  {form:<22} {what}\n");
    }
    text += "\nFiles:\n";
    for (name, what) in [
        (".stats", "the report for people"),
        (".stats.d/json", "everything, integers in base units (kvfs.stats/1)"),
        (".stats.d/prom", "the same for Prometheus, text format 0.0.4"),
        (".stats.d/ops", "file operations, their batches, bytes and latencies"),
        (".stats.d/engine", "the engine's own picture of itself"),
        (".stats.d/events", "the last 4096 events, JSON lines"),
        (".stats.d/history", "one CSV line a second for 15 minutes"),
        (".stats.d/lsm.json", "every table with its level, size and keys"),
        (".stats.d/trace", "the answer to the last 'explain', and the reads of 'trace on'"),
        (".stats.d/ctl", "takes commands, lists the last 16 with their results"),
        (".stats.d/levels", "the table of levels or of the tree, one header line"),
        (".stats.d/config", "effective options and paths"),
        (".stats.d/since/NAME", "the report with counters that begin at 'mark NAME'"),
        (".stats.d/since/NAME.json", "the same for machines"),
    ] {
        text += &format!("  {name:<25} {what}\n");
    }
    text
}
