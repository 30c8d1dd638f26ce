//! Content codings (RFC 9110 8.4.1): what a target compressed, read piece by piece. Pure.
//!
//! Little goes in at once, so that what comes out is bounded before it is looked at; a body that
//! grows as no honest one does is refused, and so is one that does not end where it should.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// Codings on top of each other.
const LAYERS_MAX: usize = 2;
/// Goes in at once.
const SLICE_BYTES: usize = 1 << 10;
/// May come out of one slice, whatever came before.
const BURST_BYTES_MAX: usize = 4 << 20;
/// From here on a body may not have grown more than so many times.
const FREE_BYTES: u64 = 8 << 20;
const GROWTH_MAX: u64 = 256;
/// RFC 8878 3.1.1.1.2: what a decoder of HTTP must support, and this one does not exceed.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const BUFFER_BYTES: usize = 32 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// What a client may be told that we take, in the words of `accept-encoding`.
const KNOWN: &[&str] = &["gzip", "x-gzip", "deflate", "br", "zstd", "identity"];

/// The codings of a `content-encoding` in the order in which they were applied. None: one of them
/// is not known, or there are too many.
pub fn codings(value: &str) -> Option<Vec<Coding>> {
    let mut out = Vec::new();
    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        out.push(match word.to_ascii_lowercase().as_str() {
            "identity" => continue,
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            "br" => Coding::Brotli,
            "zstd" => Coding::Zstd,
            _ => return None,
        });
    }
    (out.len() <= LAYERS_MAX).then_some(out)
}

/// An `accept-encoding` without the codings that nobody here could look into.
pub fn acceptable(value: &str) -> String {
    let known = |part: &&str| {
        let word = part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        KNOWN.contains(&word.as_str())
    };
    let parts: Vec<&str> = value.split(',').map(str::trim).filter(known).collect();
    if parts.is_empty() { "identity".to_owned() } else { parts.join(", ") }
}

/// Why a body is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodingError {
    #[error("it is not compressed as it says")]
    Malformed,
    #[error("it grows more than any honest body")]
    Bomb,
}

/// Takes what a decoder makes of one slice.
#[derive(Debug, Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BURST_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Zstd {
    decoder: ZstdDecoder<'static>,
    sink: Sink,
    /// Nothing of a frame is open.
    whole: bool,
}

enum Step {
    Gzip(MultiGzDecoder<Sink>),
    /// Its first two bytes say whether it is as RFC 9110 has it, or raw as many send it.
    Doubt(Vec<u8>),
    Zlib(ZlibDecoder<Sink>),
    Raw(DeflateDecoder<Sink>),
    Brotli(Box<DecompressorWriter<Sink>>),
    Zstd(Box<Zstd>),
}

impl Step {
    fn new(coding: Coding) -> Result<Self, CodingError> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(MultiGzDecoder::new(Sink::default())),
            Coding::Deflate => Self::Doubt(Vec::new()),
            Coding::Brotli => {
                Self::Brotli(Box::new(DecompressorWriter::new(Sink::default(), BUFFER_BYTES)))
            }
            Coding::Zstd => {
                let mut decoder = ZstdDecoder::new().map_err(|_| CodingError::Malformed)?;
                let window = DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
                decoder.set_parameter(window).map_err(|_| CodingError::Malformed)?;
                Self::Zstd(Box::new(Zstd { decoder, sink: Sink::default(), whole: true }))
            }
        })
    }

    /// One slice in, what it means out.
    fn push(&mut self, slice: &[u8]) -> Result<Vec<u8>, CodingError> {
        if let Self::Doubt(begun) = self {
            begun.extend_from_slice(slice);
            let (Some(first), Some(second)) = (begun.first(), begun.get(1)) else {
                return Ok(Vec::new());
            };
            // RFC 1950 2.2: method 8, and a checksum over both bytes.
            let zlib =
                first & 0x0f == 8 && (u32::from(*first) * 256 + u32::from(*second)) % 31 == 0;
            let begun = std::mem::take(begun);
            *self = if zlib {
                Self::Zlib(ZlibDecoder::new(Sink::default()))
            } else {
                Self::Raw(DeflateDecoder::new(Sink::default()))
            };
            return self.push(&begun);
        }
        let written = match self {
            Self::Gzip(decoder) => decoder.write_all(slice).and_then(|()| decoder.flush()),
            Self::Doubt(_) => Ok(()),
            Self::Zlib(decoder) => decoder.write_all(slice).and_then(|()| decoder.flush()),
            Self::Raw(decoder) => decoder.write_all(slice).and_then(|()| decoder.flush()),
            Self::Brotli(decoder) => decoder.write_all(slice).and_then(|()| decoder.flush()),
            Self::Zstd(zstd) => zstd.push(slice),
        };
        self.made(written)
    }

    /// Nothing more comes.
    fn finish(&mut self) -> Result<Vec<u8>, CodingError> {
        let written = match self {
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Doubt(begun) if begun.is_empty() => Ok(()),
            Self::Doubt(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::Raw(decoder) => decoder.try_finish(),
            Self::Brotli(decoder) => decoder.close(),
            Self::Zstd(zstd) if zstd.whole => Ok(()),
            Self::Zstd(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        self.made(written)
    }

    fn made(&mut self, written: io::Result<()>) -> Result<Vec<u8>, CodingError> {
        written.map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => CodingError::Bomb,
            _ => CodingError::Malformed,
        })?;
        let sink = match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Doubt(_) => return Ok(Vec::new()),
            Self::Zlib(decoder) => decoder.get_mut(),
            Self::Raw(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
            Self::Zstd(zstd) => &mut zstd.sink,
        };
        Ok(std::mem::take(&mut sink.0))
    }
}

impl Zstd {
    fn push(&mut self, slice: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(slice);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut output = OutBuffer::around(&mut buffer[..]);
            let left = self.decoder.run(&mut input, &mut output)?;
            self.whole = left == 0;
            let made = output.pos();
            self.sink.write_all(output.as_slice())?;
            if input.pos() >= slice.len() && (made < BUFFER_BYTES || self.whole) {
                return Ok(());
            }
        }
    }
}

/// One body, decoded as it comes.
pub struct Decoder {
    /// In the order in which they are undone.
    steps: Vec<Step>,
    came: u64,
    made: u64,
    any: bool,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({} steps, {} of {})", self.steps.len(), self.made, self.came)
    }
}

impl Decoder {
    /// `codings`: as [`codings`] has them.
    pub fn new(codings: &[Coding]) -> Result<Self, CodingError> {
        let steps = codings.iter().rev().map(|coding| Step::new(*coding)).collect::<Result<_, _>>();
        Ok(Self { steps: steps?, came: 0, made: 0, any: false })
    }

    /// Decodes a piece; `each` gets what it means, in pieces of bounded length.
    pub fn push<E: From<CodingError>>(
        &mut self,
        piece: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.any |= !piece.is_empty();
        for slice in piece.chunks(SLICE_BYTES) {
            self.came += slice.len() as u64;
            self.run(0, slice, each)?;
        }
        Ok(())
    }

    /// The body has ended. An empty one may lack even the form of its coding.
    pub fn finish<E: From<CodingError>>(
        &mut self,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.any {
            return Ok(());
        }
        for at in 0..self.steps.len() {
            let Some(step) = self.steps.get_mut(at) else { continue };
            let made = step.finish()?;
            self.run(at + 1, &made, each)?;
        }
        Ok(())
    }

    fn run<E: From<CodingError>>(
        &mut self,
        at: usize,
        bytes: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if bytes.is_empty() {
            return Ok(());
        }
        if at > 0 && at == self.steps.len() {
            self.made += bytes.len() as u64;
            if self.made > FREE_BYTES && self.made / GROWTH_MAX > self.came {
                return Err(CodingError::Bomb.into());
            }
        }
        if at >= self.steps.len() {
            return each(bytes);
        }
        for slice in bytes.chunks(SLICE_BYTES) {
            let Some(step) = self.steps.get_mut(at) else { continue };
            let made = step.push(slice)?;
            self.run(at + 1, &made, each)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut made = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        made.write_all(text).unwrap();
        made.finish().unwrap()
    }

    fn raw(text: &[u8]) -> Vec<u8> {
        let mut made =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        made.write_all(text).unwrap();
        made.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    /// `text` of ASCII in brotli without compression (RFC 7932 9.2): a window, raw meta-blocks.
    fn brotli(text: &[u8]) -> Vec<u8> {
        let mut bits: Vec<bool> = vec![false];
        let mut out = Vec::new();
        let put = |value: usize, n: usize, bits: &mut Vec<bool>| {
            bits.extend((0..n).map(|at| value >> at & 1 == 1));
        };
        for block in text.chunks(1 << 16) {
            put(0, 1, &mut bits); // ISLAST
            put(0, 2, &mut bits); // MNIBBLES: 4
            put(block.len() - 1, 16, &mut bits);
            put(1, 1, &mut bits); // ISUNCOMPRESSED
            while !bits.len().is_multiple_of(8) {
                bits.push(false);
            }
            flush(&mut bits, &mut out);
            out.extend_from_slice(block);
        }
        put(3, 2, &mut bits); // ISLAST, ISLASTEMPTY
        while !bits.len().is_multiple_of(8) {
            bits.push(false);
        }
        flush(&mut bits, &mut out);
        out
    }

    fn flush(bits: &mut Vec<bool>, out: &mut Vec<u8>) {
        for byte in bits.chunks(8) {
            out.push(byte.iter().rev().fold(0, |n, bit| n << 1 | u8::from(*bit)));
        }
        bits.clear();
    }

    fn decode(value: &str, body: &[u8], size: usize) -> Result<Vec<u8>, CodingError> {
        let mut decoder = Decoder::new(&codings(value).unwrap())?;
        let mut out = Vec::new();
        let mut each = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok::<(), CodingError>(())
        };
        for piece in body.chunks(size) {
            decoder.push(piece, &mut each)?;
        }
        decoder.finish(&mut each)?;
        Ok(out)
    }

    #[test]
    fn every_coding_reads_back_in_pieces_of_any_size() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(|n| format!("{n} ").into_bytes()).collect();
        for (value, body) in [
            ("gzip", gzip(&text)),
            ("x-gzip", gzip(&text)),
            ("gzip", [gzip(&text[..100]), gzip(&text[100..])].concat()),
            ("deflate", zlib(&text)),
            ("deflate", raw(&text)),
            ("br", brotli(&text)),
            ("zstd", zstd(&text)),
            ("zstd", [zstd(&text[..100]), zstd(&text[100..])].concat()),
            ("gzip, zstd", zstd(&gzip(&text))),
            ("identity", text.clone()),
        ] {
            for size in [1, 7, 1_000, usize::MAX] {
                let got = decode(value, &body, size);
                assert!(
                    got.as_deref() == Ok(&text),
                    "{value} in {size}: {:?}",
                    got.map(|g| g.len())
                );
            }
        }
        for value in ["gzip", "deflate", "br", "zstd"] {
            assert_eq!(decode(value, b"", 1), Ok(Vec::new()), "{value}");
        }
    }

    #[test]
    fn what_is_not_what_it_says_is_refused() {
        let text = b"a text that is long enough to be cut in two";
        for (value, whole) in [
            ("gzip", gzip(text)),
            ("deflate", zlib(text)),
            ("br", brotli(text)),
            ("zstd", zstd(text)),
        ] {
            let cut = &whole[..whole.len() - 3];
            assert_eq!(decode(value, cut, 9), Err(CodingError::Malformed), "{value} cut");
            let long = [&whole[..], b"more that is no member"].concat();
            assert_eq!(decode(value, &long, 9), Err(CodingError::Malformed), "{value} surplus");
            assert_eq!(decode(value, text, 9), Err(CodingError::Malformed), "{value} plain");
        }
        assert_eq!(codings("compress"), None);
        assert_eq!(codings("gzip, gzip, gzip"), None);
        assert_eq!(codings("gzip, aws-chunked"), None);
    }

    #[test]
    fn h16_bombs_do_not_go_off() {
        let zeros = vec![0; 20 << 20];
        for (value, body) in [
            ("gzip", gzip(&zeros)),
            ("deflate", zlib(&zeros)),
            ("zstd", zstd(&zeros)),
            ("gzip, gzip", gzip(&gzip(&zeros))),
        ] {
            let got = decode(value, &body, 16 << 10).map(|out| out.len());
            assert_eq!(got, Err(CodingError::Bomb), "{value} of {}", body.len());
        }
    }

    #[test]
    fn only_what_can_be_read_is_asked_for() {
        for (asked, expect) in [
            ("gzip, deflate, br, zstd", "gzip, deflate, br, zstd"),
            ("br;q=1.0, dcb, *;q=0.1", "br;q=1.0"),
            ("*", "identity"),
            ("", "identity"),
            ("GZIP;q=0", "GZIP;q=0"),
        ] {
            assert_eq!(acceptable(asked), expect, "{asked}");
        }
    }
}
