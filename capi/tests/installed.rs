//! What `cargo cinstall` installs (cargo-c): the header, the libraries, and a pkg-config file that
//! leads to them.
//!
//! Prints `NOT RUN` where cargo-c or pkg-config is missing.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use std::path::Path;
use std::process::Command;

use common::{a_compiler, has, root, run};

/// What pkg-config says of the library that is installed below `prefix`, as arguments.
fn pkg_config(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    let output = run(command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(arguments).arg("gaia_jit"));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn programs_build_with_what_is_installed() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    if !Command::new(&cargo).args(["cinstall", "--version"]).output().is_ok_and(|output| output.status.success()) {
        return eprintln!("NOT RUN: no cargo-c on this machine (`cargo install cargo-c`)");
    }
    let compiler = a_compiler(false);
    if !has("pkg-config") || !has(&compiler) {
        return;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
    let prefix = directory.join("prefix");
    let _ = std::fs::remove_dir_all(&prefix);
    let mut install = Command::new(cargo);
    install.args(["cinstall", "--locked", "--debug", "--libdir", "lib"]).current_dir(root());
    run(install.arg("--prefix").arg(&prefix).arg("--target-dir").arg(directory.join("target")));

    let header = std::fs::read(prefix.join("include/gaia_jit.h")).unwrap();
    assert!(header == std::fs::read(root().join("include/gaia_jit.h")).unwrap(), "another header is installed");
    assert_eq!(pkg_config(&prefix, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);

    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let source = directory.join("readme.c");
    std::fs::write(&source, example).unwrap();

    // With the shared library, as the README says.
    let shared = directory.join("shared");
    let flags = pkg_config(&prefix, &["--cflags", "--libs"]);
    run(Command::new(&compiler).arg("-o").arg(&shared).arg(&source).args(flags));
    let libraries = String::from_utf8(run(Command::new("readelf").arg("-d").arg(&shared)).stdout).unwrap();
    let version = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
    assert!(libraries.contains(&format!("[libgaia_jit.so.{version}]")), "{libraries}");
    run(Command::new(&shared).env("LD_LIBRARY_PATH", prefix.join("lib")));

    // With the static one, which needs nothing at run time.
    for library in std::fs::read_dir(prefix.join("lib")).unwrap().map(|file| file.unwrap().path()) {
        if library.file_name().unwrap().to_string_lossy().contains(".so") {
            std::fs::remove_file(library).unwrap();
        }
    }
    let alone = directory.join("static");
    let flags = pkg_config(&prefix, &["--static", "--cflags", "--libs"]);
    run(Command::new(&compiler).arg("-o").arg(&alone).arg(&source).args(flags));
    run(&mut Command::new(&alone));
}
