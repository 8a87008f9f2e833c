//! The decoder that the environment names (`KVFS_DECODER`) on the bytes of the fuzzer; `fuzz/run.sh` sets it.
#![no_main]

use std::process::exit;
use std::sync::LazyLock;

use kvfs::base::decoder::Decoder;
use libfuzzer_sys::fuzz_target;

static DECODER: LazyLock<&'static Decoder> = LazyLock::new(|| {
    let name = std::env::var("KVFS_DECODER").unwrap_or_default();
    kvfs::decoders::named(&name).unwrap_or_else(|| {
        let names: Vec<&str> = kvfs::decoders::all().map(|decoder| decoder.name).collect();
        eprintln!("KVFS_DECODER={name} is no decoder; there are {}", names.join(" "));
        exit(2);
    })
});

fuzz_target!(|bytes: &[u8]| {
    (DECODER.decode)(bytes);
});
