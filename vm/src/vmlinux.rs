//! The kernel itself, out of its self-unpacking image.
//!
//! Under emulation a kernel spends half a second (LZ4) to more than a second
//! (zstd) unpacking itself, at every boot. QEMU can start the unpacked ELF file
//! directly if the kernel has a PVH entry, which Debian's have: so we unpack
//! once. What cannot be unpacked is booted as it is.
//!
//! The image's header is described in the kernel's
//! Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`,
//! `payload_length`.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use crate::cache::Cache;
use crate::elf;
use crate::error::{Context, Error, Result, read};
use crate::kernels::Kernel;

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// No kernel is larger; a header that says so is broken.
const LARGEST: u64 = 512 << 20;

/// What LZ4's old format unpacks at a time.
const LZ4_BLOCK: usize = 8 << 20;

/// What to boot for this kernel: the unpacked file, or the image as it came.
pub(crate) fn bootable(cache: &Cache, kernel: &Kernel) -> PathBuf {
    let built = cache.build_file(
        &format!("vmlinux/{}-{}", kernel.release, kernel.version),
        |file| {
            let unpacked = unpack(&read(&kernel.vmlinuz)?).map_err(|problem| Error::Malformed {
                what: kernel.vmlinuz.display().to_string(),
                problem,
            })?;
            fs::write(file, unpacked).context(|| format!("writing {}", file.display()))
        },
    );
    built.unwrap_or_else(|e| {
        tracing::debug!("booting the packed image: {e}");
        kernel.vmlinuz.clone()
    })
}

fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(image).ok_or("no payload where the header says")?;
    let mut kernel = Vec::new();
    // The size of what is packed follows it.
    let packed = payload.get(..payload.len().saturating_sub(4)).unwrap_or_default();
    let text = |e: std::io::Error| e.to_string();
    match packed {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::with_buffer(packed).map_err(text)?.single_frame();
            decoder.take(LARGEST).read_to_end(&mut kernel).map_err(text)?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            liblzma::read::XzDecoder::new(packed)
                .take(LARGEST)
                .read_to_end(&mut kernel)
                .map_err(text)?;
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => kernel = unlz4(blocks)?,
        _ => return Err("packed in a way that we do not know".into()),
    }
    match elf::has_pvh_entry(&kernel) {
        true => Ok(kernel),
        false => Err("no PVH entry".into()),
    }
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
    if image.get(MAGIC..)?.first_chunk() != Some(b"HdrS") {
        return None;
    }
    let sectors = match usize::from(*image.get(SETUP_SECTS)?) {
        0 => 4,
        given => given,
    };
    let begin = ((sectors + 1) * SECTOR).checked_add(number(PAYLOAD_OFFSET)?)?;
    image.get(begin..begin.checked_add(number(PAYLOAD_LENGTH)?)?)
}

/// LZ4's old format: blocks, each after its length.
fn unlz4(mut blocks: &[u8]) -> Result<Vec<u8>, String> {
    let mut kernel = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(length).ok_or("an LZ4 block is cut off")?;
        kernel.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(|e| e.to_string())?);
        blocks = rest;
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with this payload, as the header describes it.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[SETUP_SECTS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_payload_lies_where_the_header_says() {
        assert_eq!(payload(&image(b"packed")), Some(&b"packed"[..]));
        let cut = image(b"packed");
        assert_eq!(payload(&cut[..cut.len() - 1]), None);
        assert_eq!(payload(b"short"), None);
        assert_eq!(payload(&[0; 4096]), None);
    }

    #[test]
    fn all_three_packings_are_unpacked_and_what_is_no_kernel_is_refused() {
        let content = b"no ELF file, so it is refused at the very end".repeat(9);
        let mut lz4 = b"\x02\x21\x4c\x18".to_vec();
        let block = lz4_flex::block::compress(&content);
        lz4.extend((block.len() as u32).to_le_bytes());
        lz4.extend(&block);
        assert_eq!(unlz4(&lz4[4..]).unwrap(), content);
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&content[..], 1)
            .read_to_end(&mut xz)
            .unwrap();
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        for mut packed in [lz4, xz, zstd] {
            packed.extend((content.len() as u32).to_le_bytes());
            assert_eq!(unpack(&image(&packed)).unwrap_err(), "no PVH entry");
        }
        assert!(
            unpack(&image(b"what is this"))
                .unwrap_err()
                .contains("do not know")
        );
        assert!(unlz4(&[255, 0, 0, 0, 1]).is_err());
    }
}
