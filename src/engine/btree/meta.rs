//! The meta page: a durable state of the tree in 512 bytes. Its two slots, units 0 and 1 of the file, are written in turn; the valid slot
//! with the higher sequence number counts.

use super::allocation_unit::{FILE, FIRST_UNIT, PageNumber, UNIT_BYTES, UnitNumber, Units};
use super::freemap::{MapEntry, UnitRun};
use crate::engine::{Error, Lsn, Result, frame};

/// Bytes of a slot that are used; a slot takes a whole unit.
pub const META_BYTES: usize = 512;
pub(super) const KIND: u8 = 1;
/// The first bytes of a slot: the format's name, and its version in the last byte.
const MAGIC: [u8; 8] = *b"kvfsbtr2";
/// Version 3, in which pages may be compressed. A state without such pages has version 2.
const VERSION_COMPRESSED: u8 = b'3';
/// Version 1, whose free map is a list of runs.
const VERSION_BEFORE: u8 = b'1';
/// No file has as many units.
const END_MAX: UnitNumber = UnitNumber::new(1 << 49);
const WORDS: usize = 20;
/// Number of words in stores from before `replay_all`, and in version 1.
const WORDS_BEFORE: usize = 19;
/// Number of words in a tree that is the upper half of a store, once entries have left it.
const WORDS_UPPER: usize = WORDS + 1;
/// Number of words in version 3.
const WORDS_COMPRESSED: usize = WORDS_UPPER + 1;
/// Number of words in stores of version 1 from before `recovery_lsn`.
const WORDS_FIRST: usize = 18;

/// The place of the free map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapPlace {
    /// Version 2: the entry of the root page.
    Pages(MapEntry),
    /// Version 1: a list of runs.
    Runs {
        /// The units of the list; none if nothing is free.
        run: UnitRun,
        /// Bytes of the list.
        bytes: u64,
        /// CRC-32 of the list.
        crc: u32,
    },
}

impl Default for MapPlace {
    fn default() -> MapPlace {
        MapPlace::Pages(MapEntry::default())
    }
}

/// Counts that are kept with the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCounts {
    /// Leaf pages.
    pub leaf_pages: u64,
    /// Inner pages.
    pub inner_pages: u64,
    /// Bytes of cells and slots of all leaves.
    pub leaf_bytes: u64,
    /// Units in extents.
    pub extent_units: Units,
    /// Units that compressed pages take less than others.
    pub saved_units: Units,
}

/// A durable state of the tree. Its fields are the words of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Sequence number; higher is newer, and its parity is the slot.
    pub sequence: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// The root page; none in an empty tree.
    pub root: PageNumber,
    /// Number of levels; 0 for an empty tree.
    pub height: u64,
    /// The state contains batches up to here, though not all of them.
    pub lsn: Lsn,
    /// The state contains every batch up to here, and opening replays the log behind; never above `lsn`.
    pub recovery_lsn: Lsn,
    /// If the recovery LSN is below, opening applies every batch behind it again, and not only those that may have been buffered.
    pub replay_all: Lsn,
    /// What lies below the tree must have come down when the log was durable up to here, at least: entries have left the tree for it. 0 in a tree
    /// that is no upper half of a store.
    pub lower_lsn: Lsn,
    /// Page images of batches in the log between here and `lsn` belong to this state; never above `lsn`.
    pub images_start: Lsn,
    /// Page images in the log up to here (of batches up to `lsn`, of the checkpoint behind it) belong to this state and are
    /// perhaps not in place yet; 0 if there are none.
    pub images_end: Lsn,
    /// Bytes of the doublewrite area that belong to this state and are perhaps not in place yet; 0 if there are none.
    pub doublewrite_bytes: u64,
    /// The end of the used part; units from here on are unused.
    pub end: UnitNumber,
    /// The free map.
    pub map: MapPlace,
    /// Counts of pages, bytes and units.
    pub counts: TreeCounts,
}

impl Meta {
    /// Byte offset of the slot.
    pub fn offset(&self) -> u64 {
        self.sequence % 2 * UNIT_BYTES
    }

    /// The same state once all pages are in place.
    pub fn settled(&self) -> Meta {
        let images_start = self.lsn;
        Meta {
            sequence: self.sequence + 1,
            images_start,
            images_end: Lsn::ZERO,
            doublewrite_bytes: 0,
            ..*self
        }
    }

    /// Whether it is the first state with compressed pages, after `before`.
    pub fn is_first_compressed(&self, before: &Meta) -> bool {
        !self.counts.saved_units.is_zero() && before.counts.saved_units.is_zero()
    }

    /// Encodes the slot.
    pub fn encode(&self) -> Vec<u8> {
        let counts = &self.counts;
        let (magic, map) = match self.map {
            MapPlace::Pages(root) => {
                let summary = u64::from(root.free_units) | u64::from(root.longest_units) << 16;
                (MAGIC, [root.unit.get(), root.side.get(), summary, u64::from(root.crc)])
            }
            MapPlace::Runs { run: (unit, units), bytes, crc } => {
                let mut magic = MAGIC;
                magic[7] = VERSION_BEFORE;
                (magic, [unit.get(), units.get(), bytes, u64::from(crc)])
            }
        };
        let is_before = magic != MAGIC;
        let is_compressed = !counts.saved_units.is_zero() && !is_before;
        let mut magic = magic;
        if is_compressed {
            magic[7] = VERSION_COMPRESSED;
        }
        let words: [u64; WORDS_COMPRESSED] = [
            u64::from_le_bytes(magic),
            self.sequence,
            self.page_bytes,
            self.root.word(),
            self.height,
            self.lsn.number(),
            self.images_start.number(),
            self.images_end.number(),
            self.doublewrite_bytes,
            self.end.get(),
            map[0],
            map[1],
            map[2],
            map[3],
            counts.leaf_pages,
            counts.inner_pages,
            counts.leaf_bytes,
            counts.extent_units.get(),
            self.recovery_lsn.number(),
            self.replay_all.number(),
            self.lower_lsn.number(),
            counts.saved_units.get(),
        ];
        let count = match () {
            () if is_before => WORDS_BEFORE,
            () if is_compressed => WORDS_COMPRESSED,
            () if self.lower_lsn > Lsn::ZERO => WORDS_UPPER,
            () => WORDS,
        };
        let payload: Vec<u8> = words[..count].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = frame::encode(KIND, self.offset(), &payload);
        bytes.resize(META_BYTES, 0);
        bytes
    }

    /// Decodes the slot at `offset`; `None` if it is not valid.
    pub fn decode(bytes: &[u8], offset: u64) -> Option<Meta> {
        let (kind, payload) = frame::decode(bytes, offset)?;
        let version = *payload.get(MAGIC.len() - 1)?;
        let (is_before, is_compressed) = (version == VERSION_BEFORE, version == VERSION_COMPRESSED);
        let is_known = match payload.len() / 8 {
            WORDS | WORDS_UPPER => !is_before && !is_compressed,
            WORDS_COMPRESSED => is_compressed,
            WORDS_BEFORE => !is_compressed,
            WORDS_FIRST => is_before,
            _ => false,
        };
        if kind != KIND || !is_known || payload.len() % 8 > 0 {
            return None;
        }
        let mut words = payload.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let mut next = || words.next();
        let [name @ .., version] = next()?.to_le_bytes();
        if name != MAGIC[..7] || version != MAGIC[7] && !is_before && !is_compressed {
            return None;
        }
        let mut meta = Meta {
            sequence: next()?,
            page_bytes: next()?,
            root: PageNumber::of_word(next()?),
            height: next()?,
            lsn: next().map(Lsn::new)?,
            recovery_lsn: Lsn::ZERO,
            replay_all: Lsn::ZERO,
            lower_lsn: Lsn::ZERO,
            images_start: next().map(Lsn::new)?,
            images_end: next().map(Lsn::new)?,
            doublewrite_bytes: next()?,
            end: UnitNumber::new(next()?),
            map: {
                let (unit, units, third) = (UnitNumber::new(next()?), Units::new(next()?), next()?);
                let crc = u32::try_from(next()?).ok()?;
                match is_before {
                    true => MapPlace::Runs { run: (unit, units), bytes: third, crc },
                    false => MapPlace::Pages(MapEntry {
                        unit,
                        side: units,
                        crc,
                        free_units: third as u16,
                        longest_units: (third >> 16) as u16,
                    }),
                }
            },
            counts: TreeCounts {
                leaf_pages: next()?,
                inner_pages: next()?,
                leaf_bytes: next()?,
                extent_units: Units::new(next()?),
                saved_units: Units::ZERO,
            },
        };
        meta.recovery_lsn = next().map(Lsn::new).unwrap_or(meta.lsn);
        meta.replay_all = next().map(Lsn::new).unwrap_or(meta.lsn);
        meta.lower_lsn = next().map(Lsn::new).unwrap_or_default();
        meta.counts.saved_units = next().map(Units::new).unwrap_or_default();
        let pages = meta.page_bytes.is_power_of_two() && (4 << 10..=64 << 10).contains(&meta.page_bytes);
        (pages
            && meta.height < 64
            && meta.images_start <= meta.lsn
            && meta.recovery_lsn <= meta.lsn
            && meta.offset() == offset
            && is_compressed != meta.counts.saved_units.is_zero()
            && (FIRST_UNIT..END_MAX).contains(&meta.end))
        .then_some(meta)
    }

    /// The newer valid one of the two slots at the start of the file.
    pub fn newest(bytes: &[u8]) -> Result<Meta> {
        let slots = [0, UNIT_BYTES].into_iter().filter_map(|offset| {
            let at = offset as usize;
            Self::decode(bytes.get(at..at + META_BYTES)?, offset)
        });
        slots.max_by_key(|meta| meta.sequence).ok_or_else(|| match Self::other_version(bytes) {
            Some(version) => Error::format(FILE, version.escape_ascii(), VERSION_COMPRESSED.escape_ascii()),
            None => Error::corrupt(FILE, 0, "neither meta page is whole"),
        })
    }

    /// The version of a slot that is whole but of a version unknown to us.
    fn other_version(bytes: &[u8]) -> Option<u8> {
        [0, UNIT_BYTES].into_iter().find_map(|offset| {
            let (_, payload) = frame::decode(bytes.get(offset as usize..)?, offset)?;
            let version = payload.first_chunk::<8>()?.strip_prefix(&MAGIC[..7])?[0];
            (!matches!(version, VERSION_BEFORE..=VERSION_COMPRESSED)).then_some(version)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sequence: u64) -> Meta {
        Meta {
            sequence,
            page_bytes: 16384,
            root: PageNumber::at(UnitNumber::new(5)),
            height: 2,
            lsn: Lsn::new(1000),
            recovery_lsn: Lsn::new(950),
            replay_all: Lsn::new(940),
            lower_lsn: Lsn::ZERO,
            images_start: Lsn::new(900),
            images_end: Lsn::new(2000),
            doublewrite_bytes: 7,
            end: UnitNumber::new(900),
            map: MapPlace::Pages(MapEntry {
                unit: UnitNumber::new(77),
                side: Units::ONE,
                crc: 0x0102_0304,
                free_units: 33,
                longest_units: 9,
            }),
            counts: TreeCounts {
                leaf_pages: 6,
                inner_pages: 1,
                leaf_bytes: 50_000,
                extent_units: Units::new(12),
                saved_units: Units::ZERO,
            },
        }
    }

    #[test]
    fn the_meta_page_is_these_bytes_and_every_flip_is_refused() {
        let mut bytes = sample(3).encode();
        let words: Vec<u64> = bytes[frame::HEADER_BYTES..frame::HEADER_BYTES + WORDS * 8]
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(bytes[4..17], [160, 0, 0, 0, 1, b'k', b'v', b'f', b's', b'b', b't', b'r', b'2']);
        assert_eq!(
            words[1..],
            [
                3,
                16384,
                5,
                2,
                1000,
                900,
                2000,
                7,
                900,
                77,
                1,
                9 << 16 | 33,
                0x0102_0304,
                6,
                1,
                50_000,
                12,
                950,
                940
            ]
        );
        assert!(bytes[169..].iter().all(|byte| *byte == 0) && bytes.len() == 512);
        assert_eq!(Meta::decode(&bytes, 4096), Some(sample(3)));
        assert_eq!(Meta::decode(&bytes, 0), None);
        let upper = Meta { lower_lsn: Lsn::new(930), ..sample(3) };
        assert_eq!((upper.encode()[4], Meta::decode(&upper.encode(), 4096)), (168, Some(upper)));
        for bit in 0..169 * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::decode(&bytes, 4096), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_meta_page_of_a_state_with_compressed_pages_has_a_version_of_its_own() {
        let mut meta = sample(3);
        meta.root = PageNumber::compressed(UnitNumber::new(5), Units::new(2));
        meta.counts.saved_units = Units::new(21);
        let bytes = meta.encode();
        assert_eq!((bytes[4], bytes[16], Meta::decode(&bytes, 4096)), (176, b'3', Some(meta)));
        assert_eq!(decode_words(&bytes, 21), None);
        // Without compressed pages it is not that version.
        let mut words = bytes[frame::HEADER_BYTES..][..WORDS_COMPRESSED * 8].to_vec();
        words[21 * 8..].fill(0);
        assert_eq!(Meta::decode(&frame::encode(KIND, 4096, &words), 4096), None);
        meta.counts.saved_units = Units::ZERO;
        assert_eq!(meta.encode()[16], b'2');
    }

    #[test]
    fn a_meta_page_of_the_version_before_names_a_list_of_runs() {
        let run = MapPlace::Runs { run: (UnitNumber::new(77), Units::ONE), bytes: 33, crc: 5 };
        let before = Meta { map: run, replay_all: Lsn::new(1000), ..sample(3) };
        let bytes = before.encode();
        assert_eq!(bytes[4], 152);
        assert_eq!(bytes[16], b'1');
        assert_eq!(Meta::decode(&bytes, 4096), Some(before));
        // Without a recovery LSN it holds every batch.
        assert_eq!(decode_words(&bytes, 18), Some(Meta { recovery_lsn: Lsn::new(1000), ..before }));
        assert_eq!(decode_words(&bytes, 17), None);
    }

    #[test]
    fn a_meta_page_from_before_replay_all_has_all_replayed() {
        let bytes = sample(3).encode();
        assert_eq!(decode_words(&bytes, 19), Some(Meta { replay_all: Lsn::new(1000), ..sample(3) }));
        assert_eq!(decode_words(&bytes, 18), None);
    }

    fn decode_words(bytes: &[u8], words: usize) -> Option<Meta> {
        let words = &bytes[frame::HEADER_BYTES..][..words * 8];
        Meta::decode(&frame::encode(KIND, 4096, words), 4096)
    }

    #[test]
    fn the_newer_whole_slot_counts() {
        let mut file = vec![0; 8192];
        assert!(Meta::newest(&file).is_err());
        file[4096..4608].copy_from_slice(&sample(3).encode());
        file[..512].copy_from_slice(&sample(4).encode());
        assert_eq!(Meta::newest(&file).unwrap(), sample(4));
        file[20] ^= 1;
        assert_eq!(Meta::newest(&file).unwrap(), sample(3));
    }
}
