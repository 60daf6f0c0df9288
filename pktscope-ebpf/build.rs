//! Tells bpf-linker to let LLVM zero and copy small values in place: with its default every `memset`, of two words even,
//! is a call to a loop over bytes, which the verifier walks on every path.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    }
}
