//! Pages of every kind and length come back unchanged, with every compressor at every
//! level. Earlier uses of a context do not matter.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap and a panic are the test's own message"
)]

mod common;

use std::sync::Arc;

use common::{pages, specs};
use compressors::{Compressor, CompressorError, Registry, build};

/// Compresses `page` into a buffer that has exactly the worst case's length. Checks that
/// decompression with and without the context restores it. Returns the compressed page.
fn round_trip(
    codec: &dyn Compressor,
    ctx: &mut dyn compressors::CompressorCtx,
    page: &[u8],
    what: &str,
) -> Vec<u8> {
    let mut out = vec![0x5a; codec.max_compressed_len(page.len())];
    let len = ctx.compress(page, &mut out).unwrap_or_else(|e| panic!("{what}: {e}"));
    out.truncate(len);
    let mut back = vec![0xa5; page.len()];
    ctx.decompress(&out, &mut back).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(back == page, "{what}: came back changed");
    if let Some(stateless) = codec.stateless() {
        back.fill(0xa5);
        stateless.decompress(&out, &mut back).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(back == page, "{what}: came back changed without a context");
    }
    out
}

#[test]
fn every_spec_round_trips_pages() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        for (kind, page) in pages(4096) {
            let out = round_trip(&*codec, &mut *ctx, &page, &format!("{spec}, {kind}"));
            // The fastest level of zstd hardly searches for matches.
            let tries = !matches!(spec.as_str(), "null" | "zstd:level=-131072");
            if tries && matches!(kind.as_str(), "zeros" | "one byte") {
                assert!(out.len() < 128, "{spec}, {kind}: {} bytes", out.len());
            }
        }
    }
}

#[test]
fn every_compressor_round_trips_every_length() {
    let lens: &[usize] = if cfg!(miri) {
        &[0, 1, 4097]
    } else {
        &[
            0, 1, 2, 3, 7, 8, 12, 13, 63, 255, 256, 2048, 4095, 4096, 4097, 16384, 65535, 65536,
            65547,
        ]
    };
    for name in Registry::builtin().names() {
        if cfg!(miri) && name != "null" {
            continue;
        }
        let codec = build(name).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        for &len in lens {
            for (kind, page) in pages(len) {
                round_trip(&*codec, &mut *ctx, &page, &format!("{name}, {kind}, {len} bytes"));
            }
        }
    }
}

/// An empty slice may have any address. It must round-trip wherever it is.
#[test]
fn nothing_round_trips_wherever_it_is() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let mut out = vec![0; codec.max_compressed_len(0)];
        for _ in 0..3 {
            let len = ctx.compress(&[], &mut out).unwrap();
            assert_eq!(ctx.decompress(&out[..len], &mut []), Ok(()), "{spec}");
            assert!(ctx.decompress(&out[..len], &mut [0]).is_err(), "{spec}");
            if spec != "null" {
                assert!(ctx.compress(&[], &mut []).is_err(), "{spec}");
                assert!(ctx.decompress(&[], &mut []).is_err(), "{spec}");
            }
            assert!(ctx.decompress(&[], &mut [0]).is_err(), "{spec}");
            assert!(ctx.compress(&[1], &mut []).is_err(), "{spec}");
            if let Some(stateless) = codec.stateless() {
                assert_eq!(stateless.decompress(&out[..len], &mut []), Ok(()), "{spec}");
                assert!(stateless.decompress(&[], &mut [0]).is_err(), "{spec}");
            }
        }
        for len in 1..14 {
            for (kind, page) in pages(len) {
                round_trip(&*codec, &mut *ctx, &page, &format!("{spec}, {kind}, {len} bytes"));
            }
        }
    }
}

#[test]
fn a_used_context_compresses_as_a_new_one() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut used = codec.new_ctx().unwrap();
        for (kind, page) in pages(4096) {
            let what = format!("{spec}, {kind}");
            let fresh = round_trip(&*codec, &mut *codec.new_ctx().unwrap(), &page, &what);
            assert!(round_trip(&*codec, &mut *used, &page, &what) == fresh, "{what}");
        }
    }
}

#[test]
fn a_context_survives_its_errors() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let pages = pages(4096);
        let noise = &pages.iter().find(|(kind, _)| kind == "noise").unwrap().1;
        for (kind, page) in &pages {
            let what = format!("{spec}, {kind}");
            let fresh = round_trip(&*codec, &mut *codec.new_ctx().unwrap(), page, &what);
            for capacity in [0, 1, 40, 2000, 4095] {
                assert_eq!(
                    ctx.compress(noise, &mut vec![0; capacity]),
                    Err(CompressorError::OutputTooSmall {
                        codec: match codec.name() {
                            "null" => "null",
                            "lz4" => "lz4",
                            "lz4hc" => "lz4hc",
                            "linewords" => "linewords",
                            "zstd" => "zstd",
                            "deflate" => "deflate",
                            _ => "lzo",
                        },
                        src_len: 4096,
                        capacity
                    }),
                    "{what}"
                );
                assert!(ctx.decompress(noise, &mut [0; 333]).is_err(), "{what}");
                assert!(round_trip(&*codec, &mut *ctx, page, &what) == fresh, "{what}");
            }
        }
    }
}

#[test]
fn a_spec_builds_the_compressor_that_tells_it() {
    for spec in specs() {
        let codec = build(&spec).unwrap();
        let again = build(&codec.spec()).unwrap();
        assert_eq!(again.spec(), codec.spec());
        assert_eq!(again.name(), codec.name());
        // Not only the names are the same: the output is, too.
        let (_, page) = pages(4096).swap_remove(6);
        assert_eq!(
            round_trip(&*codec, &mut *codec.new_ctx().unwrap(), &page, &spec),
            round_trip(&*again, &mut *again.new_ctx().unwrap(), &page, &spec),
        );
    }
    for name in Registry::builtin().names() {
        if cfg!(miri) && name != "null" {
            continue;
        }
        assert_eq!(build(name).unwrap().spec(), name, "all parameters at their default");
    }
}

#[test]
fn parameters_make_a_difference() {
    let (_, page) = pages(4096).swap_remove(6);
    let len = |spec: &str| {
        let codec = build(spec).unwrap();
        round_trip(&*codec, &mut *codec.new_ctx().unwrap(), &page, spec).len()
    };
    if cfg!(miri) {
        return;
    }
    if cfg!(feature = "lz4") {
        assert!(len("lz4") < len("lz4:accel=65537"));
        assert!(len("lz4hc:level=12") < len("lz4"));
        assert!(len("lz4hc:level=12") <= len("lz4hc:level=3"));
    }
    if cfg!(feature = "zstd") {
        assert!(len("zstd:level=19") < len("zstd:level=1"));
        assert!(len("zstd:level=1") < len("zstd:level=-50"));
    }
    if cfg!(feature = "deflate") {
        assert!(len("deflate:level=12") < len("deflate:level=1"));
    }
}

#[test]
fn one_compressor_serves_all_threads() {
    for spec in specs().into_iter().filter(|spec| !spec.contains("page")) {
        if !cfg!(miri) && spec.contains("level=1") && spec.len() > 13 {
            continue;
        }
        let codec = build(&spec).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let codec = Arc::clone(&codec);
                scope.spawn(move || {
                    let mut ctx = codec.new_ctx().unwrap();
                    for (kind, page) in pages(4096) {
                        round_trip(&*codec, &mut *ctx, &page, &kind);
                    }
                });
            }
        });
    }
}

/// Tests every codec that takes a dictionary, with dictionaries that are shorter and
/// longer than the distance that a match can reach.
#[test]
#[cfg(all(feature = "lz4", feature = "zstd", not(miri)))]
fn dictionaries_round_trip() {
    use compressors::{Lz4, Lz4Hc, Zstd};

    for dictionary_len in [8, 100, 4096, 65536, 200_000] {
        let mut dictionary = Vec::new();
        for (kind, page) in pages(dictionary_len / 4 + 8) {
            // Machine code is left out, so that the assertions below do not depend on the machine.
            if !kind.starts_with("code") {
                dictionary.extend_from_slice(&page);
            }
        }
        let dictionary: Arc<[u8]> = dictionary[dictionary.len() - dictionary_len..].into();
        let mut codecs: Vec<Arc<dyn Compressor>> = Vec::new();
        for acceleration in [1, 9] {
            let builder = Lz4::builder().acceleration(acceleration);
            codecs.push(Arc::new(builder.dictionary(Arc::clone(&dictionary)).build().unwrap()));
        }
        for level in [3, 9, 10] {
            let builder = Lz4Hc::builder().level(level);
            codecs.push(Arc::new(builder.dictionary(Arc::clone(&dictionary)).build().unwrap()));
        }
        for level in [-5, 3, 12] {
            let builder = Zstd::builder().level(level);
            codecs.push(Arc::new(builder.dictionary(Arc::clone(&dictionary)).build().unwrap()));
        }
        for codec in codecs {
            let plain =
                build(codec.spec().rsplit_once("dict=").unwrap().0.trim_end_matches([':', ',']));
            let plain = plain.unwrap();
            let mut ctx = codec.new_ctx().unwrap();
            let mut plain_ctx = plain.new_ctx().unwrap();
            for len in [0, 1, 100, 4096, 4097, 70_000] {
                for (kind, page) in pages(len) {
                    let what = format!("{}, {kind}, {len} bytes", codec.spec());
                    round_trip(&*codec, &mut *ctx, &page, &what);
                }
            }
            if dictionary_len >= 4096 {
                // A page that equals the end of the dictionary must compress to almost nothing.
                let page = &dictionary[dictionary_len - 4096..];
                let what = codec.spec();
                let with = round_trip(&*codec, &mut *ctx, page, &what).len();
                let without = round_trip(&*plain, &mut *plain_ctx, page, &what).len();
                assert!(with < 256 && with < without / 2, "{what}: {with} against {without}");
            }
            // A page that does not fit its output must not change how the next page is compressed.
            let noise = &pages(4096)[3].1;
            let before = round_trip(&*codec, &mut *ctx, noise, "noise");
            assert!(ctx.compress(noise, &mut [0; 1000]).is_err());
            assert_eq!(round_trip(&*codec, &mut *ctx, noise, "noise"), before);
        }
    }
}

/// A length that does not fit an `int` is refused, not truncated. The zeroed memory is
/// never touched, so it takes only address space.
#[test]
#[cfg(all(target_pointer_width = "64", target_os = "linux", not(miri)))]
fn inputs_too_large_are_refused() {
    let large = vec![0u8; i32::MAX as usize + 1];
    let mut out = vec![0u8; 4096];
    for name in Registry::builtin().names() {
        let codec = build(name).unwrap();
        assert_eq!(codec.max_compressed_len(usize::MAX), usize::MAX, "{name}");
        if name == "null" {
            continue;
        }
        let mut ctx = codec.new_ctx().unwrap();
        let too_large = |result: Result<(), CompressorError>| matches!(result, Err(CompressorError::InputTooLarge { len, .. }) if len == large.len());
        assert!(too_large(ctx.compress(&large, &mut out).map(|_| ())), "{name}");
        assert!(too_large(ctx.decompress(&large, &mut out)), "{name}");
        if let Some(stateless) = codec.stateless() {
            assert!(too_large(stateless.decompress(&large, &mut out)), "{name}");
        }
    }
}

/// An output buffer may be longer than an `int` can say.
#[test]
#[cfg(all(target_pointer_width = "64", target_os = "linux", not(miri)))]
fn outputs_larger_than_an_int_serve() {
    let mut large = vec![0u8; i32::MAX as usize + 2];
    let page = &pages(4096)[6].1;
    for name in Registry::builtin().names() {
        let codec = build(name).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let len = ctx.compress(page, &mut large).unwrap();
        let compressed = large[..len].to_vec();
        let mut back = vec![0; 4096];
        ctx.decompress(&compressed, &mut back).unwrap();
        assert!(back == *page, "{name}");
        if name != "null" {
            assert!(matches!(
                ctx.decompress(&compressed, &mut large),
                Err(CompressorError::InputTooLarge { .. })
            ));
        }
    }
}
