//! The shape of the engine now, for reports. Costs the same however many tables there are.

use super::LsmEngine;
use crate::engine::Shape;

impl LsmEngine {
    /// The shape now: that of the levels, with the flush that is being done and the log. Waits for nobody.
    pub(super) fn report(&self) -> Shape {
        let mut shape = self.levels.report(&self.log.shape());
        shape.cpu = shape.cpu + self.log.cpu();
        shape.jobs.splice(0..0, self.flusher.activity());
        shape
    }
}
