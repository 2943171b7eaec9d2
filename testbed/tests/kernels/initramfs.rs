//! What a guest boots from: busybox, a script, and the modules without which it cannot reach the host's root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Cursor;
use std::path::Path;

use cpio::newc::{Builder, ModeFileType};

use crate::cache::{self, Kernel};

/// Modules that init.sh loads, where they are modules.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];

/// Files of the archive under construction.
#[derive(Default)]
struct Archive(Vec<(Builder, Cursor<Vec<u8>>)>);

impl Archive {
    fn folder(&mut self, name: &str) {
        self.push(Builder::new(name).mode(0o755).set_mode_file_type(ModeFileType::Directory), Vec::new());
    }

    fn file(&mut self, name: &str, mode: u32, content: Vec<u8>) {
        self.push(Builder::new(name).mode(mode).set_mode_file_type(ModeFileType::Regular), content);
    }

    fn push(&mut self, entry: Builder, content: Vec<u8>) {
        self.0.push((entry, Cursor::new(content)));
    }
}

/// Writes the archive for a kernel.
pub fn write(kernel: &Kernel, path: &Path) {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "host", "own", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    archive.file("init", 0o755, include_bytes!("init.sh").to_vec());
    archive.file("guest.sh", 0o644, include_bytes!("guest.sh").to_vec());
    archive.file("guest.env", 0o644, environment(kernel).into_bytes());
    archive.file("bin/busybox", 0o755, read(&cache::tool("bin/busybox")));

    let dependencies =
        String::from_utf8(read(&kernel.modules().join("modules.dep"))).expect("paths are ASCII");
    let wanted = closure(&dependencies, &MODULES);
    let root = format!("lib/modules/{}", kernel.version);
    let mut folders = BTreeSet::new();
    let files = wanted.iter().map(|path| format!("{root}/{path}"));
    for file in files.chain([format!("{root}/modules.dep")]) {
        let above: Vec<_> =
            Path::new(&file).ancestors().skip(1).filter(|path| *path != Path::new("")).collect();
        for folder in above.into_iter().rev() {
            let folder = folder.to_str().expect("it was a string");
            if folders.insert(folder.to_owned()) {
                archive.folder(folder);
            }
        }
        let from =
            kernel.modules().join(file.strip_prefix(&root).expect("it begins so").trim_start_matches('/'));
        archive.file(&file, 0o644, read(&from));
    }
    let file = fs::File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    let entries = archive.0.into_iter();
    cpio::write_cpio(entries, file).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// What the scripts must know, as assignments of a shell.
fn environment(kernel: &Kernel) -> String {
    format!(
        "modules='{}'\nloader='{}'\ntools='{}'\n",
        kernel.modules().display(),
        cache::loader(),
        cache::tool("").display()
    )
}

/// The files of these modules and of all that they need, after modules.dep. What is built in has none.
fn closure(dependencies: &str, names: &[&str]) -> BTreeSet<String> {
    let needs: BTreeMap<&str, Vec<&str>> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let name = |file: &str| {
        let file = file.rsplit('/').next().unwrap_or(file);
        file.split(".ko").next().unwrap_or(file).replace('-', "_")
    };
    let files = needs.iter().filter(|(file, _)| names.contains(&name(file).as_str()));
    // Each line of modules.dep has all that a module needs, not the next alone.
    files.flat_map(|(file, needs)| needs.iter().chain([file])).map(|file| (*file).to_owned()).collect()
}

#[test]
fn what_a_module_needs_comes_with_it() {
    let dependencies =
        "kernel/a/b-c.ko.xz: kernel/d.ko.xz kernel/e.ko.xz\nkernel/d.ko.xz: kernel/e.ko.xz\nkernel/f.ko:\n";
    let closure = |name| Vec::from_iter(closure(dependencies, &[name]));
    assert_eq!(closure("b_c"), ["kernel/a/b-c.ko.xz", "kernel/d.ko.xz", "kernel/e.ko.xz"]);
    assert_eq!(closure("f"), ["kernel/f.ko"]);
    assert_eq!(closure("built_in"), Vec::<String>::new());
}
