//! Compiles the BPF programs of the TCP option with clang. Without clang, or without the headers that they need, the
//! tools are built all the same, with a warning, and `smcctl tcp-option on` says what was missing.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let object = Path::new(&out).join("tcp_option.o");
    let missing = match compile(&object) {
        Ok(()) => String::new(),
        Err(why) => {
            println!("cargo:warning=smcctl tcp-option will not work: {why}");
            fs::write(&object, []).expect("OUT_DIR is writable");
            // A path that is not there: so the next build tries again.
            println!("cargo:rerun-if-changed=bpf/.not-built");
            why
        }
    };
    println!("cargo:rustc-env=TCP_OPTION_MISSING={missing}");
}

fn compile(object: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let output = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra"])
        // Where Debian has asm/types.h, which clang knows for its own target only.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", "bpf/tcp_option.bpf.c", "-o"])
        .arg(object)
        .output()
        .map_err(|e| format!("cannot run {clang}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|l| l.contains("error")).unwrap_or("no message");
    Err(format!("{clang} failed: {line} (it needs the headers of linux-libc-dev and libbpf-dev)"))
}
