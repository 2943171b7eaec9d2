//! Where the programs of a control plane are.
//!
//! In this order: the folder that `KUBEBUILDER_ASSETS` names (the convention of controller-runtime's
//! envtest); packed programs in `../shared/envtest` beside the sources, unpacked once into a cache; what
//! `make envtest` built into that cache. etcd may also be where the system has it. The server for custom
//! resources is not among what `make envtest` builds.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::error::{KubernetesError, Result};

/// Names the folder with the programs.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Packed programs, seen from this crate's folder.
const PACKED: &str = "../../shared/envtest";
/// The checksums of the unpacked programs, as `sha256sum` writes them.
const SUMS: &str = "SHA256SUMS";

/// A program of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers: `EndpointSlices`, Deployments, …
    ControllerManager,
    /// Writes Services' rules on a node.
    Proxy,
    /// An API server for custom resources alone, of a current version.
    CrdServer,
}

impl Program {
    /// Its file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Proxy => "kube-proxy",
            Self::CrdServer => "apiextensions-apiserver",
        }
    }
}

/// A folder with the programs.
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// Finds a folder that has these programs; packed ones are unpacked first.
    ///
    /// # Errors
    /// One of which [`KubernetesError::is_missing`] names what is nowhere and what to do.
    pub fn find(wanted: &[Program]) -> Result<Self> {
        let mut looked = Vec::new();
        let mut missing = Vec::new();
        for place in [named, packed, built] {
            let Some(folder) = place()? else { continue };
            let assets = Self { folder };
            missing = wanted.iter().copied().filter(|&program| assets.locate(program).is_none()).collect();
            if missing.is_empty() {
                return Ok(assets);
            }
            looked.push(assets.folder.display().to_string());
        }
        if missing.is_empty() {
            missing = wanted.to_vec();
        }
        let looked = if looked.is_empty() { cache().display().to_string() } else { looked.join(" and ") };
        Err(KubernetesError::missing(&missing, looked))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of a program that [`Self::find`] was asked for.
    pub fn path(&self, program: Program) -> Result<PathBuf> {
        let looked = || self.folder.display().to_string();
        self.locate(program).ok_or_else(|| KubernetesError::missing(&[program], looked()))
    }

    fn locate(&self, program: Program) -> Option<PathBuf> {
        let own = self.folder.join(program.name());
        if own.is_file() {
            return Some(own);
        }
        if program == Program::Etcd { in_path(program.name()) } else { None }
    }
}

/// Finds a program as a shell would.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[expect(clippy::unnecessary_wraps, reason = "one of three places, and another can fail")]
fn named() -> Result<Option<PathBuf>> {
    Ok(std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from))
}

#[expect(clippy::unnecessary_wraps, reason = "one of three places, and another can fail")]
fn built() -> Result<Option<PathBuf>> {
    let folder = cache().join("built");
    Ok(folder.is_dir().then_some(folder))
}

/// The folder with what was packed, unpacked.
fn packed() -> Result<Option<PathBuf>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(PACKED);
    let Ok(sums) = fs::read_to_string(source.join(SUMS)) else { return Ok(None) };
    let target = cache().join(&hex(&Sha256::digest(&sums))[..16]);
    if !target.is_dir() {
        unpack(&source, &sums, &target)?;
    }
    Ok(Some(target))
}

/// `${XDG_CACHE_HOME:-~/.cache}/waymark/envtest`.
fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("waymark/envtest")
}

/// Unpacks into a draft and checks it; a reader sees nothing or everything.
fn unpack(source: &Path, sums: &str, target: &Path) -> Result<()> {
    let draft = target.with_extension(format!("draft-{}", std::process::id()));
    crate::note(format_args!(
        "unpacking the programs of a Kubernetes control plane into {}",
        target.display()
    ));
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&draft);
    made.map_err(KubernetesError::file("create", &draft))?;
    let unpacked = unpack_all(source, sums, &draft).and_then(|()| match fs::rename(&draft, target) {
        // Somebody else was faster with the same.
        Err(_) if target.is_dir() => Ok(()),
        renamed => renamed.map_err(KubernetesError::file("create", target)),
    });
    // After success there is none.
    let _ = fs::remove_dir_all(&draft);
    unpacked
}

fn unpack_all(source: &Path, sums: &str, draft: &Path) -> Result<()> {
    for line in sums.lines() {
        let Some((sum, name)) = line.split_once("  ") else { continue };
        let (archive, file) = (source.join(format!("{name}.xz")), draft.join(name));
        let output = File::create(&file).map_err(KubernetesError::file("create", &file))?;
        let mut xz = Command::new("xz");
        xz.args(["-dc", "--"]).arg(&archive).stdout(output).stderr(Stdio::piped());
        let xz = xz.output().map_err(|source| KubernetesError::Spawn { program: "xz".into(), source })?;
        let damaged = |why: String| KubernetesError::Damaged { path: archive.clone(), why };
        if !xz.status.success() {
            return Err(damaged(String::from_utf8_lossy(&xz.stderr).trim().to_owned()));
        }
        if sha256(&file)? != sum {
            return Err(damaged(format!("its content is not what {SUMS} says")));
        }
        let executable = fs::set_permissions(&file, fs::Permissions::from_mode(0o755));
        executable.map_err(KubernetesError::file("make executable", &file))?;
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut hash = || {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => return io::Result::Ok(()),
                len => digest.update(&buffer[..len]),
            }
        }
    };
    hash().map_err(KubernetesError::file("read", path))?;
    Ok(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with one packed program, and its checksums.
    fn packed(content: &[u8], sum: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kube-proxy");
        fs::write(&file, content).unwrap();
        assert!(Command::new("xz").arg(&file).status().unwrap().success());
        (folder, format!("{sum}  kube-proxy\n"))
    }

    #[test]
    fn packed_programs_are_unpacked_and_checked() {
        let sum = hex(&Sha256::digest(b"program"));
        let (folder, sums) = packed(b"program", &sum);
        let target = folder.path().join("cache/unpacked");
        unpack(folder.path(), &sums, &target).unwrap();
        let assets = Assets { folder: target.clone() };
        assert_eq!(fs::read(assets.path(Program::Proxy).unwrap()).unwrap(), b"program");
        assert!(assets.path(Program::ApiServer).unwrap_err().to_string().contains("make envtest"));
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "the draft is gone");
    }

    #[test]
    fn what_is_missing_is_told_with_who_makes_it() {
        let says = |programs: &[Program]| {
            let error = KubernetesError::missing(programs, "/nowhere".to_owned());
            assert!(error.is_missing());
            error.to_string()
        };
        assert!(says(&[Program::ApiServer, Program::Proxy]).contains("`make envtest` builds them"));
        assert!(says(&[Program::Etcd]).contains("apt-get install etcd-server"));
        let server = says(&[Program::CrdServer]);
        assert!(server.contains("no apiextensions-apiserver") && server.contains("/nowhere"), "{server}");
        assert!(server.contains("`make envtest` does not build it"), "{server}");
        let assets = Assets { folder: "/nowhere".into() };
        assert_eq!(assets.path(Program::CrdServer).unwrap_err().to_string(), server);
    }

    #[test]
    fn what_is_damaged_is_not_kept() {
        let (folder, sums) = packed(b"another program", &hex(&Sha256::digest(b"program")));
        let target = folder.path().join("cache/unpacked");
        let error = unpack(folder.path(), &sums, &target).unwrap_err().to_string();
        assert!(error.contains("kube-proxy.xz is damaged"), "{error}");
        fs::write(folder.path().join("kube-proxy.xz"), b"no archive").unwrap();
        assert!(unpack(folder.path(), &sums, &target).is_err());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 0);
    }
}
