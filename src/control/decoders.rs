//! The decoders of what is written to the operator's room: commands, and requests at `metrics=`.

use super::{command, http};
use crate::base::decoder::Decoder;

/// The decoders of the operator's room.
pub const ALL: &[Decoder] = &[
    Decoder { name: "stats_command", decode: commands, valid: command_samples },
    Decoder { name: "http_request", decode: request, valid: requests },
];

fn commands(bytes: &[u8]) -> bool {
    command::parse(bytes).is_ok()
}

fn command_samples() -> Vec<Vec<u8>> {
    let texts = [
        "flush wait\ncompact L2 wait\n",
        "mark before.1\nsync",
        "set rate=10M\niops off",
        "explain 7 3\ntrace on 10",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn request(bytes: &[u8]) -> bool {
    for is_all in [false, true] {
        if let Some(answer) = http::answer(bytes, is_all, &|_| None) {
            assert!(answer.starts_with(b"HTTP/1.1 4"), "nothing is there");
        }
    }
    true
}

fn requests() -> Vec<Vec<u8>> {
    let texts = [
        "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9400\r\nAccept: text/plain\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
