//! Answers of a 6.12 kernel, without their generic headers, recorded in the lab: one SMC-R connection over soft-RoCE
//! on which 300,000 bytes were echoed, after one that fell back; EIDs and PNET ids of another run.

/// The answers to a dump, in their order.
pub fn recorded(dump: &str) -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let lines = include_str!("testdata/linux-6.12.txt").lines();
    let answers = lines.filter_map(|line| line.strip_prefix(dump)?.strip_prefix(' '));
    answers.map(|hex| hex.as_bytes().chunks(2).map(byte).collect()).collect()
}
