//! Problems found, and the changes that would mend them.

use super::Problem;

/// Keys to write, or with `None` to delete, all in one batch.
pub(super) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The mend of a problem.
pub(in crate::fs) struct Mend {
    /// The change, in one sentence.
    pub what: String,
    pub changes: Changes,
}

/// Problems and mends found so far.
pub(super) struct Findings<'a> {
    report: &'a mut dyn FnMut(Problem),
    /// Problems that were reported.
    pub problems: u64,
    pub mends: Vec<Mend>,
}

impl Findings<'_> {
    /// Nothing yet; each problem goes to `report` when it is found.
    pub fn new(report: &mut dyn FnMut(Problem)) -> Findings<'_> {
        Findings { report, problems: 0, mends: Vec::new() }
    }

    /// Reports a problem: `what`, in one sentence.
    pub fn problem(&mut self, what: String) {
        self.problems += 1;
        (self.report)(Problem { what });
    }

    /// Notes changes that would mend a problem.
    pub fn mend(&mut self, what: String, changes: Changes) {
        self.mends.push(Mend { what, changes });
    }

    /// Notes that removing `key` would mend a problem.
    pub fn drop_key(&mut self, what: String, key: Vec<u8>) {
        self.mend(what, vec![(key, None)]);
    }
}
