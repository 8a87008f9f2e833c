//! Opening: the newest durable state, then the log from its position on.
//!
//! 1. Read the meta pages; the newer whole one names position P, root and free map.
//! 2. Walk the log from P. If the meta page says that images up to `images_end` belong to its state, write them to their places
//!    first; batches between them wait.
//! 3. Apply every batch behind P to the tree in memory. Nothing of it is written until the next checkpoint.
//!
//! Each step may be cut off and done again from the start. A file that does not exist yet appears with its first meta page, whole
//! or not at all.

use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint::IMAGE_KIND;
use super::freemap::FreeMap;
use super::meta::{FILE, META_BYTES, Meta};
use super::pager::{Loaded, Pager, Piece, read_meta};
use super::tree::{Miss, Pins, Stop, Tree};
use super::{FIRST_UNIT, UNIT_BYTES};
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose, replace};
use crate::engine::wal::{FIRST_KIND, Log, RECORD_OVERHEAD_BYTES, is_segment};
use crate::engine::{Batch, Bell, Error, Options, Position, Result};

/// What opening finds.
pub struct Recovered {
    /// The data file.
    pub pager: Pager,
    /// The log, ready for appends.
    pub log: Log,
    /// The tree with every batch of the log.
    pub tree: Tree,
    /// Bytes of page images in the log behind the durable position.
    pub image_bytes: u64,
}

/// Opens or makes the store on `disk`.
pub fn recover(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    options: &Options,
) -> Result<Recovered> {
    make_if_missing(&*disk, options)?;
    let file = disk.open(FILE).map_err(|error| Error::io(format!("opening {FILE}"), error))?;
    let meta = read_meta(&*file)?;
    let size = file.size().map_err(|error| Error::io(format!("size of {FILE}"), error))?;
    let pager = Pager::new(file, meta.page_bytes as usize, options.cache_bytes);
    // Space that was taken but not used may have been lost with the power.
    let file_units = match size / UNIT_BYTES {
        units if units < meta.end => pager.grow(meta.end, 0)?,
        units => units,
    };
    let space = match meta.map_units {
        0 => FreeMap::new(meta.end, file_units),
        _ => {
            let bytes = pager.read_map(&meta, Purpose::Recovery)?;
            let map = FreeMap::decode(&bytes, meta.end, file_units);
            map.ok_or_else(|| {
                Error::corrupt(FILE, meta.map_unit * UNIT_BYTES, "a free map that does not parse")
            })?
        }
    };
    let mut replay = Replay {
        tree: Tree::new(meta, space),
        pager: &pager,
        ahead_units: growth_units(options, meta.end),
        images_end: meta.images_end,
        waiting: Vec::new(),
        image_bytes: 0,
    };
    let log = Log::open(
        disk,
        clock,
        bell,
        options.sync,
        options.log_segment_bytes,
        meta.position,
        &std::collections::BTreeSet::new(),
        &mut |kind, position, payload| replay.record(kind, position, payload),
    )?;
    if log.end() < meta.images_end {
        let what = format!("the log ends at {}, page images up to {}", log.end(), meta.images_end);
        return Err(Error::corrupt("log", 0, what));
    }
    let Replay { mut tree, image_bytes, .. } = replay;
    if meta.images_end > 0 {
        tree.durable = Meta { sequence: meta.sequence + 1, images_end: 0, ..meta };
        pager.write_meta(&tree.durable)?;
    }
    Ok(Recovered { pager, log, tree, image_bytes })
}

/// Units that the file grows ahead of its use.
pub fn growth_units(options: &Options, end: u64) -> u64 {
    (end / 16).clamp(options.dirty_bytes_max / 16 / UNIT_BYTES, (64 << 20) / UNIT_BYTES)
}

fn make_if_missing(disk: &dyn Disk, options: &Options) -> Result<()> {
    let files = disk.list().map_err(|error| Error::io("listing the store", error))?;
    if files.iter().any(|info| info.name == FILE) {
        return Ok(());
    }
    if files.iter().any(|info| is_segment(&info.name)) {
        return Err(Error::corrupt(FILE, 0, "it is missing, but its log is there"));
    }
    let meta = Meta { page_bytes: options.page_bytes, end: FIRST_UNIT, ..Meta::default() };
    let mut bytes = meta.encode();
    bytes.resize(FIRST_UNIT as usize * UNIT_BYTES as usize, 0);
    debug_assert!(META_BYTES < bytes.len());
    replace(disk, Purpose::Manifest, FILE, &bytes).map_err(|error| Error::io(format!("making {FILE}"), error))
}

struct Replay<'a> {
    tree: Tree,
    pager: &'a Pager,
    ahead_units: u64,
    /// Images up to here go home first; 0 when none are left.
    images_end: Position,
    /// Batches between them.
    waiting: Vec<Bytes>,
    image_bytes: u64,
}

impl Replay<'_> {
    fn record(&mut self, kind: u8, position: Position, payload: Bytes) -> Result<()> {
        match kind {
            IMAGE_KIND => {
                self.image_bytes += payload.len() as u64 + RECORD_OVERHEAD_BYTES;
                if position > self.images_end {
                    // Of a checkpoint that was cut off before its commit.
                    return Ok(());
                }
                let (unit, page) = payload
                    .split_first_chunk::<8>()
                    .ok_or_else(|| Error::corrupt("log record", position, "a page image without a page"))?;
                self.pager.write(u64::from_le_bytes(*unit), page, Purpose::Recovery)?;
                if position == self.images_end {
                    self.pager.sync(Purpose::Recovery)?;
                    self.images_end = 0;
                    for payload in std::mem::take(&mut self.waiting) {
                        self.batch(&payload)?;
                    }
                }
                Ok(())
            }
            FIRST_KIND if position <= self.images_end => {
                self.waiting.push(payload);
                Ok(())
            }
            FIRST_KIND => self.batch(&payload),
            _ => Err(Error::corrupt("log record", position, format!("an unknown kind, {kind}"))),
        }
    }

    fn batch(&mut self, payload: &Bytes) -> Result<()> {
        let batch = Batch::decode(payload)?;
        let mut loaded = Loaded::default();
        let mut pins = Pins::new();
        let needs = loop {
            match self.tree.plan(self.pager, &loaded, &batch, &mut pins) {
                Ok(needs) => break needs,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(Miss::Value(_))) => {
                    return Err(Error::Invalid("a plan reads no values".to_string()));
                }
                Err(Stop::Miss(Miss::Page(unit))) => {
                    let page = Piece::Page(self.pager.read_page(unit, Purpose::Recovery)?);
                    self.pager.keep(unit, page.clone());
                    loaded.add(self.tree.epoch, unit, page);
                }
            }
        };
        let wanted = needs.units + self.tree.map_units_max(needs.runs);
        if let Some(units) = self.tree.space.missing(wanted) {
            let units = self.pager.grow(units, self.ahead_units)?;
            self.tree.space.set_file_units(units);
        }
        self.tree.apply(&batch, pins, self.pager);
        Ok(())
    }
}
