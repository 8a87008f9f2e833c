//! The file of a table while it is written: frames are appended to a buffer, which goes to the file a mebibyte at a time.

use std::sync::Arc;

use super::{TableNumber, TableStore};
use crate::disk::{File, Purpose};
use crate::engine::{Error, Result, Work, frame};

/// The file is written in pieces of at least this size.
const WRITE_BYTES: usize = 1 << 20;

/// A frame that was begun and not ended: where it starts in the buffer.
#[derive(Clone, Copy)]
pub struct OpenFrame(usize);

/// The file of a table that is being written. Dropped before [`TableWriter::finish`], it removes the file.
pub struct TableWriter {
    table_store: Arc<TableStore>,
    number: TableNumber,
    purpose: Purpose,
    file: Arc<dyn File>,
    /// Bytes that are not in the file yet. The others are before them.
    buffer: Vec<u8>,
    written_bytes: u64,
    /// Classes of keys of the blocks that are in the buffer, and the bytes of each.
    classes: Vec<(u8, u64)>,
    is_finished: bool,
}

impl TableWriter {
    /// Writes table `number` to `file`.
    pub fn new(
        table_store: Arc<TableStore>,
        purpose: Purpose,
        number: TableNumber,
        file: Arc<dyn File>,
    ) -> TableWriter {
        let (buffer, classes) = (Vec::new(), Vec::new());
        TableWriter {
            table_store,
            number,
            purpose,
            file,
            buffer,
            written_bytes: 0,
            classes,
            is_finished: false,
        }
    }

    /// The store of the table.
    pub fn table_store(&self) -> &Arc<TableStore> {
        &self.table_store
    }

    /// The file that is written.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.written_bytes + self.buffer.len() as u64
    }

    /// Bytes that are in the file.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// The buffer to which payloads are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Begins a frame of `kind`; its payload is appended to the buffer.
    pub fn begin_frame(&mut self, kind: u8) -> OpenFrame {
        OpenFrame(frame::start(&mut self.buffer, kind))
    }

    /// The payload of a frame so far.
    pub fn payload(&self, open: OpenFrame) -> &[u8] {
        &self.buffer[open.0 + frame::HEADER_BYTES..]
    }

    /// Bytes of a frame so far.
    pub fn frame_bytes(&self, open: OpenFrame) -> u64 {
        (self.buffer.len() - open.0) as u64
    }

    /// Puts `payload` of another `kind` in the place of the payload of a frame.
    pub fn replace_payload(&mut self, open: OpenFrame, kind: u8, payload: &[u8]) {
        self.buffer.truncate(open.0);
        frame::start(&mut self.buffer, kind);
        self.buffer.extend_from_slice(payload);
    }

    /// Ends a frame: its length and checksum are known now. The bytes that it takes.
    pub fn end_frame(&mut self, open: OpenFrame) -> u64 {
        let place = self.number.frame_place(self.written_bytes + open.0 as u64);
        let bytes = self.frame_bytes(open);
        let (cpu, buffer) = (self.table_store.cpu(), &mut self.buffer);
        cpu.sample(Work::Checksum, bytes, || frame::finish(buffer, open.0, place));
        bytes
    }

    /// Appends a whole frame, whose payload `encode` appends. The bytes that it takes.
    pub fn frame(&mut self, kind: u8, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let open = self.begin_frame(kind);
        encode(&mut self.buffer);
        self.end_frame(open)
    }

    /// Counts the bytes of a block by the classes of its keys once they are written.
    pub fn count_classes(&mut self, classes: impl Iterator<Item = (u8, u64)>) {
        self.classes.extend(classes);
    }

    /// Writes the buffer if it is long enough. No frame may be open.
    pub fn write_if_long(&mut self) -> Result<()> {
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let context = |error| Error::io(format!("writing {}", self.number.file_name()), error);
        self.file.write_at(self.purpose, self.written_bytes, &self.buffer).map_err(context)?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        for (class, bytes) in self.classes.drain(..) {
            self.table_store.classes().add(class, bytes);
        }
        Ok(())
    }

    /// Writes what is left and makes the bytes durable, not yet the name; the size of the file.
    pub fn finish(&mut self) -> Result<u64> {
        self.write()?;
        let context = |error| Error::io(format!("sync of {}", self.number.file_name()), error);
        // XFS keeps as much again behind a file that grew, for as long as it is open; this gives it back.
        self.file.set_size(self.written_bytes).map_err(context)?;
        self.file.sync(self.purpose).map_err(context)?;
        self.is_finished = true;
        Ok(self.written_bytes)
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            self.table_store.remove(self.number);
        }
    }
}
