//! Steps out of a recording.

use super::steps::{StepBuilder, Steps};
use crate::engine::{Kind, Options};
use crate::recording::{Asked, Recording, Result};

/// What of a recording is not in its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The engine, with its options as in `-o`.
    pub engine: String,
    /// See there.
    pub options: Vec<(String, String)>,
    /// Bytes that programs wrote and read; `None` where nobody counted.
    pub app_write_bytes: Option<u64>,
    /// See there.
    pub app_read_bytes: Option<u64>,
    /// Nanoseconds from its beginning to its last event.
    pub elapsed_ns: u64,
    /// Entries of the image, and whether it is whole.
    pub image_entries: u64,
    /// See there.
    pub is_image_whole: bool,
    /// Events that are missing.
    pub gap_events: u64,
}

impl Recorded {
    /// The options of the store that was recorded; `None` if its engine is not here.
    pub fn store_options(&self) -> Option<Options> {
        let kind = Kind::all().find(|kind| kind.name == self.engine)?;
        let mut options = kind.default_options();
        for (name, value) in &self.options {
            // What a mount has beside its engine is none of these, and what another version had may be none any more.
            let _ = options.set_if_known(name, value);
        }
        options.validate().ok().map(|()| options)
    }
}

/// The steps of `recording`; `note` is told how many events were read so far.
pub fn steps(recording: &Recording, note: &mut dyn FnMut(u64)) -> Result<(Steps, Recorded)> {
    let (head, meters) = (recording.head(), recording.meters());
    let mut recorded = Recorded {
        engine: head.engine.clone(),
        options: head.options.clone(),
        app_write_bytes: meters.and_then(|meters| meters.app_write_bytes).filter(|bytes| *bytes > 0),
        app_read_bytes: meters.and_then(|meters| meters.app_read_bytes).filter(|bytes| *bytes > 0),
        is_image_whole: recording.image_end().is_some(),
        ..Recorded::default()
    };
    let mut builder = StepBuilder::default();
    for entry in recording.image()? {
        let entry = entry?;
        builder.image(&entry.key, entry.value.length());
        recorded.image_entries += 1;
    }
    builder.mark();
    let (mut last_ns, mut count) = (0, 0);
    for event in recording.events()? {
        let event = event?;
        let now_ns = event.start_ns + event.duration_ns;
        recorded.elapsed_ns = recorded.elapsed_ns.max(now_ns);
        match event.asked {
            Asked::Batch { changes, .. } => {
                for change in &changes {
                    match &change.value {
                        Some(value) => builder.put(&change.key, value.length()),
                        None => builder.delete(&change.key),
                    }
                }
                builder.end_batch(now_ns.saturating_sub(last_ns));
                last_ns = last_ns.max(now_ns);
            }
            Asked::Get { key, .. } => builder.get(&key),
            Asked::Scan { start, entries, .. } => builder.scan(&start, entries),
            Asked::Sync { .. } => builder.sync(),
            Asked::Synced { .. } => {}
            Asked::Gap { events } => recorded.gap_events += events,
        }
        count += 1;
        if count % 65_536 == 0 {
            note(count);
        }
    }
    Ok((builder.finish(), recorded))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::advise::steps::Step;
    use crate::recording::{Change, Content, Entry, Event, Head, Meters, Writer};

    fn event(start_ns: u64, asked: Asked) -> Event {
        Event { tag: 0, thread: 0, start_ns, duration_ns: 5, asked }
    }

    #[test]
    fn a_recording_becomes_steps() {
        let head = Head {
            engine: "lsm".to_string(),
            options: vec![("policy".into(), "tiered".into()), ("colour".into(), "red".into())],
            ..Head::default()
        };
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, "test", head).unwrap();
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        writer.entry(&Entry { key: key("a"), value: Content::Length(10) }).unwrap();
        writer.end_image(7, true).unwrap();
        let changes = vec![
            Change { key: key("b"), value: Some(Content::Length(3)) },
            Change { key: key("a"), value: None },
        ];
        for asked in [
            Asked::Batch { lsn: 9, changes },
            Asked::Get { key: key("b"), found: Some(3) },
            Asked::Scan { start: key("a"), end: None, entries: 1, bytes: 4 },
            Asked::Gap { events: 2 },
            Asked::Sync { number: 1 },
            Asked::Synced { number: 1 },
        ] {
            writer.event(&event(100, asked)).unwrap();
        }
        writer.meters(&Meters { app_write_bytes: Some(50), ..Meters::default() }).unwrap();
        writer.end("done").unwrap();
        let recording = Recording::of_bytes("test", bytes.into()).unwrap();
        let (steps, recorded) = steps(&recording, &mut |_| {}).unwrap();
        let all: Vec<Step> = steps.iter().collect();
        assert_eq!(
            all,
            [
                Step::Put { rank: 0, value_bytes: 10 },
                Step::Batch { nanos: 0 },
                Step::Mark,
                Step::Put { rank: 1, value_bytes: 3 },
                Step::Delete { rank: 0 },
                Step::Batch { nanos: 105 },
                Step::Get { rank: 1, is_found: true },
                Step::Scan { from: 0, to: 1 },
                Step::Sync,
            ]
        );
        assert_eq!((recorded.app_write_bytes, recorded.app_read_bytes), (Some(50), None));
        assert_eq!((recorded.gap_events, recorded.image_entries, recorded.elapsed_ns), (2, 1, 105));
        assert_eq!(recorded.store_options().unwrap().get("policy").as_deref(), Some("tiered"));
    }
}
