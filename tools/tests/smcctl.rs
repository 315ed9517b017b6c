//! smcctl as a user runs it. What the library then does is compared with its answers in ci/policy.sh.

use std::process::{Command, Output};

fn smcctl(args: &[&str], vars: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smcctl"));
    for name in ["SMC_POLICY", "SMC_UPGRADE_AFTER", "SMC_RCVBUF", "SMC_DISABLE", "SMC_BACKEND"] {
        command.env_remove(name);
    }
    command.args(args).env("SMC_CONFIG", "").envs(vars.iter().copied()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const EXPLAIN: &[&str] =
    &["explain", "--program", "nginx", "--uid", "33", "--local", "10.0.0.1:80", "--peer", "[::1]:5"];

#[test]
fn every_rule_up_to_the_one_that_holds_is_shown() {
    let rules = "exclude program=redis; include uid=33 local=:80; exclude";
    let output = smcctl(EXPLAIN, &[("SMC_POLICY", rules), ("SMC_UPGRADE_AFTER", "5")]);
    assert!(output.status.success());
    assert_eq!(
        text(&output),
        "SMC_POLICY, rule 1: exclude program=redis (not for it: program)\n\
         SMC_POLICY, rule 2: include uid=33 local=:80 (holds)\n\
         SMC, if the other end is under smc on this host, after 5 bytes (SMC_UPGRADE_AFTER, from the environment): by \
         SMC_POLICY, rule 2\n"
    );
}

#[test]
fn under_the_kernels_smc_only_program_and_user_decide() {
    for (rules, said) in [
        (
            "exclude program=redis",
            "a socket of the kernel's SMC; TCP, 0x03030000, if it has none: no rule is for it",
        ),
        ("exclude uid=33", "TCP, 0x03010001: by SMC_POLICY, rule 1"),
        ("exclude peer=:7", "TCP, 0x03010001: SMC_POLICY, rule 1 asks for peer=, which comes too late"),
    ] {
        let output = smcctl(EXPLAIN, &[("SMC_POLICY", rules), ("SMC_BACKEND", "kernel")]);
        assert!(output.status.success());
        assert_eq!(text(&output), format!("{said} (SMC_BACKEND=kernel, from the environment)\n"));
    }
    let vars = [("SMC_POLICY", "exclude program=x"), ("SMC_BACKEND", "kernel")];
    let output = smcctl(&["explain"], &vars);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).ends_with("give --program\n"));
}

#[test]
fn what_is_missing_is_asked_for() {
    let output = smcctl(&["explain", "--program", "x"], &[("SMC_POLICY", "exclude local=:80 peer=:5")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).ends_with("open: SMC_POLICY, rule 1 decides if it holds; give --local\n"));
}

#[test]
fn addresses_without_a_port_are_wrong_usage() {
    for bad in ["10.0.0.1", "::1", "localhost:80", ":80", "10.0.0.1:99999"] {
        let output = smcctl(&["explain", "--peer", bad], &[]);
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(bad), "{bad}");
    }
}

#[test]
fn check_tells_all_that_is_wrong_with_the_environment() {
    let output = smcctl(&["check"], &[("SMC_POLICY", "exclude; deny"), ("SMC_RCVBUF", "lots")]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("SMC_POLICY, rule 2: 'deny' is not a rule"), "{said}");
    assert!(said.contains("SMC_RCVBUF=lots: not a size"), "{said}");
    assert!(said.contains("programs stay on TCP (0x03010001)"), "{said}");
    // A size alone does not keep anything on TCP.
    let said = text(&smcctl(&["check"], &[("SMC_RCVBUF", "lots")]));
    assert!(!said.contains("stay on TCP"), "{said}");
    let output = smcctl(&["check", "--quiet"], &[]);
    assert!(output.status.success() && output.stdout.is_empty());
}
