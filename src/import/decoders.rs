//! The decoders of what is imported.

use super::{fio, rocksdb};
use crate::base::decoder::Decoder;
use crate::recording::Writer;

/// The decoders of what is imported.
pub const ALL: &[Decoder] = &[
    Decoder { name: "rocksdb_trace", decode: trace, valid: traces },
    Decoder { name: "fio_iolog", decode: iolog, valid: iologs },
];

fn trace(bytes: &[u8]) -> bool {
    rocksdb::import("bytes", bytes, |head| Writer::new(Vec::new(), "nowhere", head)).is_ok()
}

fn traces() -> Vec<Vec<u8>> {
    let text =
        b"feedcafedeadbeef\tTrace Version: 0.2\tRocksDB Version: 7.8\tFormat: Timestamp OpType Payload\n";
    let record = |kind: u8, payload: &[u8]| {
        [&[9; 8][..], &[kind], &(payload.len() as u32).to_le_bytes(), payload].concat()
    };
    let get = [&12u64.to_le_bytes()[..], &[0; 4], b"\x03key"].concat();
    let batch = b"\0\0\0\0\0\0\0\0\x01\0\0\0\x01\x03key\x05value";
    let write = [&2u64.to_le_bytes()[..], &[batch.len() as u8], batch].concat();
    vec![[record(1, text), record(4, &get), record(3, &write), record(2, b"")].concat()]
}

fn iolog(bytes: &[u8]) -> bool {
    fio::parse("bytes", bytes, &mut |_| Ok(())).is_ok()
}

fn iologs() -> Vec<Vec<u8>> {
    let texts = [
        "fio version 2 iolog\n/f add\n/f open\n/f write 0 4096\n/f read 0 4096\n/f sync 0 0\nwait 10\n/f close\n",
        "fio version 3 iolog\n1 /f add\n2 /f open\n3 /f write 0 4096\n4 /f datasync\n5 /f trim 0 4096\n6 /f close\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
