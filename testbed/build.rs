//! Compiles the BPF program that some faults attach, with clang as the tracer's are. `CLANG` names the one to
//! use. And the catalogue is embedded: a fault that is added must be seen.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// Versions that Debian and Ubuntu carry, newest first; the plain name last.
const SUFFIXES: [&str; 11] = ["-22", "-21", "-20", "-19", "-18", "-17", "-16", "-15", "-14", "-13", ""];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=faults");
    println!("cargo:rerun-if-env-changed=CLANG");
    let object = PathBuf::from(env::var("OUT_DIR")?).join("drop.bpf.o");
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let clang = clang().ok_or(
        "no clang found, which compiles the faults' BPF program. Install it (`apt-get install clang libbpf-dev`) \
         or name it in the environment variable CLANG",
    )?;
    let output = Command::new(&clang)
        .args(["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"])
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", "bpf/drop.bpf.c", "-o"])
        .arg(&object)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{clang} could not compile bpf/drop.bpf.c:\n{}", String::from_utf8_lossy(&output.stderr))
        .into())
}

/// The program that the variable names, or the first of `clang-22`, `clang-21`, …, `clang` that runs.
fn clang() -> Option<String> {
    let runs = |program: &String| Command::new(program).arg("--version").output().is_ok();
    env::var("CLANG")
        .ok()
        .into_iter()
        .chain(SUFFIXES.iter().map(|suffix| format!("clang{suffix}")))
        .find(runs)
}
