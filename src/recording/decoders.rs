//! The decoders of recordings.

use bytes::Bytes;

use super::event::{Asked, Change, Content, Event, EventChunk, EventsOfFrame, encode_body};
use super::image::{EntriesOfFrame, Entry, ImageChunk};
use super::{Head, Meters, Recording, Writer};
use crate::base::decoder::Decoder;

/// The decoders of recordings.
pub const ALL: &[Decoder] = &[
    Decoder { name: "recording", decode: recording, valid: recordings },
    Decoder { name: "recorded_events", decode: events, valid: event_frames },
    Decoder { name: "recorded_image", decode: image, valid: image_frames },
];

fn recording(bytes: &[u8]) -> bool {
    let Ok(recording) = Recording::of_bytes("bytes", Bytes::copy_from_slice(bytes)) else { return false };
    let entries = recording.image().map(|entries| entries.filter(|entry| entry.is_ok()).count());
    let events = recording.events().map(|events| events.filter(|event| event.is_ok()).count());
    entries.is_ok() && events.is_ok()
}

fn recordings() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    let written = Writer::new(&mut bytes, "bytes", Head::default()).and_then(|mut writer| {
        writer.entry(&entry())?;
        writer.end_image(1, true)?;
        sample_events().iter().try_for_each(|event| writer.event(event))?;
        writer.meters(&Meters::default())?;
        writer.end("done")
    });
    written.map(|_| bytes).into_iter().collect()
}

fn events(bytes: &[u8]) -> bool {
    let Some(mut frame) = EventsOfFrame::new(Bytes::copy_from_slice(bytes), false) else { return false };
    while !frame.is_done() {
        if frame.take().is_none() {
            return false;
        }
    }
    true
}

fn event_frames() -> Vec<Vec<u8>> {
    let mut chunk = EventChunk::default();
    for event in sample_events() {
        let mut body = Vec::new();
        encode_body(&mut body, &event.asked);
        chunk.push(event.front(), &body);
    }
    vec![chunk.bytes().to_vec()]
}

fn image(bytes: &[u8]) -> bool {
    let mut frame = EntriesOfFrame::new(Bytes::copy_from_slice(bytes), false);
    while !frame.is_done() {
        if frame.take().is_none() {
            return false;
        }
    }
    true
}

fn image_frames() -> Vec<Vec<u8>> {
    let mut chunk = ImageChunk::default();
    for key in [&b"key"[..], b"key2", b"other"] {
        chunk.push(key, &Content::Length(4096));
    }
    vec![chunk.bytes().to_vec()]
}

fn entry() -> Entry {
    Entry { key: Bytes::from_static(b"key"), value: Content::Length(100) }
}

fn sample_events() -> Vec<Event> {
    let key = Bytes::from_static(b"key");
    let change = Change { key: key.clone(), value: Some(Content::Length(100)) };
    let asked = [
        Asked::Batch { lsn: 100, changes: vec![change, Change { key: key.clone(), value: None }] },
        Asked::Get { key: key.clone(), found: Some(100) },
        Asked::Scan { start: key.clone(), end: Some(key), entries: 3, bytes: 400 },
        Asked::Sync { number: 1 },
        Asked::Synced { number: 1 },
        Asked::Gap { events: 7 },
    ];
    let event = |asked| Event { tag: 1, thread: 2, start_ns: 1000, duration_ns: 30, asked };
    asked.into_iter().map(event).collect()
}
