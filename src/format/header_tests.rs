//! Tests of the header block.

use super::*;
use proptest::prelude::*;

fn identity(serial: &str, sectors: u64) -> Identity {
    Identity {
        serial: serial.into(),
        wwn: "naa.5000c500a1b2c3d4".into(),
        model: "Mödel 9".into(),
        partition: String::new(),
        sectors: Sectors(sectors),
        logical_block: 512,
        physical_block: 4096,
    }
}

fn description(spares: &[u64]) -> SetDescription {
    let mut set = SetDescription {
        id: SetId(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
        name: SetName::new("data").unwrap(),
        main: identity("MAIN", 1 << 31),
        spares: spares.iter().map(|&sectors| identity("SPARE", sectors)).collect(),
        secret: Secret(*b"0123456789abcdef"),
        geometry: Vec::new(),
        created: Millis(1_700_000_000_000),
    };
    set.geometry = set.spares.iter().map(|spare| geometry(spare.sectors, set.block()).unwrap()).collect();
    set
}

#[test]
fn every_field_comes_back() {
    let set = description(&[4096, 8192, 1 << 20]);
    for spare in 0..3 {
        let header = decode(&encode(&set, spare, 42).unwrap()).unwrap();
        assert_eq!(header, Header { set: set.clone(), spare, generation: 42 });
    }
}

#[test]
fn eight_spares_fit_and_nine_do_not() {
    let set = description(&[4096; 8]);
    assert_eq!(decode(&encode(&set, 7, 1).unwrap()).unwrap().set, set);
    assert!(encode(&description(&[4096; 9]), 0, 1).is_err());
    assert!(encode(&set, 8, 1).is_err());
}

#[test]
fn every_flipped_bit_is_found() {
    let block = encode(&description(&[4096]), 0, 1).unwrap();
    for bit in 0..BLOCK_BYTES * 8 {
        let mut flipped = block;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_newer_version_is_named() {
    let mut block = encode(&description(&[4096]), 0, 1).unwrap();
    block[8] = 9;
    assert_eq!(decode(&block), Err(HeaderError::Checksum), "a flipped bit is no newer version");
    layout::seal(&mut block);
    assert_eq!(decode(&block), Err(HeaderError::Newer { found: 9 }));
    assert!(decode(&block).unwrap_err().to_string().contains("version 9"));
}

#[test]
fn what_cannot_be_kept_is_refused_when_written() {
    let refuse = |change: fn(&mut SetDescription)| {
        let mut set = description(&[4096]);
        change(&mut set);
        assert!(matches!(encode(&set, 0, 1), Err(HeaderError::Field { .. } | HeaderError::TooSmall(_))));
    };
    refuse(|set| set.main.serial = "x".repeat(65));
    refuse(|set| set.main.wwn = "a\0b".into());
    refuse(|set| set.main.logical_block = 520);
    refuse(|set| set.spares[0].logical_block = 4096);
    refuse(|set| set.spares[0].physical_block = 3000);
    refuse(|set| set.main.physical_block = 1 << 30);
    refuse(|set| set.main.sectors = Sectors(0));
    refuse(|set| set.spares[0].sectors = Sectors(9));
    refuse(|set| set.geometry.clear());
    refuse(|set| set.geometry[0].table_blocks += 1);
}

#[test]
fn sound_bytes_with_impossible_content_are_refused() {
    let good = encode(&description(&[4096]), 0, 1).unwrap();
    for (at, value) in
        [(40, 1), (42, 0), (42, 9), (44, 16), (72, b'/'), (144, 6), (148, 1), (176, 1), (200, 0xff), (2000, 1), (4000, 1)]
    {
        let mut block = good;
        block[at] = value;
        layout::seal(&mut block);
        assert!(matches!(decode(&block), Err(HeaderError::Field { .. })), "byte {at} = {value}: {:?}", decode(&block));
    }
}

#[test]
fn texts_are_clipped_at_characters() {
    assert_eq!(clip("short"), "short");
    assert_eq!(clip(&"x".repeat(70)).len(), 64);
    assert_eq!(clip(&format!("{}ä", "x".repeat(63))).len(), 63);
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 ._:äß-]{0,48}".prop_map(|text| clip(&text).to_owned())
}

prop_compose! {
    fn member(logical: u32)(
        serial in text(), wwn in text(), model in text(), partition in text(), sectors in 4096u64..1 << 40, shift in 0u32..5,
    ) -> Identity {
        let physical_block = logical << shift.min(3);
        Identity { serial, wwn, model, partition, sectors: Sectors(sectors + 64 * 128), logical_block: logical, physical_block }
    }
}

prop_compose! {
    fn any_set()(logical in prop_oneof![Just(512u32), Just(4096)])(
        id in any::<u128>(), name in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", main in member(logical),
        spares in proptest::collection::vec(member(logical), 1..=8), secret in any::<[u8; 16]>(), created in any::<u64>(),
    ) -> SetDescription {
        let mut set = SetDescription {
            id: SetId(Uuid::from_u128(id)), name: SetName::new(name).unwrap(), main, spares, secret: Secret(secret),
            geometry: Vec::new(), created: Millis(created),
        };
        set.geometry = set.spares.iter().map(|spare| geometry(spare.sectors, set.block()).unwrap()).collect();
        set
    }
}

proptest! {
    #[test]
    fn round_trip(set in any_set(), index in any::<prop::sample::Index>(), generation in any::<u64>()) {
        let spare = index.index(set.spares.len()) as u16;
        let block = encode(&set, spare, generation).unwrap();
        prop_assert_eq!(decode(&block), Ok(Header { set, spare, generation }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..BLOCK_BYTES + 2)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// Bytes that pass the checksum but were changed anywhere: an error or a description that encodes to the same bytes.
    #[test]
    fn resealed_bytes_are_refused_or_mean_what_they_say(changes in proptest::collection::vec((8..END, any::<u8>()), 1..6)) {
        let mut block = encode(&description(&[4096, 8192]), 1, 1).unwrap();
        for (at, value) in changes {
            block[at] = value;
        }
        layout::seal(&mut block);
        if let Ok(header) = decode(&block) {
            prop_assert_eq!(encode(&header.set, header.spare, header.generation).unwrap(), block);
        }
    }
}
