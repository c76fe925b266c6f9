use super::*;
use crate::dm::table::Line;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

fn device() -> impl Strategy<Value = Device> {
    prop_oneof![
        (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Device(format!("{major}:{minor}"))),
        "/dev/[a-zA-Z0-9_.-]{1,12}(\\\\ [a-z]{1,3})?".prop_map(Device),
    ]
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_:-]{0,15}"
}

fn words() -> impl Strategy<Value = Vec<String>> {
    vec(word(), 0..5)
}

fn hex() -> impl Strategy<Value = String> {
    "([0-9a-f]{2}){1,32}"
}

fn feature() -> impl Strategy<Value = Feature> {
    prop_oneof![
        Just(Feature::ErrorReads),
        Just(Feature::DropWrites),
        Just(Feature::ErrorWrites),
        any::<(u32, bool, u8, u32)>().prop_map(|(nth_byte, write, value, flags)| Feature::CorruptBioByte {
            nth_byte,
            write,
            value,
            flags
        }),
        any::<u32>().prop_map(Feature::RandomReadCorrupt),
        any::<u32>().prop_map(Feature::RandomWriteCorrupt),
        "new_[a-z]{1,8}".prop_map(Feature::Other),
    ]
}

fn remap_option() -> impl Strategy<Value = RemapOption> {
    prop_oneof![
        Just(RemapOption::SmallSpare),
        Just(RemapOption::Managed),
        any::<(u64, u64)>().prop_map(|(head, tail)| RemapOption::Reserve { head, tail }),
        any::<u32>().prop_map(RemapOption::Closed),
        any::<u32>().prop_map(RemapOption::Hold),
        device().prop_map(RemapOption::Spare),
        "new_[a-z]{1,8}".prop_map(RemapOption::Other),
    ]
}

fn linear() -> impl Strategy<Value = Linear> {
    (device(), any::<u64>()).prop_map(|(device, offset)| Linear { device, offset })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![hex(), Just("-".to_owned()), ":(16|32|64):(logon|user):[a-z:_]{1,12}"]
}

/// Every target that has a type.
fn target() -> impl Strategy<Value = Target> {
    let stripe = linear().prop_map(|Linear { device, offset }| Stripe { device, offset });
    let striped = (1u64.., vec(stripe, 1..5)).prop_map(|(chunk, stripes)| Striped { chunk, stripes });
    let flakey = (linear(), any::<(u32, u32)>(), vec(feature(), 0..4)).prop_map(|(at, (up, down), features)| Flakey {
        device: at.device,
        offset: at.offset,
        up,
        down,
        features,
    });
    let thin = (device(), 0u32..1 << 24, of(device())).prop_map(|(pool, id, origin)| Thin { pool, id, origin });
    let pool = (device(), device(), 1u32..=16384, any::<u64>(), words()).prop_map(|(metadata, data, blocks, mark, features)| {
        ThinPool { metadata, data, block_size: blocks * 128, low_water_mark: mark, features }
    });
    let pairs = vec((word(), any::<u32>()), 0..3);
    let cache = (device(), device(), device(), 1u32..=32768, words(), word(), pairs).prop_map(
        |(metadata, cache, origin, blocks, features, policy, pairs)| {
            let policy_args = pairs.into_iter().flat_map(|(key, value)| [key, value.to_string()]).collect();
            Cache { metadata, cache, origin, block_size: blocks * 64, features, policy, policy_args }
        },
    );
    let crypt = (word(), key(), any::<u64>(), linear(), words()).prop_map(|(cipher, key, iv_offset, at, options)| {
        let options = match options.len() {
            0 => String::new(),
            count => format!(" {count} {}", options.join(" ")),
        };
        Crypt::parse(&format!("{cipher} {key} {iv_offset} {at}{options}")).unwrap()
    });
    let persistence =
        prop_oneof![Just(Persistence::Persistent), Just(Persistence::PersistentOverflow), Just(Persistence::Transient)];
    let snapshot = (device(), device(), persistence, 0u32..31, words())
        .prop_map(|(origin, cow, persistent, bit, features)| Snapshot { origin, cow, persistent, chunk: 1 << bit, features });
    let block = || (9u32..17).prop_map(|bit| 1 << bit);
    let salt = prop_oneof![hex(), Just("-".to_owned())];
    let verity = ((0u32..2, device(), device(), block(), block()), any::<(u64, u64)>(), (word(), hex(), salt, words())).prop_map(
        |(
            (version, data, hash, data_block_size, hash_block_size),
            (data_blocks, hash_start),
            (algorithm, digest, salt, options),
        )| {
            Verity {
                version,
                data,
                hash,
                data_block_size,
                hash_block_size,
                data_blocks,
                hash_start,
                algorithm,
                digest,
                salt,
                options,
            }
        },
    );
    let remap = (device(), device(), vec(remap_option(), 0..5)).prop_map(|(main, spare, options)| Remap { main, spare, options });
    prop_oneof![
        linear().prop_map(Target::Linear),
        striped.prop_map(Target::Striped),
        of(linear()).prop_map(|like| Target::Error(ErrorTarget { like })),
        flakey.prop_map(Target::Flakey),
        thin.prop_map(Target::Thin),
        pool.prop_map(Target::ThinPool),
        cache.prop_map(Target::Cache),
        crypt.prop_map(Target::Crypt),
        snapshot.prop_map(Target::Snapshot),
        verity.prop_map(Target::Verity),
        remap.prop_map(Target::Remap),
        words().prop_map(|words| Target::parse("zero", &words.join("  ")).unwrap()),
    ]
}

proptest! {
    #[test]
    fn a_line_is_read_as_it_is_printed(start in 0u64..1 << 40, length in 1u64..1 << 40, target in target()) {
        let line = Line { start, length, target };
        let text = line.to_string();
        prop_assert_eq!(&text.parse::<Line>().unwrap(), &line);
        let of_kernel = Line::of_kernel(start, length, line.target.kind(), &line.target.to_string());
        prop_assert_eq!(of_kernel, line);
    }

    #[test]
    fn a_key_is_seen_by_nobody(key in "([0-9a-f]{2}){8,32}", rest in any::<String>(), cut in 0usize..6) {
        prop_assume!(key.bytes().any(|c| c != b'0') && !rest.contains(&key));
        let whole = ["aes-xts-plain64", &key, "0", "/dev/a", "0", &rest];
        for params in [whole[..=cut].join(" "), format!("{key} {rest}"), format!("aes {rest} {key}")] {
            if let Err(error) = Target::parse("crypt", &params) {
                prop_assert!(!error.to_string().contains(&key), "{}", error);
            }
            let debug = format!("{:?}", Target::of_kernel("crypt", &params));
            prop_assert!(!debug.contains(&key), "a key is in the debug text");
        }
        let mut target = Target::of_kernel("crypt", &whole.join(" "));
        target.hide_keys();
        prop_assert!(!target.to_string().contains(&key));
    }
}

/// Lines as kernels 6.1 and 6.12 print them.
#[test]
fn what_a_kernel_prints_is_understood() {
    for (kind, params) in [
        ("linear", "8:16 2048"),
        ("striped", "2 128 8:16 0 8:32 0"),
        ("error", ""),
        ("flakey", "8:16 0 5 1 0"),
        ("flakey", "8:16 0 0 1 1 drop_writes"),
        ("flakey", "8:16 0 0 1 5 corrupt_bio_byte 32 r 1 0"),
        ("thin-pool", "253:0 253:1 128 32768 1 skip_block_zeroing"),
        ("thin-pool", "253:0 253:1 128 0 0"),
        ("thin", "253:2 0"),
        ("thin", "253:2 16777215 8:16"),
        ("cache", "253:0 253:1 253:2 512 1 writethrough smq 0"),
        ("cache", "253:0 253:1 253:2 512 2 metadata2 writeback mq 4 sequential_threshold 1024 random_threshold 8"),
        ("crypt", "aes-xts-plain64 :64:logon:cryptsetup:9c9d-d0 0 8:16 32768 2 allow_discards sector_size:4096"),
        ("crypt", "aes-cbc-essiv:sha256 babebabebabebabebabebabebabebabe 0 8:16 0"),
        ("crypt", "capi:cipher_null-ecb - 0 8:16 0"),
        ("snapshot", "253:0 253:1 P 16"),
        ("snapshot", "253:0 253:1 PO 16 1 discard_zeroes_cow"),
        ("verity", "1 8:1 8:2 4096 4096 262144 1 sha256 4392712ba0 1234000000"),
        ("verity", "1 8:1 8:2 4096 4096 8 0 sha256 4392712ba0 - 3 ignore_corruption fec_roots 2"),
        ("dm-remap-v4", "8:16 8:32"),
        ("dm-remap-v4", "8:16 8:32 11 managed reserve 8 16 closed 60000 hold 10000 small_spare spare 8:48"),
    ] {
        let target = Target::parse(kind, params).unwrap();
        assert!(!matches!(target, Target::Other(_)), "{kind}");
        assert_eq!((target.kind(), target.to_string().as_str()), (kind, params));
    }
}

#[test]
fn what_may_be_left_out_may_be_written_as_none() {
    for (kind, long, short) in [
        ("crypt", "aes-cbc-plain 00 0 8:16 0 0", "aes-cbc-plain 00 0 8:16 0"),
        ("snapshot", "8:0 8:1 P 16 0", "8:0 8:1 P 16"),
        ("verity", "1 8:1 8:2 4096 4096 8 0 sha256 43 - 0", "1 8:1 8:2 4096 4096 8 0 sha256 43 -"),
        ("dm-remap-v4", "8:16 8:32 0", "8:16 8:32"),
        ("thin-pool", "8:0 8:1 128 0", "8:0 8:1 128 0 0"),
        ("flakey", "8:0 0 1 1", "8:0 0 1 1 0"),
    ] {
        assert_eq!(Target::parse(kind, long).unwrap().to_string(), short.to_owned(), "{kind}");
        assert_eq!(Target::parse(kind, long), Target::parse(kind, short), "{kind}");
    }
}

#[test]
fn wrong_parameters_are_named() {
    for (kind, params, word) in [
        ("striped", "0 128", "is 0"),
        ("striped", "2 0 8:0 0 8:1 0", "chunk size is 0"),
        ("striped", "2 128 8:0 0", "device 2 of 2 is missing"),
        ("striped", "4294967295 128", "device 1 of 4294967295 is missing"),
        ("error", "8:0", "offset is missing"),
        ("flakey", "8:0 0 1", "down interval is missing"),
        ("flakey", "8:0 0 1 1 2 drop_writes", "feature is missing"),
        ("flakey", "8:0 0 1 1 1 corrupt_bio_byte 1 r 1 0", "5 words, not 1"),
        ("flakey", "8:0 0 1 1 5 corrupt_bio_byte 1 x 1 0", "r or w"),
        ("flakey", "8:0 0 1 1 5 corrupt_bio_byte 1 r 256 0", "256"),
        ("thin-pool", "8:0 8:1 100 0", "multiple of 128"),
        ("thin-pool", "8:0 8:1 128 0 2 read_only", "feature 2 of 2 is missing"),
        ("thin", "253:0 16777216", "2^24"),
        ("cache", "8:0 8:1 8:2 512 0 smq 1 x", "even"),
        ("cache", "8:0 8:1 8:2 65 0 smq 0", "multiple of 64"),
        ("crypt", "aes-cbc-plain 0 0 8:0 0", "hexadecimal"),
        ("crypt", "aes-cbc-plain :32:logon 0 8:0 0", "hexadecimal"),
        ("snapshot", "8:0 8:1 X 16", "P, PO or N"),
        ("snapshot", "8:0 8:1 P 12", "power of two"),
        ("verity", "1 8:1 8:2 4096 4096 8 0 sha256 xy -", "digest"),
        ("verity", "1 8:1 8:2 4000 4096 8 0 sha256 00 -", "4000 bytes"),
        ("dm-remap-v4", "8:16", "spare is missing"),
        ("dm-remap-v4", "8:16 8:32 1 reserve 8 8", "3 words, not 1"),
        ("dm-remap-v4", "8:16 8:32 2 hold soon", "“soon”"),
    ] {
        let error = Target::parse(kind, params).unwrap_err().to_string();
        assert!(error.contains(word) && error.starts_with(kind), "{kind} {params}: {error}");
    }
}

#[test]
fn keys_are_hidden_as_dmsetup_hides_them() {
    let hidden = |kind: &str, params: &str| {
        let mut target = Target::of_kernel(kind, params);
        target.hide_keys();
        target.to_string()
    };
    assert_eq!(hidden("crypt", "aes-cbc-plain c0ffee 0 8:0 0 1 allow_discards"), "aes-cbc-plain 000000 0 8:0 0 1 allow_discards");
    assert_eq!(hidden("crypt", "aes-cbc-plain :32:logon:a:b 0 8:0 0"), "aes-cbc-plain :32:logon:a:b 0 8:0 0");
    assert_eq!(hidden("crypt", "aes-cbc-plain c0ffee of a later kernel"), "aes-cbc-plain 000000 of a later kernel");
    assert_eq!(
        hidden("integrity", "8:0 0 32 J 2 internal_hash:hmac(sha256):c0ffee block_size:512"),
        "8:0 0 32 J 2 internal_hash:hmac(sha256):000000 block_size:512"
    );
    assert_eq!(hidden("integrity", "8:0 0 4 J 1 internal_hash:crc32c"), "8:0 0 4 J 1 internal_hash:crc32c");
}

#[test]
fn devices_are_needed_as_far_as_a_target_reaches() {
    let needs = |kind: &str, params: &str| -> Vec<(String, u64)> {
        let target = Target::parse(kind, params).unwrap();
        target.needs(100).into_iter().map(|needed| (needed.device.to_string(), needed.sectors)).collect()
    };
    let list =
        |expected: &[(&str, u64)]| expected.iter().map(|(name, sectors)| ((*name).to_owned(), *sectors)).collect::<Vec<_>>();
    assert_eq!(needs("linear", "8:0 28"), list(&[("8:0", 128)]));
    assert_eq!(needs("striped", "2 10 8:0 5 8:1 0"), list(&[("8:0", 55), ("8:1", 50)]));
    assert_eq!(needs("crypt", "aes 00 0 8:0 18446744073709551615"), list(&[("8:0", u64::MAX)]));
    assert_eq!(needs("verity", "1 8:1 8:2 4096 4096 9 0 sha256 00 -"), list(&[("8:1", 72), ("8:2", 0)]));
    assert_eq!(needs("dm-remap-v4", "8:0 8:1 2 spare 8:2"), list(&[("8:0", 100), ("8:1", 0), ("8:2", 0)]));
    assert_eq!(needs("error", ""), list(&[]));
}
