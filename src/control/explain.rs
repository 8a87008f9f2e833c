//! Explanations of reads: one that was asked for (`explain`), and those that happen (`trace on`). Both are shown in
//! `.stats.d/trace`.

use super::{Control, figures};
use crate::engine::{Asked, Engine, Probe, Result, Tier};
use crate::fs::keys::{self, Key};
use crate::fs::types::Ino;

/// Blocks of a file that `explain` looks for, and lines for them.
const PLACED_BLOCKS_MAX: u64 = 4096;
const PLACES_MAX: usize = 256;
/// Offsets of blocks on a line.
const OFFSETS_PER_LINE: usize = 8;
/// Probes of a read up to which it is not called dear.
const PROBES_MAX: usize = 6;
/// Files in L0 from which reads are said to be under pressure.
const PRESSURE_L0_FILES: u64 = 4;

/// Blocks one behind the other that lie in one structure.
struct Run {
    first: u64,
    place: String,
    /// Of each block; empty for holes and what is in memory.
    offsets: Vec<u64>,
    blocks: u64,
}

impl Control {
    /// Explains reads of an inode's record and of one of its blocks; the text is in `.stats.d/trace`.
    pub(super) fn explain(&self, ino: Ino, block: u64) -> Result<()> {
        let engine = &self.parts.engine;
        let mut text = format!("inode {ino}\n");
        let mut asked = 0;
        let mut walk = |name: String, key: Vec<u8>| -> Result<()> {
            let probes = engine.explain(&key, Tier::Disk)?;
            asked = asked.max(count(&probes));
            text += &format!("{name}\n{}", lines(&probes));
            Ok(())
        };
        walk(format!("record of inode {ino}"), keys::inode(ino))?;
        let record = engine.get(&keys::inode(ino), Tier::Disk)?;
        let mut places = String::new();
        if let Some((epoch, size)) = record.and_then(|record| crate::fs::inode_content(ino, &record)) {
            walk(format!("block {block} of inode {ino}, epoch {epoch}"), keys::block(ino, epoch, block))?;
            places = self.places(ino, epoch, size)?;
        }
        let verdict = if asked > PROBES_MAX { "  RED: more than 6" } else { "" };
        let is_pressed = engine.shape().debt.l0_files >= PRESSURE_L0_FILES;
        let pressure = if is_pressed { "  PRESSURE: 4 or more files in L0" } else { "" };
        text += &format!("last read: at most {asked} probes a key{verdict}{pressure}\n");
        text += &places;
        *self.explained.lock() = text;
        Ok(())
    }

    /// The places of the first blocks of a file, and their offsets there; a line for neighbours in one place. A read
    /// of one would end there.
    fn places(&self, ino: Ino, epoch: u32, size: u64) -> Result<String> {
        let blocks = size.div_ceil(self.mount.block_bytes.max(1));
        let mut runs: Vec<Run> = Vec::new();
        for block in 0..blocks.min(PLACED_BLOCKS_MAX) {
            let mut probes = self.parts.engine.explain(&keys::block(ino, epoch, block), Tier::Disk)?;
            let Some(last) = probes.pop() else { return Ok(String::new()) };
            let (place, offset) = match (last.verdict, probes.pop()) {
                // A value outside its page: named by the page that knows it, so that neighbours share a line.
                ("hit", Some(leaf)) if leaf.verdict == "descend" && last.structure.starts_with("extent") => {
                    (format!("extents of {}", leaf.structure), last.offset)
                }
                ("hit", _) => (last.structure, last.offset),
                _ => ("hole".to_string(), None),
            };
            match runs.last_mut() {
                Some(run) if run.place == place => {
                    run.blocks += 1;
                    run.offsets.extend(offset);
                }
                _ => runs.push(Run { first: block, place, offsets: offset.into_iter().collect(), blocks: 1 }),
            }
        }
        let mut text = format!("{blocks} blocks; where each begins in its file\n");
        let (mut shown, mut rows) = (0, 0);
        for run in &runs {
            let Run { first, place, offsets, blocks } = run;
            if rows + 1 + offsets.len().div_ceil(OFFSETS_PER_LINE) > PLACES_MAX {
                break;
            }
            text += &format!("  {:<24} {place}\n", format!("{first}-{}", first + blocks - 1));
            for offsets in offsets.chunks(OFFSETS_PER_LINE) {
                let offsets: Vec<String> = offsets.iter().map(u64::to_string).collect();
                text += &format!("    at {}\n", offsets.join(" "));
                rows += 1;
            }
            rows += 1;
            shown = first + blocks;
        }
        if shown < blocks {
            text += &format!("  ... {} more\n", blocks - shown);
        }
        Ok(text)
    }

    /// The answer to the last `explain`, and behind it the reads that were traced.
    pub(super) fn explained(&self) -> String {
        let mut text = self.explained.lock().clone();
        let trace = self.parts.engine.trace();
        let (every, reads) = (trace.every(), trace.reads());
        if every == 0 && reads.is_empty() {
            return text;
        }
        text += &match every {
            0 => format!("trace off; the last {} reads, the newest last\n", reads.len()),
            1 => format!("trace on; the last {} reads, the newest last\n", reads.len()),
            _ => {
                format!("trace on, one read in {every}; the last {} of them, the newest last\n", reads.len())
            }
        };
        for read in &reads {
            let key = describe(&read.key);
            text += &match &read.asked {
                Asked::Get(probes) => {
                    format!("#{} get {key}: {} probes\n{}", read.number, count(probes), lines(probes))
                }
                Asked::Scan { entries, bytes } => {
                    format!("#{} scan from {key}: {entries} entries, {bytes} bytes\n", read.number)
                }
            };
        }
        text
    }
}

/// Structures that were really asked.
fn count(probes: &[Probe]) -> usize {
    probes
        .iter()
        .filter(|probe| !["filtered", "out-of-range", "hot", "cold"].contains(&probe.verdict))
        .count()
}

/// A line for each structure, and one for how it ended.
fn lines(probes: &[Probe]) -> String {
    let mut text = String::new();
    for Probe { structure, offset, verdict, bytes, read_bytes } in probes {
        let at = offset.map_or(String::new(), |offset| format!(" at {offset}"));
        let place = format!("{structure}{at}");
        text += &format!("  {place:<32} {verdict:<14} {bytes:>8} bytes, {read_bytes:>8} read\n");
    }
    text + match probes.last().map(|probe| probe.verdict) {
        Some("hit") => "  found\n",
        Some("tombstone") => "  deleted\n",
        Some(_) => "  not there\n",
        None => "  this engine does not say\n",
    }
}

/// A key in words.
fn describe(key: &[u8]) -> String {
    let text = |name: &[u8]| figures::ascii(&String::from_utf8_lossy(name));
    match keys::parse(key) {
        Some(Key::Super) => "superblock".to_string(),
        Some(Key::Inode { ino }) => format!("inode {ino}"),
        Some(Key::Dirent { dir, name, .. }) => format!("name {} in {dir}", text(name)),
        Some(Key::Xattr { ino, name }) => format!("xattr {} of {ino}", text(name)),
        Some(Key::Block { ino, epoch, block }) => format!("block {block} of inode {ino}, epoch {epoch}"),
        Some(Key::Orphan { ino }) => format!("orphan {ino}"),
        Some(Key::Reclaim { ino, epoch, from }) => {
            format!("blocks to delete from {from} of inode {ino}, epoch {epoch}")
        }
        Some(Key::Counter { name }) => format!("counter {}", text(name)),
        None => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
