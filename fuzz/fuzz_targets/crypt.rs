//! An age file, read whole, as a stream, by ranges and as a key slot; and what is encrypted here. The first byte
//! says what becomes of the rest: as it is, behind the beginning of a file, a file with some bytes changed, or
//! content to encrypt.
#![no_main]

use std::io::Read;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use treering::crypt::{
    Credential, Identity, content_len, decrypt, decrypt_range, decrypting, encrypt, header_len, slot_kind, unlock,
};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let line = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    line.parse().unwrap()
});
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| encrypt(&IDENTITY.recipient(), &[7; 70_000]).unwrap());

fn range(file: &[u8], offset: u64, len: u64) -> Option<Vec<u8>> {
    let fetch = |from: u64, len: u64| Ok(file[from as usize..][..len as usize].to_vec());
    decrypt_range(&IDENTITY, file.len() as u64, offset, len, fetch).ok()
}

fn read(file: &[u8]) {
    if let Ok(Some(header)) = header_len(file) {
        let _ = content_len(file.len() as u64, header);
    }
    let whole = decrypt(&IDENTITY, file);
    let mut streamed = Vec::new();
    let is_read = decrypting(&IDENTITY, file).is_ok_and(|mut reader| reader.read_to_end(&mut streamed).is_ok());
    assert_eq!(is_read, whole.is_ok());
    for (offset, len) in [(0, 10), (65_530, 10), (65_536, 1 << 20), (u64::MAX, u64::MAX)] {
        let range = range(file, offset, len);
        if let (Ok(whole), Some(range)) = (&whole, range) {
            let from = whole.len().min(usize::try_from(offset).unwrap());
            assert!(whole[from..].starts_with(&range));
        }
    }
    let _ = slot_kind(file);
    let _ = unlock(file, &Credential::Identity(IDENTITY.clone()));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, rest)) = bytes.split_first() else { return };
    match how % 4 {
        0 => read(rest),
        1 => read(&[b"age-encryption.org/v1\n", rest].concat()),
        2 => {
            let mut file = FILE.clone();
            for change in rest.chunks_exact(4).take(8) {
                let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % file.len();
                file[at] ^= change[3];
            }
            let is_same = file == *FILE;
            assert_eq!(decrypt(&IDENTITY, &file).is_ok(), is_same);
            read(&file);
        }
        _ => {
            let content = rest.repeat(1 + usize::from(*how));
            let file = encrypt(&IDENTITY.recipient(), &content).unwrap();
            assert_eq!(decrypt(&IDENTITY, &file).unwrap(), content);
            let header = header_len(&file).unwrap().unwrap();
            assert_eq!(content_len(file.len() as u64, header).unwrap(), content.len() as u64);
        }
    }
});
