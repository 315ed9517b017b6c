use super::*;

/// What Linux 6.12 does, and the handling that follows from it for an engine that negotiates before it uses TCP, as
/// `level,numbers,option,class,before_connect,after_connect,accepted,by,code`.
const FACTS: &str = include_str!("testdata/linux-6.12.csv");

/// Where our handling differs from the facts': option and column. docs/options.md has the reasons.
const DIFFERENCES: &[(&str, &str)] = &[
    ("SO_RCVLOWAT", "before_connect"),
    ("SO_RCVLOWAT", "by"),
    ("TCP_CORK", "before_connect"),
    ("TCP_CORK", "by"),
    ("SO_OOBINLINE", "after_connect"),
    ("SO_LINGER", "after_connect"),
    ("TCP_DEFER_ACCEPT", "by"),
    ("TCP_REPAIR_QUEUE", "after_connect"),
    ("TCP_QUEUE_SEQ", "after_connect"),
    ("TCP_REPAIR_OPTIONS", "after_connect"),
    ("TCP_REPAIR_WINDOW", "after_connect"),
    ("TCP_AO_ADD_KEY", "after_connect"),
    ("TCP_AO_DEL_KEY", "after_connect"),
    ("TCP_AO_INFO", "after_connect"),
    ("TCP_AO_REPAIR", "after_connect"),
    ("SMC_LIMIT_HS", "before_connect"),
    ("SMC_LIMIT_HS", "after_connect"),
    ("SMC_LIMIT_HS", "accepted"),
    ("SMC_LIMIT_HS", "by"),
    ("any other of SOL_SMC", "before_connect"),
    ("any other of SOL_SMC", "after_connect"),
    ("any other of SOL_SMC", "by"),
];

fn repository(path: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../").to_owned() + path;
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The fields of a line; those with commas are quoted.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match (c, quoted) {
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(String::new()),
            (c, _) => fields.last_mut().unwrap().push(c),
        }
    }
    fields
}

fn before_as_in_facts(before: Before, fact: &str) -> bool {
    match before {
        Before::Pass => ["pass", "pass+record", "pass (TCP: EPERM", "pass (TCP: EINVAL"]
            .iter()
            .any(|f| fact == *f || (f.contains('(') && fact.starts_with(f))),
        Before::GetOnly => fact.starts_with("get only"),
        Before::Refused => fact == "pass (TCP refuses: ENOPROTOOPT)",
        Before::StaysTcp(When::Accepted) => fact == "pass; if TCP accepts: fallback",
        Before::StaysTcp(When::One) => fact == "pass; if value 1 and TCP accepts: fallback",
        Before::StaysTcp(When::NotNegative) => fact == "pass; if value >= 0 and TCP accepts: fallback",
        Before::StaysTcp(When::Key) => fact == "pass; if TCP accepts a key: fallback",
        Before::StaysTcp(When::Always) => fact == "pass; fallback whatever TCP answers",
    }
}

fn after_as_in_facts(after: After, fact: &str) -> bool {
    match after {
        After::Pass => fact == "pass" || fact.starts_with("pass+record"),
        After::Apply => fact.contains("apply") || fact.starts_with("engine error first"),
        After::GetOnly => fact.starts_with("get only"),
        After::Refused => fact == "pass (TCP refuses: ENOPROTOOPT)",
        After::Engine => fact.starts_with("engine answers"),
        After::TcpDecides => fact.starts_with("refuse EINVAL (so does TCP"),
        After::Returns(_) => fact.starts_with("return to TCP, then pass (cannot: EOPNOTSUPP)"),
        After::Fails(libc::EOPNOTSUPP) => fact == "refuse EOPNOTSUPP",
        After::Fails(_) => fact == "refuse EINVAL",
    }
}

fn child_as_in_facts(child: Child, fact: &str) -> bool {
    match child {
        Child::Yes => fact == "yes",
        Child::No => fact == "no",
        Child::Own => fact == "own value" || fact == "negotiated value",
        Child::AsTcp => fact == "as TCP",
        Child::StaysTcp => fact == "fallback inherited",
        Child::NotApplicable => fact == "n/a",
    }
}

#[test]
fn the_table_agrees_with_the_facts_but_for_the_differences_listed() {
    let mut rows: Vec<&Row> = all().collect();
    let mut differences = Vec::new();
    for line in FACTS.lines().skip(1) {
        let f = fields(line);
        let place = rows.iter().position(|row| {
            let level =
                row.level.name() == f[0] || (row.level == Level::Other && f[0].contains("other levels"));
            let numbers = row.numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(";");
            level && (numbers == f[1] || (numbers.is_empty() && f[1] == "*"))
        });
        let row = rows.remove(place.unwrap_or_else(|| panic!("no row for {line}")));
        assert_eq!(render::class(row.class), f[3], "{}", row.name);
        let by = render::Words::of(row).by;
        for (column, same) in [
            ("before_connect", before_as_in_facts(row.before, &f[4])),
            ("after_connect", after_as_in_facts(row.after, &f[5])),
            ("accepted", child_as_in_facts(row.child, &f[6])),
            ("by", by == f[7]),
            ("code", render::Words::of(row).code == f[8]),
        ] {
            if !same {
                differences.push((row.name, column));
            }
        }
    }
    assert!(rows.is_empty(), "not in the facts: {rows:?}");
    let (mut listed, mut found) = (DIFFERENCES.to_vec(), differences);
    listed.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, listed);
    let text = repository("docs/options.md");
    let reasons = text.split_once("## Where it differs").expect("the section").1;
    for (option, _) in DIFFERENCES {
        let name = option.trim_start_matches("any other of ");
        assert!(reasons.contains(name), "docs/options.md does not say why {name} differs");
    }
}

#[test]
fn rows_of_the_socket_and_tcp_levels_stand_at_their_numbers() {
    for rows in [socket::ROWS, tcp::ROWS] {
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row.numbers, [i as i32 + 1], "{}", row.name);
        }
    }
}

#[test]
fn every_number_of_a_row_finds_it_and_any_other_number_the_rest_of_its_level() {
    for row in all() {
        for number in row.numbers {
            assert_eq!(find(row.level.number(), *number), row);
        }
        for number in [0, -1, i32::MIN, i32::MAX, 100_000] {
            let rest = find(row.level.number(), number);
            assert!(rest.level == row.level && rest.numbers.is_empty(), "{} {number}", row.name);
        }
    }
    assert_eq!(find(9999, 1).level, Level::Other);
}

#[test]
fn class_reason_and_handling_go_together() {
    for row in all() {
        let keeps = matches!(row.before, Before::StaysTcp(_));
        let leaves = matches!(row.after, After::Returns(_) | After::TcpDecides | After::Fails(_));
        assert_eq!(row.class == Class::N, row.detail.is_some(), "{}", row.name);
        assert_eq!(row.class == Class::N, row.child == Child::StaysTcp, "{}", row.name);
        assert_eq!(row.class == Class::N, leaves, "{}", row.name);
        assert!(row.class == Class::N || !keeps, "{}", row.name);
        assert_eq!(row.code() != 0, row.class == Class::N, "{}", row.name);
        // The numbers do not mean the same at another level: iperf3 -L sets IPV6_FLOWINFO_SEND.
        assert!(!row.why.is_empty() && !row.why.ends_with('.'), "{}", row.name);
    }
    assert_eq!(find(libc::IPPROTO_IP, 23).class, Class::M);
    assert_eq!(find(libc::IPPROTO_IPV6, 33).class, Class::M);
}

#[test]
fn a_key_is_recognised_in_the_kernels_structure() {
    let mut value = [0u8; 216];
    assert!(!When::Key.applies(&value, true), "a removal");
    value[130..132].copy_from_slice(&16u16.to_ne_bytes());
    assert!(When::Key.applies(&value, true));
    assert!(!When::Key.applies(&value, false));
    assert!(!When::Key.applies(&value[..131], true), "cut short");
}

#[test]
fn values_that_switch_an_option_off_keep_nothing_on_tcp() {
    let int = |n: i32| n.to_ne_bytes();
    assert!(When::One.applies(&int(1), true) && !When::One.applies(&int(0), true));
    assert!(!When::One.applies(&int(-1), true), "TCP_REPAIR_OFF_NO_WP");
    assert!(When::NotNegative.applies(&int(0), true) && !When::NotNegative.applies(&int(-1), true));
    assert!(When::Always.applies(&[], false) && !When::Accepted.applies(&[], false));
}

/// Between these lines in a document stands what the table renders to.
const BEGIN: &str = "<!-- options: begin -->
";
const END: &str = "<!-- options: end -->";

fn section(text: &str) -> &str {
    let from = text.split_once(BEGIN).expect("the beginning of the table").1;
    from.split_once(END).expect("the end of the table").0
}

#[test]
fn the_documents_show_the_table_as_it_is() {
    for (path, want) in [("README.md", render::readme()), ("docs/options.md", render::reference())] {
        let text = repository(path);
        if section(&text) == want {
            continue;
        }
        if std::env::var_os("SMC_UPDATE_DOCS").is_some() {
            let old = format!("{BEGIN}{}{END}", section(&text));
            let new = text.replacen(&old, &format!("{BEGIN}{want}{END}"), 1);
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../").to_owned() + path, new).unwrap();
            continue;
        }
        panic!(
            "{path} does not show the options as they are: SMC_UPDATE_DOCS=1 cargo test -p smc-core options"
        );
    }
}
