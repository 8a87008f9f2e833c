//! `torn=image`: images of the pages that a batch changed are logged behind it.

use super::core::Core;
use super::options::Torn;
use super::records::{BATCH_IMAGE_KIND, batch_image_bytes, put_batch_image_header};
use crate::disk::Purpose;
use crate::engine::PageCause;
use crate::engine::wal::RECORD_OVERHEAD_BYTES;

impl Core {
    /// With `torn=image`, logs images of the pages that the last batch changed. The batch is valid without them. On a full disk they are left
    /// out: the log needs its files for the checkpoint, which makes the missing ones.
    pub fn log_batch_images(&self) {
        if self.options.torn != Torn::Image {
            return;
        }
        let touched = self.tree.write().take_touched();
        if self.guard.spare_bytes() == 0 {
            return;
        }
        for (number, fresh, page) in touched {
            let bytes = batch_image_bytes(self.pager.page_bytes());
            let logged = self.log.append(BATCH_IMAGE_KIND, Purpose::PageImage, bytes, |target| {
                put_batch_image_header(target, number, fresh);
                self.pager.seal(&page, number, target);
            });
            match logged {
                Ok(_) => {
                    let bytes = bytes as u64 + RECORD_OVERHEAD_BYTES;
                    self.pager.count_written(page.kind(), PageCause::Image, 1, bytes);
                    self.tree.write().set_imaged(number);
                }
                // There is no space for a segment; the checkpoint will make the images. A failed log refuses the next batch.
                Err(_) => return,
            }
        }
    }
}
