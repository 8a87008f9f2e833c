//! Writes a recording, frame by frame.

use std::io::Write;

use super::event::{EventChunk, encode_body};
use super::head::{End, Head, ImageEnd, Meters};
use super::image::{Entry, ImageChunk};
use super::{CHUNK_BYTES, Error, Event, FrameKind, MAGIC, Result, VERSION};
use crate::engine::frame;

/// The level of zstd: the fastest one that finds repeated keys.
const LEVEL: i32 = 1;

/// A recording that is being written.
pub struct Writer<W> {
    target: W,
    /// The file's name, for errors.
    name: String,
    /// Bytes written.
    offset: u64,
    head: Head,
    image: ImageChunk,
    image_end: ImageEnd,
    events: EventChunk,
    compressed: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a recording in `target`, a new and empty file that is called `name` in errors.
    pub fn new(target: W, name: &str, head: Head) -> Result<Writer<W>> {
        let mut writer = Writer {
            target,
            name: name.to_string(),
            offset: 0,
            head,
            image: ImageChunk::default(),
            image_end: ImageEnd::default(),
            events: EventChunk::default(),
            compressed: Vec::new(),
        };
        let mut first = MAGIC.to_vec();
        first.push(VERSION);
        writer.write(&first)?;
        let head = writer.head.to_json();
        writer.frame(FrameKind::Head, head.as_bytes())?;
        Ok(writer)
    }

    /// What it says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Appends an entry of the image.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.image.push(&entry.key, &entry.value);
        self.image_end.entries += 1;
        self.image_end.key_bytes += entry.key.len() as u64;
        self.image_end.value_bytes += entry.value.length();
        if self.image.bytes().len() >= CHUNK_BYTES { self.flush_image() } else { Ok(()) }
    }

    /// Entries of the image so far.
    pub fn entries(&self) -> u64 {
        self.image_end.entries
    }

    /// Ends the image, which holds every batch up to `lsn`.
    pub fn end_image(&mut self, lsn: u64, is_of_one_moment: bool) -> Result<()> {
        self.flush_image()?;
        let end = ImageEnd { lsn, is_of_one_moment, ..self.image_end };
        self.frame(FrameKind::ImageEnd, end.to_json().as_bytes())
    }

    /// Appends an event.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        let mut body = Vec::new();
        encode_body(&mut body, &event.asked);
        self.events.push(event.front(), &body);
        if self.events.bytes().len() >= CHUNK_BYTES { self.flush_events() } else { Ok(()) }
    }

    /// Appends a frame of events that somebody else has filled.
    pub(super) fn chunk(&mut self, chunk: &EventChunk) -> Result<()> {
        if chunk.events() == 0 {
            return Ok(());
        }
        self.compressed_frame(FrameKind::Events, chunk.bytes())
    }

    /// Appends the meters, behind all events so far.
    pub fn meters(&mut self, meters: &Meters) -> Result<()> {
        self.flush_events()?;
        self.frame(FrameKind::Meters, meters.to_json().as_bytes())
    }

    /// Ends the recording; the bytes of all of it.
    pub fn end(mut self, why: &str) -> Result<u64> {
        self.flush_events()?;
        self.frame(FrameKind::End, End { why: why.to_string() }.to_json().as_bytes())?;
        self.target.flush().map_err(|error| self.failed(error))?;
        Ok(self.offset)
    }

    fn flush_image(&mut self) -> Result<()> {
        if self.image.bytes().is_empty() {
            return Ok(());
        }
        let mut image = std::mem::take(&mut self.image);
        let written = self.compressed_frame(FrameKind::Image, image.bytes());
        image.clear();
        self.image = image;
        written
    }

    fn flush_events(&mut self) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let written = self.chunk(&events);
        events.clear();
        self.events = events;
        written
    }

    fn compressed_frame(&mut self, kind: FrameKind, bytes: &[u8]) -> Result<()> {
        let mut compressed = std::mem::take(&mut self.compressed);
        compressed.clear();
        compressed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        let packed = zstd::bulk::compress(bytes, LEVEL).map_err(|error| self.failed(error))?;
        compressed.extend_from_slice(&packed);
        let written = self.frame(kind, &compressed);
        self.compressed = compressed;
        written
    }

    fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<()> {
        let bytes = frame::encode(kind as u8, self.offset, payload);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.target.write_all(bytes).map_err(|error| self.failed(error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("writing {}", self.name), error)
    }
}
