//! Opening: the newest durable state, then the log from its position on.
//!
//! 1. Read the meta pages; the newer whole one names position P, root and free map.
//! 2. If the meta page says that copies in the double-write area belong to its state, write them to their places.
//! 3. Walk the log from the state's floor, or from `images_start`. If the meta page says that images up to `images_end` belong to its state, write
//!    the newest of each sector to its place first; batches between them wait.
//! 4. Apply every batch behind the floor to the tree in memory; those before P that it has already are applied again, which changes
//!    nothing in the end. Nothing of it is written until the next checkpoint.
//!
//! Each step may be cut off and done again from the start. A file that does not exist yet appears with its first meta page, whole
//! or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::aside::is_damage;
use super::buffer::Mark;
use super::checkpoint::{BATCH_IMAGE_KIND, IMAGE_HEADER_BYTES, IMAGE_KIND};
use super::double::DoubleWrite;
use super::freemap::{FreeMap, end_max, read_runs, wanted_for};
use super::meta::{FILE, META_BYTES, MapPlace, Meta};
use super::page::{LEVEL, SECTOR_BYTES};
use super::pager::{Loaded, META_SLOTS_BYTES, Pager, read_meta};
use super::tree::{Pins, Stop, Tree};
use super::{FIRST_UNIT, UNIT_BYTES};
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose, replace};
use crate::engine::wal::{FIRST_KIND, Log, RECORD_OVERHEAD_BYTES, is_segment};
use crate::engine::{Batch, Bell, Error, Operation, Options, PageCause, PageKind, Position, Result, Torn};

/// What opening finds.
pub struct Recovered {
    /// The data file.
    pub pager: Pager,
    /// The double-write area.
    pub double: DoubleWrite,
    /// The log, ready for appends.
    pub log: Log,
    /// The tree with every batch of the log.
    pub tree: Tree,
    /// Bytes of page images in the log behind the floor of the durable state.
    pub image_bytes: u64,
}

/// Opens or makes the store on `disk`.
pub fn recover(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    options: &Options,
) -> Result<Recovered> {
    let made_bytes = make_if_missing(&*disk, options)?;
    let file = disk.open(FILE).map_err(|error| Error::io(format!("opening {FILE}"), error))?;
    let meta = read_meta(&*file)?;
    let size = file.size().map_err(|error| Error::io(format!("size of {FILE}"), error))?;
    let pager = Pager::new(file, meta.page_bytes as usize, options.cache_bytes);
    pager.count_read(PageKind::Meta, Purpose::Recovery, 2, META_SLOTS_BYTES as u64);
    if made_bytes > 0 {
        pager.count_written(PageKind::Meta, PageCause::Recovery, 1, made_bytes);
    }
    let file_units = size / UNIT_BYTES;
    // A meta page that a killed process wrote counts from here on: what only the other one needs may be overwritten.
    pager.sync(Purpose::Recovery)?;
    let double = DoubleWrite::open(disk.clone())?;
    if meta.double_bytes > 0 {
        let copies = double.read(&meta)?;
        let named_bytes = meta.double_bytes.saturating_sub(copies.len() as u64 * meta.page_bytes);
        pager.count_read(PageKind::Meta, Purpose::Recovery, named_bytes / UNIT_BYTES, named_bytes);
        for (unit, page) in copies {
            let kind = PageKind::of_level(page.get(LEVEL).copied().unwrap_or_default());
            pager.count_read(kind, Purpose::Recovery, 1, page.len() as u64);
            pager.repair_page(unit, &page)?;
        }
        pager.sync(Purpose::Recovery)?;
    }
    let mut space = open_map(&pager, &meta, file_units)?;
    // Space that was taken but not used may have been lost with the power; what was free at the end may have been cut off.
    match space.end() {
        end if file_units < end => space.cut(pager.grow(end, 0)?),
        _ => space.cut(file_units),
    }
    let mut replay = Replay {
        tree: Tree::new(meta, space),
        pager: &pager,
        ahead_units: growth_units(options, meta.end),
        meta,
        repairs: BTreeMap::new(),
        repaired: meta.images_end == 0,
        waiting: Vec::new(),
        image_bytes: 0,
        torn: options.torn,
        dirty_bytes_max: options.dirty_bytes_max,
    };
    let log = Log::open(
        disk,
        clock,
        bell,
        options.sync,
        options.log_segment_bytes,
        if meta.images_end > 0 { meta.images_start.min(meta.floor) } else { meta.floor },
        &std::collections::BTreeSet::new(),
        &mut |kind, position, payload| replay.record(kind, position, payload),
    )?;
    if log.end() < meta.images_end.max(meta.position) {
        let needed = meta.images_end.max(meta.position);
        let what = format!("the log ends at {}, but the pages need it up to {needed}", log.end());
        return Err(Error::corrupt("log", 0, what));
    }
    let Replay { mut tree, image_bytes, .. } = replay;
    if meta.images_end > 0 || meta.double_bytes > 0 {
        tree.durable = meta.settled();
        pager.write_meta(&tree.durable, PageCause::Recovery)?;
    }
    if meta.double_bytes > 0 {
        pager.sync(Purpose::Recovery)?;
    }
    if options.torn != Torn::DoubleWrite {
        double.remove()?;
    }
    tree.start_images(options.torn, log.end());
    Ok(Recovered { pager, double, log, tree, image_bytes })
}

/// Reads what opening needs of the free map: not the bits of groups, but for the last as far as they show where the file ends.
fn open_map(pager: &Pager, meta: &Meta, file_units: u64) -> Result<FreeMap> {
    let (end, file_units) = (meta.end, file_units.max(meta.end));
    if end > end_max(file_units) {
        return Err(Error::corrupt(FILE, meta.offset(), "a meta page of a far longer file"));
    }
    let mut read = |entry: &_| pager.read_map_page(entry, Purpose::Recovery);
    let mut map = match meta.map {
        MapPlace::Pages(root) => FreeMap::open(root, end, file_units, &mut read)?,
        MapPlace::Runs { run: (_, 0), .. } => FreeMap::new(end, file_units),
        MapPlace::Runs { run: (unit, units), bytes, crc } => {
            let found = match pager.read_runs(unit, bytes, crc, Purpose::Recovery) {
                Err(error) if !is_damage(&error) => return Err(error),
                read => read.ok().and_then(|bytes| read_runs(&bytes, end)),
            };
            match found {
                Some(runs) => {
                    let mut map = FreeMap::from_runs(&runs, end, file_units);
                    // The first checkpoint writes pages, and frees these units.
                    map.retire(unit, units);
                    map
                }
                None => FreeMap::lost(end, file_units),
            }
        }
    };
    while let Some(request) = map.wanted_at_end() {
        let bytes = read(&request.entry)?;
        map.admit(&request, bytes.as_deref());
    }
    Ok(map)
}

/// Units that the file grows ahead of its use.
pub fn growth_units(options: &Options, end: u64) -> u64 {
    let most = (64 << 20) / UNIT_BYTES;
    (end / 16).clamp((options.dirty_bytes_max / 16 / UNIT_BYTES).min(most), most)
}

/// Makes the data file if there is none; returns the bytes written.
fn make_if_missing(disk: &dyn Disk, options: &Options) -> Result<u64> {
    let files = disk.list().map_err(|error| Error::io("listing the store", error))?;
    if files.iter().any(|info| info.name == FILE) {
        return Ok(0);
    }
    if files.iter().any(|info| is_segment(&info.name)) {
        return Err(Error::corrupt(FILE, 0, "it is missing, but its log is there"));
    }
    let meta = Meta { page_bytes: options.page_bytes, end: FIRST_UNIT, ..Meta::default() };
    let mut bytes = meta.encode();
    bytes.resize(FIRST_UNIT as usize * UNIT_BYTES as usize, 0);
    debug_assert!(META_BYTES < bytes.len());
    let made = replace(disk, Purpose::Manifest, FILE, &bytes);
    made.map_err(|error| Error::io(format!("making {FILE}"), error))?;
    Ok(bytes.len() as u64)
}

/// The sectors that the image record `payload` holds behind `header` bytes, those of the bits in `changed`, by their index in the
/// file; `None` if it is not what it says.
pub fn image_sectors(payload: &Bytes, header: usize, changed: u128) -> Option<Vec<(u64, Bytes)>> {
    let sectors = payload.get(header..).unwrap_or_default().chunks(SECTOR_BYTES);
    let fits = sectors.len() == changed.count_ones() as usize && payload.len() % SECTOR_BYTES == header;
    let (unit, _) = payload.split_first_chunk::<8>().filter(|_| fits)?;
    let first = u64::from_le_bytes(*unit).saturating_mul(UNIT_BYTES / SECTOR_BYTES as u64);
    let places = (0..u128::BITS).filter(|index| changed >> index & 1 == 1);
    // Copies: a slice would hold its whole segment.
    let sector = |(index, bytes): (u32, &[u8])| {
        (first.saturating_add(u64::from(index)), Bytes::copy_from_slice(bytes))
    };
    Some(places.zip(sectors).map(sector).collect())
}

struct Replay<'a> {
    tree: Tree,
    pager: &'a Pager,
    ahead_units: u64,
    meta: Meta,
    /// The newest image of each sector that goes home, with the kind of its page.
    repairs: BTreeMap<u64, (PageKind, Bytes)>,
    /// They are there.
    repaired: bool,
    /// Batches between them.
    waiting: Vec<Bytes>,
    image_bytes: u64,
    torn: Torn,
    dirty_bytes_max: u64,
}

impl Replay<'_> {
    fn record(&mut self, kind: u8, position: Position, payload: Bytes) -> Result<()> {
        let (start, middle, end) = (self.meta.images_start, self.meta.position, self.meta.images_end);
        match kind {
            IMAGE_KIND => {
                if position > self.meta.floor {
                    self.image_bytes += payload.len() as u64 + RECORD_OVERHEAD_BYTES;
                }
                // Behind the end lie those of a checkpoint that was cut off before its commit.
                if position > middle && position <= end {
                    let changed = payload.get(8..).and_then(|bytes| bytes.first_chunk());
                    let changed = changed.map_or(0, |bytes| u128::from_le_bytes(*bytes));
                    self.repair(position, &payload, IMAGE_HEADER_BYTES, changed)?;
                }
            }
            // A new page is written before the commit and needs no repair; its unit may have served two by then.
            BATCH_IMAGE_KIND if payload.get(8..12) == Some(&[0; 4]) => {
                if position > start && position <= middle && end > 0 {
                    let whole = u128::MAX >> (u128::BITS as usize - self.pager.page_bytes() / SECTOR_BYTES);
                    self.repair(position, &payload, 12, whole)?;
                }
            }
            BATCH_IMAGE_KIND => {}
            FIRST_KIND if position <= self.meta.floor => {}
            FIRST_KIND if !self.repaired => self.waiting.push(payload),
            FIRST_KIND => self.batch(&payload)?,
            _ => return Err(Error::corrupt("log record", position, format!("an unknown kind, {kind}"))),
        }
        if position == end && !self.repaired {
            let repairs: Vec<(u64, (PageKind, Bytes))> =
                std::mem::take(&mut self.repairs).into_iter().collect();
            for run in repairs.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
                let bytes: Vec<u8> = run.iter().flat_map(|(_, (_, sector))| sector.iter().copied()).collect();
                self.pager.write_sectors(run[0].0, &bytes, Purpose::Recovery)?;
                for (_, (kind, sector)) in run {
                    self.pager.count_written(*kind, PageCause::Recovery, 0, sector.len() as u64);
                }
            }
            self.pager.sync(Purpose::Recovery)?;
            self.repaired = true;
            for payload in std::mem::take(&mut self.waiting) {
                self.batch(&payload)?;
            }
        }
        Ok(())
    }

    /// Keeps the sectors of a page that `payload` holds behind `header` bytes, those of the bits in `changed`, as the newest.
    fn repair(&mut self, position: Position, payload: &Bytes, header: usize, changed: u128) -> Result<()> {
        let sectors = image_sectors(payload, header, changed)
            .ok_or_else(|| Error::corrupt("log record", position, "a page image that is not what it says"))?;
        // A page that changed has a new checksum, so its first sector is always there.
        let kind = PageKind::of_level(payload.get(header + LEVEL).copied().unwrap_or_default());
        self.repairs.extend(sectors.into_iter().map(|(sector, bytes)| (sector, (kind, bytes))));
        Ok(())
    }

    fn batch(&mut self, payload: &Bytes) -> Result<()> {
        // What belongs to a page that cannot be read is set aside, so that the store opens.
        let mut batch = self.tree.buffer.aside.divide(Batch::decode(payload)?);
        if batch.is_empty() {
            return Ok(());
        }
        let floor = Mark { position: self.meta.floor, image_bytes: 0 };
        if self.tree.suits_buffer(&batch, self.torn, self.dirty_bytes_max) {
            self.tree.buffer.add(&batch, floor);
            return Ok(());
        }
        let mut loaded = Loaded::default();
        let mut pins = Pins::new();
        let needs = loop {
            match self.tree.plan(self.pager, &loaded, &batch, &mut pins) {
                Ok(needs) => break needs,
                Err(Stop::Failed(error)) => {
                    let part = |operation: &Operation| {
                        self.tree.unreadable_part(self.pager, &loaded, operation.key())
                    };
                    let part = batch.operations().iter().find_map(part).ok_or(error)?;
                    self.tree.buffer.aside.add_part(part, floor);
                    batch = self.tree.buffer.aside.divide(batch);
                    pins.clear();
                }
                Err(Stop::Miss(miss)) => match self.pager.read(miss, Purpose::Recovery) {
                    Ok((unit, piece)) => {
                        self.pager.keep(unit, piece.clone());
                        loaded.add(self.tree.epoch, unit, piece);
                    }
                    Err(error) if is_damage(&error) => loaded.fail(self.tree.epoch, miss.unit(), error),
                    Err(error) => return Err(error),
                },
            }
        };
        while let Some(request) = wanted_for(&self.tree.space, needs) {
            let bytes = self.pager.read_map_page(&request.entry, Purpose::Recovery)?;
            self.tree.space.admit(&request, bytes.as_deref());
        }
        let wanted = needs.units + self.tree.space.map_units_max(needs.units);
        if let Some(units) = self.tree.space.missing(wanted) {
            let units = self.pager.grow(units, self.ahead_units)?;
            self.tree.space.set_file_units(units);
        }
        self.tree.apply(&batch, pins, self.pager);
        Ok(())
    }
}
