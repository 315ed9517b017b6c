//! The table as text: for `smcss --options`, README.md and docs/options.md.

use core::fmt::Write;

use serde::Serialize;

use super::{After, Before, By, Child, Class, Row, When};

/// One row in words, as `smcss --options --json` prints it.
#[derive(Serialize)]
pub struct Words {
    pub level: &'static str,
    /// The level's number; -1 for levels that are not named.
    pub level_number: i32,
    pub option: &'static str,
    /// Empty: all of the level that no other row names.
    pub numbers: &'static [i32],
    pub class: &'static str,
    /// A set before connect, or on a connection that is on TCP and may move.
    pub before_connect: String,
    /// A set on a connection that has moved.
    pub after_connect: String,
    pub on_listener: String,
    /// What a socket accepted from a listener with the option has.
    pub accepted: &'static str,
    /// Who gives it its effect on a moved connection: `tcp`, `engine` or `both`.
    pub by: &'static str,
    /// The code of a socket that stays on TCP because of it, as `0x03060000`; empty where none does.
    pub code: String,
    pub why: &'static str,
}

impl Words {
    pub fn of(row: &Row) -> Words {
        Words {
            level: row.level.name(),
            level_number: if row.level == super::Level::Other { -1 } else { row.level.number() },
            option: row.name,
            numbers: row.numbers,
            class: class(row.class),
            before_connect: before(row.before),
            after_connect: after(row.after),
            on_listener: row.on_listener().map_or_else(fails, before),
            accepted: child(row.child),
            by: match row.by {
                By::Tcp => "tcp",
                By::Engine => "engine",
                By::Both => "both",
            },
            code: row.detail.map_or_else(String::new, |_| format!("0x{:08x}", row.code())),
            why: row.why,
        }
    }
}

pub fn class(class: Class) -> &'static str {
    match class {
        Class::Y => "Y",
        Class::M => "M",
        Class::N => "N",
    }
}

fn when(when: When) -> &'static str {
    match when {
        When::Accepted => "if TCP accepts it",
        When::Always => "whatever TCP answers",
        When::One => "if the value is 1",
        When::NotNegative => "if the value is not negative",
        When::Key => "if there is a key",
    }
}

fn before(before: Before) -> String {
    match before {
        Before::Pass => "TCP".to_owned(),
        Before::GetOnly => "get only".to_owned(),
        Before::Refused => "TCP: ENOPROTOOPT".to_owned(),
        Before::StaysTcp(w) => format!("TCP; stays on TCP {}", when(w)),
    }
}

fn after(after: After) -> String {
    match after {
        After::Pass => "TCP".to_owned(),
        After::Apply => "TCP and engine".to_owned(),
        After::GetOnly => "get only".to_owned(),
        After::Refused => "TCP: ENOPROTOOPT".to_owned(),
        After::Engine => "engine".to_owned(),
        After::TcpDecides => "TCP, which refuses".to_owned(),
        After::Returns(w) => format!("back to TCP {}, then TCP; else EOPNOTSUPP", when(w)),
        After::Fails(errno) => fails(errno),
    }
}

fn fails(errno: i32) -> String {
    match errno {
        libc::EOPNOTSUPP => "EOPNOTSUPP".to_owned(),
        libc::EINVAL => "EINVAL".to_owned(),
        _ => format!("errno {errno}"),
    }
}

fn child(child: Child) -> &'static str {
    match child {
        Child::Yes => "inherit it",
        Child::No => "do not",
        Child::Own => "have a value of their own",
        Child::AsTcp => "as on TCP",
        Child::StaysTcp => "stay on TCP",
        Child::NotApplicable => "-",
    }
}

/// Numbers as text: `15,19`, or `*` for all others.
fn numbers(row: &Row) -> String {
    if row.numbers.is_empty() {
        return "*".to_owned();
    }
    row.numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// For `smcss --options`.
pub fn text() -> String {
    let mut out = String::from(
        "Y: acts as on TCP. M: accepted and read back, but concerns packets, of which shared memory has none. N: only TCP\n\
         can serve it: the connection stays there, or goes back.\n\n",
    );
    let _ = writeln!(
        out,
        "{:12} {:>6} C {:32} {:48} Why",
        "Level", "Number", "Option", "On a connection that has moved"
    );
    for row in super::all() {
        let words = Words::of(row);
        let number = if row.numbers.len() > 1 { String::new() } else { numbers(row) };
        let _ = writeln!(
            out,
            "{:12} {:>6} {} {:32} {:48} {}",
            words.level, number, words.class, words.option, words.after_connect, words.why
        );
    }
    out
}

/// The table of README.md: a line for each class.
pub fn readme() -> String {
    let mut out = String::from("| class | what happens | options |\n|---|---|---|\n");
    let all = |class: Class, keep: fn(&Row) -> bool| {
        let rows = super::all().filter(|row| row.class == class && keep(row));
        rows.map(|row| row.name).collect::<Vec<_>>().join(", ")
    };
    let applied = |row: &Row| row.by != By::Tcp;
    let _ = writeln!(
        out,
        "| Y | the same effect as on TCP | {}; and all that TCP itself serves, which are not named here |",
        all(Class::Y, applied)
    );
    let _ = writeln!(
        out,
        "| M | accepted and read back, but it concerns packets, and shared memory has none | {} |",
        all(Class::M, |row| !row.numbers.is_empty())
    );
    let _ = writeln!(
        out,
        "| N | the connection stays on TCP, or goes back there | {} |",
        all(Class::N, |_| true)
    );
    out
}

/// The table of docs/options.md: a line for each row.
pub fn reference() -> String {
    let mut out = String::from(
        "| level | number | option | class | before connect | on a moved connection | on a listener | accepted sockets | by | code | why |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in super::all() {
        let w = Words::of(row);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            w.level,
            numbers(row),
            w.option,
            w.class,
            w.before_connect,
            w.after_connect,
            w.on_listener,
            w.accepted,
            w.by,
            w.code,
            w.why
        );
    }
    out
}
