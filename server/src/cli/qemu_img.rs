//! qemu-img, for every image format but raw.

use super::{error::CliError, progress::Progress};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    process::{Command, Stdio},
    thread,
};

const PROGRAM: &str = "qemu-img";

/// Requests that qemu-img keeps in flight; its own most.
const COROUTINES: &str = "16";

/// What an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageInfo {
    /// In qemu's words: raw, qcow2, vmdk, …
    pub(super) format: String,
    /// Bytes of the disk that the image holds, which the file's own size need not be.
    pub(super) disk_bytes: u64,
}

/// Asks qemu-img what `path` is; `format` is believed where it is given. None where qemu-img is not installed.
pub(super) fn info(path: &Path, format: Option<&str>) -> Result<Option<ImageInfo>, CliError> {
    let mut command = Command::new(PROGRAM);
    command.args(["info", "--output=json"]);
    if let Some(format) = format {
        command.args(["-f", format]);
    }
    let doing = || format!("looking at {}", path.display());
    let output = match command.arg("--").arg(path).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CliError::QemuImg { doing: doing(), said: error.to_string() }),
    };
    if !output.status.success() {
        return Err(CliError::QemuImg { doing: doing(), said: last_line(&output.stderr) });
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match (answer["format"].as_str(), answer["virtual-size"].as_u64()) {
        (Some(format), Some(disk_bytes)) => Ok(Some(ImageInfo { format: format.to_owned(), disk_bytes })),
        _ => {
            Err(CliError::QemuImg { doing: doing(), said: "its answer names no format and size".to_owned() })
        }
    }
}

/// Whether what is converted into holds zeroes already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onto {
    Zeroes,
    Anything,
}

/// Converts an image into the export at `uri`, and makes it durable there.
pub(super) fn into_export(
    image: &Path,
    format: &str,
    uri: &str,
    onto: Onto,
    progress: &Progress,
) -> Result<(), CliError> {
    let mut command = convert();
    // -t writeback: qemu-img's own default for what it writes is to leave the flush out.
    command.args(["-n", "-t", "writeback", "-f", format, "-O", "raw"]);
    match onto {
        Onto::Zeroes => drop(command.arg("--target-is-zero")),
        Onto::Anything => {}
    }
    run(command.arg("--").arg(image).arg(uri), &format!("importing {}", image.display()), progress)
}

/// Converts the export at `uri` into `file`, which exists and is replaced, on its way to become `image`.
pub(super) fn from_export(
    uri: &str,
    format: &str,
    file: &Path,
    image: &Path,
    progress: &Progress,
) -> Result<(), CliError> {
    let mut command = convert();
    command.args(["-t", "writeback", "-f", "raw", "-O", format]);
    if format == "vpc" {
        // Without it the disk grows to a whole number of cylinders.
        command.args(["-o", "force_size=on"]);
    }
    run(command.arg("--").arg(uri).arg(file), &format!("exporting to {}", image.display()), progress)
}

fn convert() -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["convert", "-p", "-W", "-m", COROUTINES]);
    command
}

fn run(command: &mut Command, doing: &str, progress: &Progress) -> Result<(), CliError> {
    let failed = |said: String| CliError::QemuImg { doing: doing.to_owned(), said };
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::QemuImgMissing { what: "this image is not raw".to_owned() });
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    // Both pipes are read at once: qemu-img would wait for ever on a full one.
    let stderr = child.stderr.take();
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        let _partial = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
        text
    });
    if let Some(stdout) = child.stdout.take() {
        follow(stdout, progress);
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let said = errors.join().unwrap_or_default();
    if status.success() { Ok(()) } else { Err(failed(format!("{} ({status})", last_line(&said)))) }
}

/// Reads `    (12.34/100%)\r` again and again, until qemu-img has nothing more to say.
fn follow(mut stdout: impl Read, progress: &Progress) {
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => line.extend_from_slice(&buffer[..len]),
        }
        if let Some(end) = line.iter().rposition(|byte| *byte == b'\r') {
            if let Some(percent) = last_percent(&line[..end]) {
                progress.percent(percent);
            }
            line.drain(..=end);
        }
    }
}

fn last_percent(text: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(text);
    let (before, _) = text.rsplit_once("/100%")?;
    before.rsplit_once('(')?.1.trim().parse().ok()
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim_start_matches("qemu-img: ").to_owned()
}

/// The format that an exported image has by its name.
pub(super) fn format_of_name(path: &Path) -> &'static str {
    match path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase).as_deref() {
        Some("qcow2") => "qcow2",
        Some("vmdk") => "vmdk",
        Some("vhdx") => "vhdx",
        Some("vdi") => "vdi",
        Some("vpc" | "vhd") => "vpc",
        Some(_) | None => "raw",
    }
}

/// Beginnings of images that are not raw, for when qemu-img cannot be asked: format, offset, bytes.
/// Source: the formats' own specifications.
const MAGICS: [(&str, u64, &[u8]); 7] = [
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vdi", 64, &[0x7f, 0x10, 0xda, 0xbe]),
    ("qed", 0, b"QED\0"),
];

/// The format by an image's first bytes; raw where nothing else fits.
pub(super) fn format_of_magic(path: &Path) -> io::Result<&'static str> {
    let mut file = File::open(path)?;
    for (format, offset, magic) in MAGICS {
        let mut found = vec![0; magic.len()];
        file.seek(SeekFrom::Start(offset))?;
        match file.read_exact(&mut found) {
            Ok(()) if found == magic => return Ok(format),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok("raw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_qemu_img_prints() {
        assert_eq!(last_percent(b"    (0.00/100%)\r    (12.34/100%)"), Some(12.34));
        assert_eq!(last_percent(b"    (100.00/100%)"), Some(100.0));
        assert_eq!(last_percent(b"    (1"), None);
        assert_eq!(last_percent(b"(x/100%)"), None);
    }

    #[test]
    fn an_images_name_says_its_format() {
        for (name, format) in [
            ("a.qcow2", "qcow2"),
            ("a.QCOW2", "qcow2"),
            ("a.vmdk", "vmdk"),
            ("a.vhdx", "vhdx"),
            ("a.vdi", "vdi"),
            ("a.vpc", "vpc"),
            ("a.vhd", "vpc"),
            ("a.raw", "raw"),
            ("a.img", "raw"),
            ("a", "raw"),
        ] {
            assert_eq!(format_of_name(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn an_images_first_bytes_say_its_format_where_qemu_img_cannot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        for (format, offset, magic) in MAGICS {
            let mut bytes = vec![0; 512];
            bytes[offset as usize..offset as usize + magic.len()].copy_from_slice(magic);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(format_of_magic(&path).unwrap(), format);
        }
        for bytes in [vec![], vec![0; 3], vec![1; 4096]] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(format_of_magic(&path).unwrap(), "raw");
        }
    }

    #[test]
    fn an_error_is_its_last_line() {
        assert_eq!(last_line(b"warning\nqemu-img: Could not open 'x'\n\n"), "Could not open 'x'");
        assert_eq!(last_line(b""), "it said nothing");
    }
}
