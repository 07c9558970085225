//! The header is what cbindgen makes of the source.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn made() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::generate_with_config(root(), config).unwrap().write(&mut made);
    String::from_utf8(made).unwrap()
}

/// `GAIA_JIT_UPDATE_HEADER=1 cargo test --test header` writes it anew.
#[test]
fn the_header_is_what_cbindgen_makes() {
    let made = made();
    let header = root().join("include/gaia_jit.h");
    if std::env::var_os("GAIA_JIT_UPDATE_HEADER").is_some() {
        std::fs::write(&header, made).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&header).unwrap();
    assert!(
        there == made,
        "include/gaia_jit.h is not of this source: GAIA_JIT_UPDATE_HEADER=1 cargo test --test header"
    );
}

#[test]
fn every_function_is_in_the_header() {
    let header = made();
    let mut functions = 0;
    for file in std::fs::read_dir(root().join("src")).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for rest in source.split("extern \"C\" fn ").skip(1) {
            let Some((name, _)) = rest.split_once('(') else { continue };
            assert!(header.contains(&format!(" {name}(")) || header.contains(&format!("*{name}(")), "{name}");
            functions += 1;
        }
    }
    assert!(functions > 70, "{functions}");
}
