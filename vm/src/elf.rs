//! What we read from ELF files: the libraries a program needs, and the
//! modules a module needs.

use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Object, ObjectSection};

use crate::error::{Error, Result};

fn parse<'a>(name: &str, data: &'a [u8]) -> Result<ElfFile64<'a>> {
    ElfFile64::parse(data).map_err(|e| malformed(name, &e))
}

fn malformed(name: &str, problem: &dyn std::fmt::Display) -> Error {
    Error::Malformed {
        what: name.to_owned(),
        problem: problem.to_string(),
    }
}

/// Whether this is an ELF file at all (a script is not).
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(&elf::ELFMAG)
}

/// The program interpreter (`PT_INTERP`), if it has one.
pub(crate) fn interpreter(name: &str, data: &[u8]) -> Result<Option<String>> {
    let file = parse(name, data)?;
    for header in file.elf_program_headers() {
        if let Some(path) = header
            .interpreter(file.endian(), data)
            .map_err(|e| malformed(name, &e))?
        {
            return Ok(Some(String::from_utf8_lossy(path).into_owned()));
        }
    }
    Ok(None)
}

/// What a program or library asks its loader for. Empty when static.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Libraries by name (`DT_NEEDED`).
    pub(crate) libraries: Vec<String>,
    /// Folders in which to look first (`DT_RUNPATH`, `DT_RPATH`).
    pub(crate) folders: Vec<String>,
}

/// Reads it.
pub(crate) fn needed(name: &str, data: &[u8]) -> Result<Needed> {
    let file = parse(name, data)?;
    let endian = file.endian();
    let sections = file
        .elf_header()
        .sections(endian, data)
        .map_err(|e| malformed(name, &e))?;
    let Some((dynamic, link)) = sections.dynamic(endian, data).map_err(|e| malformed(name, &e))? else {
        return Ok(Needed::default());
    };
    let strings = sections
        .strings(endian, data, link)
        .map_err(|e| malformed(name, &e))?;
    let mut all = Needed::default();
    for entry in dynamic {
        let text = || {
            let text = entry.string(endian, strings).map_err(|e| malformed(name, &e))?;
            Ok::<_, Error>(String::from_utf8_lossy(text).into_owned())
        };
        match entry.tag(endian) {
            elf::DT_NEEDED => all.libraries.push(text()?),
            elf::DT_RUNPATH | elf::DT_RPATH => all.folders.extend(text()?.split(':').map(str::to_owned)),
            _ => {}
        }
    }
    Ok(all)
}

/// The modules that a kernel module depends on: `depends=` in `.modinfo`. What
/// depmod would read too; its files are not in the packages.
pub(crate) fn module_depends(name: &str, data: &[u8]) -> Result<Vec<String>> {
    let file = parse(name, data)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Err(malformed(name, &"no .modinfo section: not a kernel module"));
    };
    let info = section.data().map_err(|e| malformed(name, &e))?;
    let depends = info
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default());
    Ok(depends
        .split(',')
        .filter(|d| !d.is_empty())
        .map(str::to_owned)
        .collect())
}

/// Whether a kernel can be started without its own loader: it has a note of
/// the type `XEN_ELFNOTE_PHYS32_ENTRY`.
pub(crate) fn has_pvh_entry(data: &[u8]) -> bool {
    const PHYS32_ENTRY: u32 = 18;
    let Ok(file) = parse("kernel", data) else {
        return false;
    };
    let endian = file.endian();
    file.elf_program_headers().iter().any(|header| {
        let Ok(Some(mut notes)) = header.notes(endian, data) else {
            return false;
        };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(endian).0 == PHYS32_ENTRY {
                return true;
            }
        }
        false
    })
}

/// The newest `GLIBC_2.N` that a C library defines. When two systems' programs
/// share a guest, the newer library serves both.
pub(crate) fn glibc_minor(data: &[u8]) -> u32 {
    const MARK: &[u8] = b"GLIBC_2.";
    let versions = data
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, w)| *w == MARK)
        .filter_map(|(at, _)| {
            let digits = data.get(at + MARK.len()..)?;
            let end = digits.iter().position(|b| !b.is_ascii_digit())?;
            std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
        });
    versions.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_executable_needs_a_c_library() {
        let data = std::fs::read("/proc/self/exe").unwrap();
        assert!(is_elf(&data));
        assert!(
            needed("self", &data)
                .unwrap()
                .libraries
                .iter()
                .any(|l| l == "libc.so.6")
        );
        assert!(interpreter("self", &data).unwrap().unwrap().contains("ld-linux"));
    }

    #[test]
    fn junk_is_an_error_that_names_the_file() {
        for data in [&b""[..], b"\x7fELF", &[0u8; 300]] {
            assert!(
                needed("usr/bin/odd", data)
                    .unwrap_err()
                    .to_string()
                    .contains("usr/bin/odd")
            );
        }
    }

    #[test]
    fn glibc_versions_compare_as_numbers() {
        assert_eq!(
            glibc_minor(b"..GLIBC_2.9\0GLIBC_2.36\0GLIBC_2.4\0GLIBC_PRIVATE\0"),
            36
        );
    }
}
