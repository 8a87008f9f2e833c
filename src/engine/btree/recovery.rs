//! Opening: the newest durable state, then the log from its LSN on.
//!
//! 1. Read the meta pages; the newest whole one has LSN P, root and free map.
//! 2. If the meta page says that copies in the doublewrite area or images in the log belong to its state, write these pages in place. Then
//!    write the other meta page, which does not need them.
//! 3. Read the log from the state's recovery LSN on, and apply what the pages lack: see [`Replay`].
//!
//! Each step may be interrupted and is done again from its start then. A data file that does not exist appears with its first meta page, whole
//! or not at all.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::allocation_unit::{FILE, FIRST_UNIT, UNIT_BYTES, UnitNumber, Units};
use super::doublewrite::{self, DoublewriteArea};
use super::freemap::{FreeMap, MapEntry, end_max, read_runs};
use super::map_pages;
use super::meta::{META_BYTES, MapPlace, Meta};
use super::options::{Options, Torn};
use super::page::LEVEL;
use super::pager::{META_SLOTS_BYTES, Pager, read_meta};
use super::records::PageImage;
use super::replay::{Replay, Replayed};
use super::source::is_unreadable;
use super::tree::Tree;
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose, replace};
use crate::engine::wal::{self, Log, is_segment};
use crate::engine::{Error, Lsn, PageCause, PageKind, Result, SpaceGuard, Tier, WakeSignal};

/// Largest number of sectors of images in memory; they are collected so that adjacent ones are written together: 4 MiB.
const IMAGE_SECTORS_MAX: usize = 8 << 10;

/// The parts of the store that opening has recovered.
pub struct Recovered {
    /// The data file.
    pub pager: Pager,
    /// The doublewrite area.
    pub doublewrite: DoublewriteArea,
    /// The log, ready for appends.
    pub log: Log,
    /// The tree with every batch of the log.
    pub tree: Tree,
    /// Figures of the replay.
    pub replayed: Replayed,
    /// Bytes of the log that were read.
    pub read_bytes: u64,
}

/// Opens the store on `disk`, or makes a new one; `is_upper` if it is the upper half of one.
pub fn recover(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    wake_signal: Arc<WakeSignal>,
    options: &Options,
    guard: &SpaceGuard,
    is_upper: bool,
) -> Result<Recovered> {
    let made_bytes = make_if_missing(&*disk, options)?;
    let file = disk.open(FILE).map_err(|error| Error::io(format!("opening {FILE}"), error))?;
    let mut meta = read_meta(&*file)?;
    let size = file.size().map_err(|error| Error::io(format!("size of {FILE}"), error))?;
    let pager = Pager::new(file, meta.page_bytes as usize, options.common.cache_bytes);
    pager.count_read(PageKind::Meta, Purpose::Recovery, 2, META_SLOTS_BYTES as u64);
    if made_bytes > 0 {
        pager.count_written(PageKind::Meta, PageCause::Recovery, 1, made_bytes);
    }
    let file_end = UnitNumber::of_offset(size);
    // From here on a meta page that a killed process wrote is durable, so what only the older one needs may be overwritten.
    pager.sync(Purpose::Recovery)?;
    let doublewrite = DoublewriteArea::open(disk.clone())?;
    if meta.doublewrite_bytes > 0 {
        send_copies_home(&pager, &doublewrite, &meta)?;
    }
    if meta.images_end > Lsn::ZERO {
        send_images_home(&*disk, &pager, &meta)?;
    }
    if meta.doublewrite_bytes > 0 || meta.images_end > Lsn::ZERO {
        pager.sync(Purpose::Recovery)?;
        meta = meta.settled();
        pager.write_meta(&meta, PageCause::Recovery)?;
        pager.sync(Purpose::Recovery)?;
    }
    let mut space = open_map(&pager, &meta, file_end)?;
    // Space that was allocated and not used may have been lost with the power; a free end may have been cut off.
    match space.end() {
        end if file_end < end => space.cut(pager.grow(end, Units::ZERO)?),
        _ => space.cut(file_end),
    }
    let mut tree = Tree::new(meta, space, options.pages);
    tree.is_upper = is_upper;
    let mut replay = Replay::new(tree, &pager, &doublewrite, options, guard);
    let log = Log::open(
        disk,
        clock,
        wake_signal,
        options.common.sync,
        options.common.log_segment_bytes,
        meta.recovery_lsn,
        &std::collections::BTreeSet::new(),
        &mut |kind, lsn, payload| replay.record(kind, lsn, &payload),
    )?;
    replay.settle()?;
    let (mut tree, replayed) = replay.end();
    let read_bytes = log.unreleased_bytes();
    reaches(log.end(), tree.durable.lsn)?;
    if replayed.checkpoints > 0 {
        log::info!("replaying the log took {} checkpoints", replayed.checkpoints);
        log.release(tree.durable.recovery_lsn);
    }
    let kept_bytes = doublewrite::kept_bytes(pager.page_bytes(), guard.reserve_bytes());
    if options.torn != Torn::Doublewrite {
        doublewrite.cut(kept_bytes)?;
    }
    if guard.spare_bytes() >= kept_bytes {
        match doublewrite.make_room(kept_bytes) {
            // The next opening may find room.
            Err(Error::NoSpace) => {}
            other => other?,
        }
    }
    tree.start_images(options.torn, log.end());
    Ok(Recovered { pager, doublewrite, log, tree, replayed, read_bytes })
}

/// Checks that the log, which ends at `end`, reaches as far as the pages need it, to `needed`.
fn reaches(end: Lsn, needed: Lsn) -> Result<()> {
    if end >= needed {
        return Ok(());
    }
    let what = format!("the log ends at {end}, but the pages need it up to {needed}");
    Err(Error::corrupt("log", 0, what))
}

/// Writes the pages of the doublewrite area that belong to the state of `meta` in place.
fn send_copies_home(pager: &Pager, doublewrite: &DoublewriteArea, meta: &Meta) -> Result<()> {
    let mut named_bytes = meta.doublewrite_bytes;
    doublewrite.each(meta, &mut |number, page| {
        named_bytes = named_bytes.saturating_sub(page.len() as u64);
        let kind = PageKind::of_level(page.get(LEVEL).copied().unwrap_or_default());
        pager.count_read(kind, Purpose::Recovery, 1, page.len() as u64);
        pager.repair_page(number, page)
    })?;
    pager.count_read(PageKind::Meta, Purpose::Recovery, named_bytes / UNIT_BYTES, named_bytes);
    Ok(())
}

/// Writes the page images in the log that belong to the state of `meta` in place, in the order of the log.
fn send_images_home(disk: &dyn Disk, pager: &Pager, meta: &Meta) -> Result<()> {
    let mut images = PageImages { pager, sectors: BTreeMap::new() };
    let end = wal::read(disk, meta.images_start, &mut |kind, lsn, payload| {
        if let Some(image) = PageImage::of_state(meta, kind, lsn, &payload)? {
            images.add(image)?;
        }
        let is_last = lsn >= meta.images_end;
        Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    reaches(end, meta.images_end)?;
    images.write()
}

/// Page images that are collected before they are written in place.
struct PageImages<'a> {
    pager: &'a Pager,
    /// The newest image of each sector, with the kind of its page.
    sectors: BTreeMap<u64, (PageKind, Bytes)>,
}

impl PageImages<'_> {
    /// Adds the sectors of an image.
    fn add(&mut self, image: PageImage) -> Result<()> {
        let kind = image.kind;
        self.sectors.extend(image.sectors.into_iter().map(|(sector, bytes)| (sector, (kind, bytes))));
        if self.sectors.len() >= IMAGE_SECTORS_MAX { self.write() } else { Ok(()) }
    }

    /// Writes all collected sectors.
    fn write(&mut self) -> Result<()> {
        let sectors: Vec<(u64, (PageKind, Bytes))> = std::mem::take(&mut self.sectors).into_iter().collect();
        for run in sectors.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, (_, sector))| sector.iter().copied()).collect();
            self.pager.write_sectors(run[0].0, &bytes, Purpose::Recovery)?;
            for (_, (kind, sector)) in run {
                self.pager.count_written(*kind, PageCause::Recovery, 0, sector.len() as u64);
            }
        }
        Ok(())
    }
}

/// Reads the part of the free map that opening needs: the entries of all groups, and the bits of the last ones as far as they show where the
/// used part ends.
fn open_map(pager: &Pager, meta: &Meta, file_end: UnitNumber) -> Result<FreeMap> {
    let (end, file_end) = (meta.end, file_end.max(meta.end));
    if end > end_max(file_end) {
        return Err(Error::corrupt(FILE, meta.offset(), "a meta page of a far longer file"));
    }
    let mut read = |entry: &MapEntry| pager.read_map_page(entry.unit, entry.crc, Purpose::Recovery);
    let mut map = match meta.map {
        MapPlace::Pages(root) => FreeMap::open(root, end, file_end, &mut read)?,
        MapPlace::Runs { run: (_, Units::ZERO), .. } => FreeMap::new(end, file_end),
        MapPlace::Runs { run: (unit, units), bytes, crc } => {
            let found = match pager.read_runs(unit, bytes, crc, Purpose::Recovery) {
                Err(error) if !is_unreadable(&error) => return Err(error),
                read => read.ok().and_then(|bytes| read_runs(&bytes, end)),
            };
            match found {
                Some(runs) => {
                    let mut map = FreeMap::from_runs(&runs, end, file_end);
                    // The first checkpoint writes pages instead of the list, and frees its units.
                    map.retire(unit, units);
                    map
                }
                None => FreeMap::lost(end, file_end),
            }
        }
    };
    let tier = Tier::Disk;
    map_pages::load(&mut map, pager, tier, Purpose::Recovery, FreeMap::wanted_at_end, |_| {})?;
    Ok(map)
}

/// Makes the data file if it does not exist; returns the bytes written.
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
    bytes.resize(FIRST_UNIT.offset() as usize, 0);
    debug_assert!(META_BYTES < bytes.len());
    let made = replace(disk, Purpose::Manifest, FILE, &bytes);
    made.map_err(|error| Error::io(format!("making {FILE}"), error))?;
    Ok(bytes.len() as u64)
}
