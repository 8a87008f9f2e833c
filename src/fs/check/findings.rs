//! What is wrong, and what would make it go.

use super::Problem;

/// Keys to write, or with `None` to delete, all in one batch.
pub(super) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What makes a problem go.
pub(in crate::fs) struct Mend {
    /// What is done, in one sentence.
    pub what: String,
    pub changes: Changes,
}

/// What was found so far.
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

    /// Something is wrong: `what`, in one sentence.
    pub fn problem(&mut self, what: String) {
        self.problems += 1;
        (self.report)(Problem { what });
    }

    /// These changes would make a problem go.
    pub fn mend(&mut self, what: String, changes: Changes) {
        self.mends.push(Mend { what, changes });
    }

    /// It would go without `key`.
    pub fn drop_key(&mut self, what: String, key: Vec<u8>) {
        self.mend(what, vec![(key, None)]);
    }
}
