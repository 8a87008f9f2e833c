//! Every decoder of bytes that come from a disk, a client or a command line, by name: for whoever wants to break them.

use crate::base::decoder::Decoder;
use crate::base::{text, varint};
use crate::store::Settings;
use crate::{control, engine, fs, import, recording, store};

const HERE: &[Decoder] = &[
    Decoder { name: "varint", decode: varints, valid: varint_samples },
    Decoder { name: "option", decode: option, valid: options },
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Decoder> {
    HERE.iter()
        .chain(store::decoders::ALL)
        .chain(engine::decoders::all())
        .chain(fs::decoders::ALL)
        .chain(control::decoders::ALL)
        .chain(recording::decoders::ALL)
        .chain(import::decoders::ALL)
}

/// The one of this name.
pub fn named(name: &str) -> Option<&'static Decoder> {
    all().find(|decoder| decoder.name == name)
}

fn varints(bytes: &[u8]) -> bool {
    let mut source = bytes;
    while varint::take(&mut source).is_some() {}
    let mut source = bytes;
    while let Some(taken) = varint::take_bytes(&mut source) {
        assert!(taken.len() < bytes.len());
    }
    true
}

fn varint_samples() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    [0, 127, 128, 1 << 40, u64::MAX].into_iter().for_each(|number| varint::put(&mut bytes, number));
    varint::put_bytes(&mut bytes, b"some bytes");
    vec![bytes]
}

/// A text as the value of every option, and as what those are made of.
fn option(bytes: &[u8]) -> bool {
    let line = String::from_utf8_lossy(bytes);
    let _ = (text::parse_size(&line), text::parse_duration(&line), text::parse_switch(&line));
    let _ = line.parse::<engine::Sync>();
    let mut settings = Settings::default();
    let taken = |name| matches!(settings.set(name, &line), Some(Ok(())));
    Settings::all().iter().map(|setting| setting.name).map(taken).filter(|is_taken| *is_taken).count() > 0
}

fn options() -> Vec<Vec<u8>> {
    let texts = ["64M", "interval:500ms", "always", "127.0.0.1:9400"];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
