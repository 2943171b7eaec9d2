//! Compiles the BPF objects with clang and generates the Rust side of `bpf/record.h`.
//!
//! `CLANG` and `LLVM_STRIP` name the programs to use; without them the newest installed one is taken.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Versions that Debian and Ubuntu carry, newest first; plain names last.
const SUFFIXES: [&str; 11] = ["-22", "-21", "-20", "-19", "-18", "-17", "-16", "-15", "-14", "-13", ""];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=LLVM_STRIP");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let clang = find("CLANG", "clang").ok_or(
        "no clang found: the tracer's kernel side is C. Install it (`apt-get install clang libclang-dev \
         libbpf-dev`) or name it in the environment variable CLANG",
    )?;

    compile(&clang, &arch, Path::new("bpf/floor.bpf.c"), &out.join("floor.bpf.o"))?;
    bindings(&arch)?.write_to_file(out.join("record.rs"))?;
    Ok(())
}

/// The program that the variable names, or the first of `name-22`, `name-21`, …, `name` that runs.
fn find(variable: &str, name: &str) -> Option<String> {
    let runs = |program: &String| Command::new(program).arg("--version").output().is_ok();
    env::var(variable)
        .ok()
        .into_iter()
        .chain(SUFFIXES.iter().map(|suffix| format!("{name}{suffix}")))
        .find(runs)
}

/// Where `asm/types.h` is on systems with several architectures.
fn multiarch(arch: &str) -> String {
    format!("/usr/include/{arch}-linux-gnu")
}

fn compile(clang: &str, arch: &str, source: &Path, object: &Path) -> Result<(), Box<dyn Error>> {
    let target = match arch {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let output = Command::new(clang)
        .args(["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"])
        .arg(format!("-D__TARGET_ARCH_{target}"))
        .arg(format!("-I{}", multiarch(arch)))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{clang} could not compile {}:\n{message}", source.display()).into());
    }
    // DWARF is not needed: types and lines are in BTF. Without llvm-strip the object is larger, no more.
    if let Some(strip) = find("LLVM_STRIP", "llvm-strip") {
        let status = Command::new(strip).arg("-g").arg(object).status()?;
        if !status.success() {
            return Err(format!("llvm-strip failed on {}", object.display()).into());
        }
    }
    Ok(())
}

fn bindings(arch: &str) -> Result<bindgen::Bindings, Box<dyn Error>> {
    let bindings = bindgen::Builder::default()
        .header("bpf/record.h")
        .clang_arg(format!("-I{}", multiarch(arch)))
        .allowlist_type("wm_.*")
        .allowlist_var("WM_(VLAN_PRESENT|LOOK|FILTER_ROOM|DRAFTS)")
        .no_default("wm_captured")
        .no_default("wm_looked")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(true)
        .generate()?;
    Ok(bindings)
}
