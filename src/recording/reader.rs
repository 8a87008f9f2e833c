//! Reads a recording. Nothing of it stays in memory but where its frames lie.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

use super::event::EventsOfFrame;
use super::head::{End, Head, ImageEnd, Meters};
use super::image::EntriesOfFrame;
use super::{Asked, Entry, Error, Event, FRAME_BYTES_MAX, FrameKind, MAGIC, Result, VERSION};
use crate::disk::open_outside;
use crate::engine::frame;

trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: FrameKind,
    offset: u64,
    payload_bytes: usize,
}

/// A recording that can be read as often as one likes.
pub struct Recording {
    name: String,
    reopen: Box<dyn Fn() -> Result<Box<dyn Source>> + Send + Sync>,
    frames: Vec<Place>,
    head: Head,
    image_end: Option<ImageEnd>,
    meters: Vec<Meters>,
    end: Option<End>,
    cut_bytes: u64,
}

impl Recording {
    /// The recording in the file `path`. Its frames are found and what it says of itself is read; entries and events are looked at when
    /// they are asked for.
    pub fn open(path: &Path) -> Result<Recording> {
        let (show, path) = (path.display().to_string(), path.to_path_buf());
        let name = show.clone();
        Recording::of(show, move || {
            let file = open_outside(&path).map_err(|error| Error::io(format!("opening {name}"), error))?;
            Ok(Box::new(file))
        })
    }

    /// One in memory, for tests and imports.
    pub fn of_bytes(name: &str, bytes: Bytes) -> Result<Recording> {
        Recording::of(name.to_string(), move || Ok(Box::new(std::io::Cursor::new(bytes.clone()))))
    }

    fn of(
        name: String,
        reopen: impl Fn() -> Result<Box<dyn Source>> + Send + Sync + 'static,
    ) -> Result<Recording> {
        let mut source = reopen()?;
        let failed = |error| Error::io(format!("reading {name}"), error);
        let whole_bytes = source.seek(SeekFrom::End(0)).map_err(failed)?;
        source.rewind().map_err(failed)?;
        let mut first = [0; MAGIC.len() + 1];
        let is_ours = source.read_exact(&mut first).is_ok() && first.starts_with(MAGIC);
        if !is_ours {
            let text = format!(
                "{name} is no recording of kvfs; those are made by 'kvfs record', 'kvfs image' or 'kvfs import'"
            );
            return Err(Error::unreadable(text));
        }
        if first[MAGIC.len()] != VERSION {
            let text = format!(
                "{name} is a recording of version {}, and this program reads version {VERSION}: use the kvfs that made it",
                first[MAGIC.len()]
            );
            return Err(Error::unreadable(text));
        }
        let mut recording = Recording {
            name: name.clone(),
            reopen: Box::new(reopen),
            frames: Vec::new(),
            head: Head::default(),
            image_end: None,
            meters: Vec::new(),
            end: None,
            cut_bytes: 0,
        };
        recording.find_frames(&mut *source, first.len() as u64, whole_bytes)?;
        Ok(recording)
    }

    fn find_frames(&mut self, source: &mut dyn Source, mut offset: u64, whole_bytes: u64) -> Result<()> {
        while let Some(place) = self.look(source, offset, whole_bytes)? {
            let next = offset + (frame::HEADER_BYTES + place.payload_bytes) as u64;
            let is_compressed = matches!(place.kind, FrameKind::Image | FrameKind::Events);
            // The last one may be torn although its length is whole.
            if !is_compressed || next == whole_bytes {
                let payload = match self.payload(source, place) {
                    Err(Error::Unreadable(_)) if next == whole_bytes => break,
                    other => other?,
                };
                let is_read = match place.kind {
                    FrameKind::Head => Head::of_json(&payload).map(|head| self.head = head),
                    FrameKind::ImageEnd => ImageEnd::of_json(&payload).map(|end| self.image_end = Some(end)),
                    FrameKind::Meters => Meters::of_json(&payload).map(|meters| self.meters.push(meters)),
                    FrameKind::End => End::of_json(&payload).map(|end| self.end = Some(end)),
                    FrameKind::Image | FrameKind::Events => Some(()),
                };
                is_read.ok_or_else(|| self.damaged(place, "it does not parse"))?;
            }
            if self.frames.is_empty() && place.kind != FrameKind::Head {
                return Err(self.damaged(place, "it does not begin with its head"));
            }
            self.frames.push(place);
            offset = next;
        }
        self.cut_bytes = whole_bytes - offset;
        if self.frames.is_empty() {
            return Err(Error::unreadable(format!("{}: it ends before its head does", self.name)));
        }
        Ok(())
    }

    /// The frame at `offset`, by its header alone; `None` where the file ends before it does.
    fn look(&self, source: &mut dyn Source, offset: u64, whole_bytes: u64) -> Result<Option<Place>> {
        let failed = |error| Error::io(format!("reading {}", self.name), error);
        if whole_bytes - offset < frame::HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut header = [0; frame::HEADER_BYTES];
        source.seek(SeekFrom::Start(offset)).map_err(failed)?;
        source.read_exact(&mut header).map_err(failed)?;
        let payload_bytes = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let is_whole = (frame::HEADER_BYTES + payload_bytes) as u64 <= whole_bytes - offset;
        let kind = FrameKind::of(header[8]);
        match kind {
            Some(kind) if is_whole && payload_bytes <= FRAME_BYTES_MAX => {
                Ok(Some(Place { kind, offset, payload_bytes }))
            }
            // Room that was never written reads as zeros after a crash of the machine.
            _ if !is_whole || header == [0; frame::HEADER_BYTES] => Ok(None),
            _ => Err(Error::unreadable(format!(
                "{} is damaged at byte {offset}: no frame begins there",
                self.name
            ))),
        }
    }

    fn payload(&self, source: &mut dyn Source, place: Place) -> Result<Bytes> {
        let failed = |error| Error::io(format!("reading {}", self.name), error);
        let mut whole = vec![0; frame::HEADER_BYTES + place.payload_bytes];
        source.seek(SeekFrom::Start(place.offset)).map_err(failed)?;
        source.read_exact(&mut whole).map_err(failed)?;
        if frame::decode(&whole, place.offset).is_none() {
            return Err(self.damaged(place, "its checksum does not fit"));
        }
        Ok(Bytes::from(whole).slice(frame::HEADER_BYTES..))
    }

    fn unpacked(&self, source: &mut dyn Source, place: Place) -> Result<Bytes> {
        let payload = self.payload(source, place)?;
        let (length, packed) =
            payload.split_first_chunk().ok_or_else(|| self.damaged(place, "it does not parse"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged(place, "it is longer than any"));
        }
        let unpacked = zstd::bulk::decompress(packed, length);
        let unpacked = unpacked.ok().filter(|bytes| bytes.len() == length);
        unpacked.map(Bytes::from).ok_or_else(|| self.damaged(place, "it does not unpack"))
    }

    fn damaged(&self, place: Place, what: &str) -> Error {
        let Place { kind, offset, .. } = place;
        Error::unreadable(format!("{} is damaged: the frame at byte {offset} ({kind:?}): {what}", self.name))
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The end of its image; `None` if the recorder ended before it had one whole.
    pub fn image_end(&self) -> Option<ImageEnd> {
        self.image_end
    }

    /// The last meters; `None` if there are none.
    pub fn meters(&self) -> Option<&Meters> {
        self.meters.last()
    }

    /// Its end; `None` if the recorder was cut off, or is still at it.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Bytes behind the last whole frame.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Bytes of the file up to the end of its last whole frame.
    pub fn bytes(&self) -> u64 {
        let end = |place: &Place| place.offset + (frame::HEADER_BYTES + place.payload_bytes) as u64;
        self.frames.last().map_or(0, end)
    }

    /// The entries of the image, in the order of keys but for what the veil of names leaves open.
    pub fn image(&self) -> Result<impl Iterator<Item = Result<Entry>> + Send + use<'_>> {
        let keeps_values = self.head.keeps_values;
        self.items(
            FrameKind::Image,
            move |bytes| Some(EntriesOfFrame::new(bytes, keeps_values)),
            |frame| (!frame.is_done()).then(|| frame.take()),
        )
    }

    /// Its events in their order, without the batches that the image holds.
    pub fn events(&self) -> Result<impl Iterator<Item = Result<Event>> + Send + use<'_>> {
        let keeps_values = self.head.keeps_values;
        let in_image = self.image_end.map(|end| end.lsn);
        let events = self.items(
            FrameKind::Events,
            move |bytes| EventsOfFrame::new(bytes, keeps_values),
            |frame| (!frame.is_done()).then(|| frame.take()),
        )?;
        Ok(events.filter(move |event| {
            !matches!(event, Ok(Event { asked: Asked::Batch { lsn, .. }, .. }) if Some(*lsn) <= in_image)
        }))
    }

    /// What the frames of `kind` hold, one by one: `begin` takes a frame apart, and `next` gives what it holds, `None` at its end.
    fn items<'a, F: Send + 'a, T: Send + 'a>(
        &'a self,
        kind: FrameKind,
        begin: impl Fn(Bytes) -> Option<F> + Send + 'a,
        next: impl Fn(&mut F) -> Option<Option<T>> + Send + 'a,
    ) -> Result<impl Iterator<Item = Result<T>> + Send + 'a> {
        let mut source = (self.reopen)()?;
        let mut places = self.frames.iter().filter(move |place| place.kind == kind);
        let mut frame: Option<(Place, F)> = None;
        let mut is_over = false;
        Ok(std::iter::from_fn(move || {
            let mut step = || -> Result<Option<T>> {
                loop {
                    if let Some((place, frame)) = &mut frame
                        && let Some(item) = next(frame)
                    {
                        return item.map(Some).ok_or_else(|| self.damaged(*place, "it does not parse"));
                    }
                    let Some(&place) = places.next() else { return Ok(None) };
                    let begun = begin(self.unpacked(&mut *source, place)?);
                    let begun = begun.ok_or_else(|| self.damaged(place, "it does not parse"))?;
                    frame = Some((place, begun));
                }
            };
            if is_over {
                return None;
            }
            let item = step().transpose();
            // Behind an error nothing is known.
            is_over = !matches!(item, Some(Ok(_)));
            item
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Writer, event, image};

    fn head(keeps_values: bool) -> Head {
        Head { engine: "lsm".into(), keeps_values, ..Head::default() }
    }

    /// A recording with everything, and where its frames end.
    fn whole(keeps_values: bool) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let mut writer = Writer::new(&mut bytes, "test", head(keeps_values)).unwrap();
        ends.push(writer.bytes());
        image::tests::samples(keeps_values).iter().for_each(|entry| writer.entry(entry).unwrap());
        writer.end_image(5, true).unwrap();
        ends.push(writer.bytes());
        event::tests::samples(keeps_values).iter().for_each(|event| writer.event(event).unwrap());
        writer.meters(&Meters { events: Some(9), ..Meters::default() }).unwrap();
        ends.push(writer.bytes());
        writer.end("done").unwrap();
        ends.push(bytes.len() as u64);
        (bytes, ends)
    }

    fn open(bytes: &[u8]) -> Result<Recording> {
        Recording::of_bytes("test", Bytes::copy_from_slice(bytes))
    }

    fn all(recording: &Recording) -> Result<(Vec<Entry>, Vec<Event>)> {
        Ok((recording.image()?.collect::<Result<_>>()?, recording.events()?.collect::<Result<_>>()?))
    }

    #[test]
    fn a_recording_comes_back_without_what_its_image_holds() {
        for keeps_values in [false, true] {
            let (bytes, _) = whole(keeps_values);
            let recording = open(&bytes).unwrap();
            assert_eq!(recording.head(), &head(keeps_values));
            let end = recording.image_end().unwrap();
            let entries = image::tests::samples(keeps_values);
            assert_eq!(
                (end.entries, end.key_bytes),
                (5, entries.iter().map(|entry| entry.key.len() as u64).sum())
            );
            assert_eq!((recording.meters().unwrap().events, recording.cut_bytes()), (Some(9), 0));
            assert_eq!(
                (recording.end().unwrap().why.as_str(), recording.bytes()),
                ("done", bytes.len() as u64)
            );
            let mut events = event::tests::samples(keeps_values);
            // The batch whose LSN is that of the image.
            events.retain(|event| !matches!(event.asked, Asked::Batch { lsn: 5, .. }));
            for _ in 0..2 {
                assert_eq!(all(&recording).unwrap(), (entries.clone(), events.clone()));
            }
        }
    }

    #[test]
    fn a_cut_leaves_everything_up_to_the_last_whole_frame() {
        let (bytes, ends) = whole(false);
        for cut in 0..bytes.len() {
            let found = open(&bytes[..cut]);
            if (cut as u64) < ends[0] {
                assert!(found.is_err(), "cut at {cut}: no head");
                continue;
            }
            let recording = found.unwrap();
            assert_eq!(recording.bytes() + recording.cut_bytes(), cut as u64);
            let (entries, events) = all(&recording).unwrap();
            if cut as u64 >= ends[1] {
                assert!(entries.len() == 5 && recording.image_end().is_some(), "cut at {cut}");
            }
            if cut as u64 >= ends[2] {
                assert!(events.len() == 8 && recording.meters().is_some(), "cut at {cut}");
            }
            assert!(recording.end().is_none(), "cut at {cut}");
        }
        let torn = [&bytes[..ends[2] as usize], &[0; 100]].concat();
        assert_eq!(open(&torn).unwrap().cut_bytes(), 100, "room that was never written");
    }

    #[test]
    fn no_flip_goes_unnoticed() {
        let (bytes, _) = whole(false);
        let good = all(&open(&bytes).unwrap()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let Ok(recording) = open(&damaged) else { continue };
            // What is left is cut short, refused, or the same but for its end.
            match all(&recording) {
                Err(Error::Unreadable(text)) => assert!(text.to_string().contains("damaged"), "{text}"),
                Err(error) => panic!("bit {bit}: {error}"),
                Ok(found) => {
                    assert!(recording.cut_bytes() > 0, "bit {bit}");
                    assert!(good.0.starts_with(&found.0) && good.1.starts_with(&found.1), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_with_a_sentence() {
        let text = |bytes: &[u8]| open(bytes).err().unwrap().to_string();
        assert!(text(b"").contains("is no recording of kvfs"));
        let (mut bytes, _) = whole(false);
        bytes[15] = 9;
        assert!(text(&bytes).contains("version 9") && text(&bytes).contains("use the kvfs that made it"));
        let missing = Recording::open(Path::new("/nonexistent/file")).err().unwrap().to_string();
        assert!(missing.contains("opening /nonexistent/file"), "{missing}");
    }
}
