//! Content against a `Vec<u8>` and the set of blocks that ought to be there, after every one of many random changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::{INLINE_BLOCKS, UNIT_BLOCKS};
use super::*;
use crate::base::prng::Prng;
use crate::engine::{Batch, MemEngine, MeteredEngine};
use crate::fs::draft::Draft;
use crate::fs::inode::Inode;
use crate::fs::ranges::{Range, Ranges};
use crate::fs::types::{FileKind, SIZE_MAX, Time};

/// Small, so that a file of a few kilobytes has more blocks than a call deletes itself.
const BLOCK: u64 = 16;
const INO: Ino = Ino(7);

/// A file over an engine, as the filesystem keeps it, and what it ought to hold.
struct File {
    engine: Arc<MeteredEngine>,
    block_bytes: u64,
    record: Inode,
    pending: Ranges,
    /// Ranges of former epochs, which are the reclaimer's alone.
    former: Vec<(u32, Range)>,
    model: Vec<u8>,
    log: String,
}

impl File {
    fn new(block_bytes: u64) -> File {
        File {
            engine: MeteredEngine::new(Arc::new(MemEngine::new()), keys::classify),
            block_bytes,
            record: Inode::new(FileKind::File, 0o644, 0, 0, Time::default()),
            pending: Ranges::default(),
            former: Vec::new(),
            model: Vec::new(),
            log: String::new(),
        }
    }

    fn view(&self) -> View<'_> {
        View { record: &self.record, pending: &self.pending }
    }

    fn content(&self) -> Content<'_> {
        Content::new(&*self.engine, self.block_bytes, INO, Tier::Disk)
    }

    /// Makes a change as [`FileSystem::commit`](crate::fs::FileSystem) does.
    fn change(&mut self, change: impl FnOnce(Content<'_>, &mut Draft<'_>) -> Result<()>) {
        let mut batch = Batch::new(0);
        let mut draft = Draft::of(self.view(), &mut batch);
        change(self.content(), &mut draft).unwrap();
        let kept = draft.finish(INO, self.view(), true);
        self.engine.apply(draft.batch, Tier::Disk).unwrap();
        let (record, pending) = (draft.record, draft.pending);
        if kept {
            self.pending = pending;
        } else {
            self.former.extend(pending.iter().map(|range| (self.record.epoch, *range)));
            self.pending = Ranges::default();
        }
        self.record = record;
    }

    fn write(&mut self, offset: usize, data: Vec<u8>) {
        self.log += &format!("write {offset}+{}\n", data.len());
        self.model.resize(self.model.len().max(offset + data.len()), 0);
        self.model[offset..offset + data.len()].copy_from_slice(&data);
        self.change(|content, draft| content.write(draft, offset as u64, &Bytes::from(data)));
    }

    fn resize(&mut self, size: usize) {
        self.log += &format!("resize {size}\n");
        self.model.resize(size, 0);
        self.change(|content, draft| content.resize(draft, size as u64));
    }

    fn punch(&mut self, from: usize, to: usize) {
        self.log += &format!("punch {from}..{to}\n");
        let end = to.min(self.model.len());
        self.model[from.min(end)..end].fill(0);
        self.change(|content, draft| content.punch(draft, (from as u64, to as u64)));
    }

    /// Deletes one unit of what waits, as background work does. False if nothing waits.
    fn reclaim(&mut self) -> bool {
        if let Some((epoch, range)) = self.former.pop() {
            self.log += &format!("reclaim {range:?} of epoch {epoch}\n");
            let mut batch = Batch::new(0);
            let next = self.content().reclaim(epoch, range, &mut batch).unwrap();
            batch.delete(keys::reclaim(INO, epoch, range.from));
            if next < range.to {
                let rest = range.after(next);
                batch.put(keys::reclaim(INO, epoch, next), rest.encode());
                self.former.push((epoch, rest));
            }
            self.engine.apply(&batch, Tier::Disk).unwrap();
            return true;
        }
        let Some(range) = self.pending.iter().next().copied() else { return false };
        self.log += &format!("reclaim {range:?}\n");
        let epoch = self.record.epoch;
        self.change(|content, draft| {
            let next = content.reclaim(epoch, range, draft.batch)?;
            draft.pending.cut(range.from, next);
            Ok(())
        });
        true
    }

    /// Every block in the engine, by epoch and number, with its length.
    fn stored(&self) -> BTreeMap<(u32, u64), u64> {
        let mut blocks = BTreeMap::new();
        self.engine
            .scan(crate::engine::KeyRange::ALL, Tier::Disk, &mut |key, value| {
                if let Some(Key::Block { ino, epoch, block }) = keys::parse(key) {
                    assert_eq!(ino, INO);
                    blocks.insert((epoch, block), value.len() as u64);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        blocks
    }

    /// Content, holes, accounting and records agree with the model.
    fn verify(&self, random: &mut Prng) {
        let (size, log) = (self.model.len() as u64, &self.log);
        let whole = self.content().read(self.view(), 0, u64::MAX).unwrap();
        assert!(whole == self.model, "the content differs\n{log}");
        assert_eq!(self.record.size, size, "{log}");
        let epoch = self.record.epoch;
        let (mut living, mut sum) = (Vec::new(), 0);
        for (&(of, block), &length) in &self.stored() {
            let waits = match of == epoch {
                true => self.pending.contains(block),
                false => {
                    let mut former = self.former.iter().filter(|(former, _)| *former == of);
                    let waits = former.any(|(_, range)| (range.from..range.to).contains(&block));
                    assert!(waits, "block {block} of epoch {of} is lost\n{log}");
                    true
                }
            };
            if !waits {
                assert!(block * self.block_bytes + length <= size, "block {block} passes the end\n{log}");
                living.push(block);
                sum += length;
            }
        }
        assert_eq!(self.record.stored_bytes, sum, "{log}");
        // The records that promise what is to be deleted are those in memory.
        let stored = Ranges::load(&*self.engine, INO, epoch, Tier::Disk).unwrap();
        assert_eq!(stored, self.pending, "{log}");

        let blocks = size.div_ceil(self.block_bytes);
        let is_hole = |block: u64| living.binary_search(&block).is_err();
        for _ in 0..4 {
            let from = random.below(size + 2 * self.block_bytes);
            let length = random.below(5 * self.block_bytes);
            let part = self.content().read(self.view(), from, length).unwrap();
            let expected = &self.model[from.min(size) as usize..(from + length).min(size) as usize];
            assert!(part == expected, "read {from}+{length}\n{log}");
            let first = from / self.block_bytes;
            for hole in [false, true] {
                let found = self.content().seek(self.view(), from, hole).ok();
                // The end of the file is a hole.
                let end = hole.then_some(blocks);
                let found_block = (first..blocks).find(|&block| is_hole(block) == hole).or(end);
                let expected = found_block.filter(|_| from < size);
                let expected = expected.map(|block| (block * self.block_bytes).max(from).min(size));
                assert_eq!(found, expected, "seek {from}, hole {hole}\n{log}");
            }
            if from + length <= size && length > 0 {
                let run = self.content().run(self.view(), from, length).unwrap();
                let stop = (first..blocks).find(|&block| is_hole(block) != is_hole(first));
                let stop = stop.map_or(size, |block| block * self.block_bytes);
                let expected = Run { is_hole: is_hole(first), length: stop.min(from + length) - from };
                assert_eq!(run, expected, "run {from}+{length}\n{log}");
            }
        }
    }
}

fn bytes(random: &mut Prng, count: u64) -> Vec<u8> {
    // None is zero, so that nothing written looks like a hole.
    (0..count).map(|_| 1 + random.below(255) as u8).collect()
}

/// Writes, cuts, holes and deletes of any size and place: what is read is what was written, holes are where nothing is, every stored
/// byte is counted, and nothing is left behind.
#[test]
fn content_is_that_of_a_vector() {
    for seed in 0..60 {
        let mut random = Prng::new(seed);
        let mut file = File::new(BLOCK);
        // Some files stay small and dense, some have more blocks than a call deletes itself.
        let reach = [3, 20, 3 * INLINE_BLOCKS, 20 * INLINE_BLOCKS][random.below(4) as usize] * BLOCK;
        for _ in 0..120 {
            let size = file.model.len() as u64;
            match random.below(12) {
                0..4 => {
                    let offset = if random.one_in(3) { size } else { random.below(reach) };
                    let length_max = if random.one_in(4) { reach } else { 3 * BLOCK };
                    let length = 1 + random.below(length_max);
                    let data = bytes(&mut random, length);
                    file.write(offset as usize, data);
                }
                // Whole blocks.
                4 | 5 => {
                    let (first, count) = (random.below(reach / BLOCK), 1 + random.below(4));
                    let data = bytes(&mut random, count * BLOCK);
                    file.write((first * BLOCK) as usize, data);
                }
                6 => file.resize(random.below(reach) as usize),
                7 => {
                    let size = if random.one_in(2) { 0 } else { size / BLOCK * BLOCK };
                    file.resize(size as usize);
                }
                8 | 9 => {
                    let from = random.below(size + BLOCK);
                    let length_max = if random.one_in(3) { reach } else { 3 * BLOCK };
                    let length = random.below(length_max);
                    file.punch(from as usize, (from + length) as usize);
                }
                _ => {
                    file.reclaim();
                }
            }
            file.verify(&mut random);
        }
        while file.reclaim() {
            file.verify(&mut random);
        }
        // All that is left is what is read.
        let left: u64 = file.stored().values().sum();
        assert_eq!(left, file.record.stored_bytes, "seed {seed}\n{}", file.log);
        file.change(|content, draft| content.clear(draft).map(|more| draft.record.epoch += u32::from(more)));
        file.change(|_, draft| {
            draft.record.size = 0;
            Ok(())
        });
        while file.reclaim() {}
        assert_eq!(file.stored(), BTreeMap::new(), "seed {seed}\n{}", file.log);
    }
}

/// The accounting knows the size of a block that is replaced without reading it, except in a file with holes.
#[test]
fn only_edges_and_files_with_holes_are_read_before_they_are_written() {
    let mut file = File::new(BLOCK);
    let block = BLOCK as usize;
    let reads = |file: &mut File, offset, length| {
        let before = file.engine.kinds();
        let scans = file.engine.scans();
        file.write(offset, vec![1; length]);
        let gets: u64 = file.engine.kinds().iter().zip(&before).map(|(now, old)| now.gets - old.gets).sum();
        (gets, file.engine.scans() - scans)
    };
    assert_eq!(reads(&mut file, 0, 4 * block), (0, 0), "a new file");
    assert_eq!(reads(&mut file, 0, 4 * block), (0, 0), "whole blocks of a dense file");
    assert_eq!(reads(&mut file, 4 * block, 5), (0, 0), "behind the end");
    assert_eq!(reads(&mut file, 4 * block, 7), (0, 0), "a short block as far as it goes");
    assert_eq!(reads(&mut file, block + 3, block), (2, 0), "both edges");
    assert_eq!(reads(&mut file, 4 * block + 7, 2), (1, 0), "an append within a block");
    file.punch(block, 2 * block);
    assert_eq!(reads(&mut file, 3 * block, block), (1, 0), "one block of a file with holes");
    assert_eq!(reads(&mut file, 0, 4 * block), (0, 1), "several: one scan instead of a read each");
    assert!(file.record.is_dense());
}

/// A unit of reclaim is bounded, also where most blocks are missing; it goes on where it ended.
#[test]
fn reclaim_takes_units() {
    let mut file = File::new(BLOCK);
    let last = 3 * UNIT_BLOCKS;
    file.write(0, vec![1; (last * BLOCK) as usize]);
    file.resize(0);
    let mut units = 0;
    while file.reclaim() {
        units += 1;
        assert_eq!(file.stored().len() as u64, last - units * UNIT_BLOCKS);
    }
    assert_eq!(units, 3);
    // Every third block is there: fewer than half, so each is looked for.
    for block in (0..last).step_by(3) {
        file.write((block * BLOCK) as usize, vec![1; BLOCK as usize]);
    }
    file.resize(0);
    assert!(file.reclaim() && file.stored().is_empty() && !file.reclaim());
}

/// The end of the last block that a file may have is not behind the end of what a number can say.
#[test]
fn the_largest_file_is_like_any_other() {
    let mut file = File::new(4096);
    let offset = SIZE_MAX - 3;
    file.change(|content, draft| content.write(draft, offset, &Bytes::from_static(b"end")));
    assert_eq!(file.content().read(file.view(), offset - 1, 100).unwrap(), b"\0end");
    assert_eq!(file.content().seek(file.view(), 0, false).unwrap(), SIZE_MAX / 4096 * 4096);
    assert_eq!(file.content().seek(file.view(), offset, true).unwrap(), SIZE_MAX);
    file.change(|content, draft| content.punch(draft, (5, SIZE_MAX)));
    assert_eq!((file.record.size, file.record.stored_bytes), (SIZE_MAX, 0));
    assert!(matches!(file.content().seek(file.view(), 0, false), Err(Error::NoSuchAddress)));
}
