//! smcr as a user runs it. What it shows of a kernel with SMC is tested in the lab (ci/lab/kernel-backend.sh).

use std::process::{Command, Output};

fn smcr(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smcr")).args(args).output().unwrap()
}

#[test]
fn wrong_words_are_wrong_usage() {
    for (args, part) in [
        (&["linkgroup", "netdev"][..], "netdev needs a name"),
        (&["linkgroup", "xyz"], "xyz is no id of a link group"),
        (&["linkgroup", "all", "show"], "show is no id"),
        (&["device", "0100"], "0100 is not understood"),
        (&["device", "link-show"], "link-show is not understood"),
        (&["stats", "never"], "never"),
        (&["nonsense"], "nonsense"),
    ] {
        let output = smcr(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.stdout.is_empty() && said.contains(part), "{args:?}: {said}");
    }
}

#[test]
fn a_kernel_without_smc_is_told_from_one_that_has_nothing_to_show() {
    // The first is not there before 5.18, the second not where it is built in.
    let loaded =
        ["/proc/sys/net/smc", "/sys/module/smc"].iter().any(|path| std::path::Path::new(path).exists());
    for args in [
        &["linkgroup"][..],
        &["linkgroup", "link-show", "100", "ibdev", "mlx5_0"],
        &["device", "show"],
        &["-d", "stats"],
        &["stats", "json"],
        &["ueid", "show"],
        &["pnet", "show"],
    ] {
        let output = smcr(args);
        let said = String::from_utf8(output.stderr).unwrap();
        match loaded {
            true => assert!(output.status.success() && said.is_empty(), "{args:?}: {said}"),
            false => {
                assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}");
                assert!(said.starts_with("smcr: this kernel has no SMC_"), "{said}");
            }
        }
    }
}
