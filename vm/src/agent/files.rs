//! Files to and from the guest, in pieces.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::protocol::{Answer, Bytes, CHUNK};

/// Writes a piece; offset 0 begins the file anew.
pub(super) fn put(path: &str, mode: u32, offset: u64, data: &[u8]) -> io::Result<Answer> {
    if let Some(parent) = Path::new(path).parent() {
        std::fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(offset == 0)
        .mode(mode)
        .open(path)?;
    file.write_all_at(data, offset)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    Ok(Answer::Done)
}

/// Reads a piece.
pub(super) fn get(path: &str, offset: u64) -> io::Result<Answer> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut data = Vec::new();
    // One byte more tells whether the file ends here.
    file.take(CHUNK as u64 + 1).read_to_end(&mut data)?;
    let end = data.len() <= CHUNK;
    data.truncate(CHUNK);
    Ok(Answer::Piece {
        data: Bytes(data),
        end,
    })
}
