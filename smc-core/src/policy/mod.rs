//! Which connections may move to shared memory: the rules of SMC_POLICY and of the configuration file.
//!
//! A rule is an action, `include` or `exclude`, and conditions on the program, the user and the two addresses. The
//! first rule whose conditions all hold decides; where none does, the connection is included. A condition on
//! something not known yet (the peer of a connect under way, or what nobody told the dry run) leaves the decision
//! open.

mod address;
mod parse;
mod program;

pub use address::AddressSet;
pub use parse::{endpoint, rule};
pub use program::{Pattern, Program};

use once_cell::sync::OnceCell;

use crate::sys;
use crate::sys::sock::{self, Endpoint};

/// What a rule says about the connections it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Include,
    Exclude,
}

/// Where a rule was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The n-th rule of SMC_POLICY, from 1.
    Environment(u32),
    /// A line of the configuration file, from 1.
    File(u32),
}

/// One rule. An empty list of conditions holds for everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub action: Action,
    pub programs: Vec<Pattern>,
    /// Effective uids.
    pub uids: Vec<u32>,
    pub local: Vec<AddressSet>,
    pub peer: Vec<AddressSet>,
    pub origin: Origin,
    /// As it was written.
    pub text: String,
}

/// What a condition looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    Program,
    Uid,
    Local,
    Peer,
}

impl Field {
    /// The word in front of the `=` of its condition.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Program => "program",
            Field::Uid => "uid",
            Field::Local => "local",
            Field::Peer => "peer",
        }
    }
}

/// A connection as rules see it; `None` is what is not known.
#[derive(Clone, Copy, Default)]
pub struct Subject<'a> {
    pub program: Option<&'a Program>,
    pub uid: Option<u32>,
    pub local: Option<Endpoint>,
    pub peer: Option<Endpoint>,
}

/// How a rule fits a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    Yes,
    /// This condition does not hold.
    No(Field),
    /// No condition fails, but this one cannot be judged.
    Unknown(Field),
}

/// What the rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<'a> {
    /// By this rule; `None`: no rule is for the connection, which is included then.
    Decided(Action, Option<&'a Rule>),
    /// It depends on this rule, and that on something not known.
    Open(&'a Rule, Field),
}

impl Rule {
    /// Whether the rule is for `subject`.
    pub fn fit(&self, subject: &Subject<'_>) -> Fit {
        let mut fit = Fit::Yes;
        let conditions = [
            (Field::Program, holds(&self.programs, subject.program, |p, name| p.matches(name))),
            (Field::Uid, holds(&self.uids, subject.uid.as_ref(), |uid, it| uid == it)),
            (Field::Local, holds(&self.local, subject.local.as_ref(), AddressSet::contains)),
            (Field::Peer, holds(&self.peer, subject.peer.as_ref(), AddressSet::contains)),
        ];
        for (field, holds) in conditions {
            match holds {
                Some(true) => {}
                Some(false) => return Fit::No(field),
                None if fit == Fit::Yes => fit = Fit::Unknown(field),
                None => {}
            }
        }
        fit
    }
}

/// Whether a condition holds: one of its values does, or it has none. `None`: not known.
fn holds<V, S>(values: &[V], subject: Option<&S>, test: impl Fn(&V, &S) -> bool) -> Option<bool> {
    if values.is_empty() {
        return Some(true);
    }
    subject.map(|s| values.iter().any(|v| test(v, s)))
}

/// The first of `rules` that is for `subject` decides.
pub fn decide<'a>(rules: &'a [Rule], subject: &Subject<'_>) -> Decision<'a> {
    for rule in rules {
        match rule.fit(subject) {
            Fit::Yes => return Decision::Decided(rule.action, Some(rule)),
            Fit::Unknown(field) => return Decision::Open(rule, field),
            Fit::No(_) => {}
        }
    }
    Decision::Decided(Action::Include, None)
}

/// The rules that can matter to a process of `program`, in their order; without conditions on the program.
fn for_program(rules: Vec<Rule>, program: &Program) -> Vec<Rule> {
    let mut kept = Vec::new();
    for mut rule in rules {
        if holds(&rule.programs, Some(program), |p, name| p.matches(name)) != Some(true) {
            continue;
        }
        rule.programs.clear();
        let last = rule.uids.is_empty() && rule.local.is_empty() && rule.peer.is_empty();
        kept.push(rule);
        if last {
            break;
        }
    }
    // What is left includes everything anyway.
    while kept.last().is_some_and(|rule| rule.action == Action::Include) {
        kept.pop();
    }
    kept
}

static RULES: OnceCell<Vec<Rule>> = OnceCell::new();

/// Puts rules into force for this process, once.
pub fn install(rules: Vec<Rule>) {
    if !rules.is_empty() {
        let _ = RULES.set(for_program(rules, &Program::current()));
    }
}

/// Whether the rules in force keep the connection of descriptor `fd` on TCP. False also if that cannot be told yet,
/// since it is still connecting.
#[inline]
pub fn excludes(fd: i32) -> bool {
    match RULES.get() {
        Some(rules) if !rules.is_empty() => excluded_by(rules, fd),
        _ => false,
    }
}

/// What the rules in force say of a socket that has no addresses yet; `None`: it depends on them.
pub fn without_addresses() -> Option<Action> {
    let rules = RULES.get().map_or(&[][..], Vec::as_slice);
    match decide(rules, &Subject { uid: Some(sys::geteuid()), ..Subject::default() }) {
        Decision::Decided(action, _) => Some(action),
        Decision::Open(..) => None,
    }
}

#[cold]
fn excluded_by(rules: &[Rule], fd: i32) -> bool {
    let subject = Subject {
        program: None,
        uid: Some(sys::geteuid()),
        local: sock::local(fd).ok(),
        peer: sock::peer(fd).ok(),
    };
    let Decision::Decided(Action::Exclude, Some(rule)) = decide(rules, &subject) else { return false };
    log::debug!("fd {fd}: excluded by '{}'", rule.text);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().zip(1..).map(|(text, n)| rule(text, Origin::File(n)).expect(text)).collect()
    }

    fn subject<'a>(program: &'a Program, uid: u32, local: &str, peer: &str) -> Subject<'a> {
        Subject {
            program: Some(program),
            uid: Some(uid),
            local: Some(endpoint(local).unwrap()),
            peer: Some(endpoint(peer).unwrap()),
        }
    }

    fn action(rules: &[Rule], subject: &Subject<'_>) -> (Action, Option<u32>) {
        match decide(rules, subject) {
            Decision::Decided(action, by) => (
                action,
                by.map(|rule| match rule.origin {
                    Origin::File(line) | Origin::Environment(line) => line,
                }),
            ),
            Decision::Open(rule, field) => panic!("open: {rule:?} {field:?}"),
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_without_one_all_is_included() {
        let rules = rules(&[
            "include program=redis-server peer=127.0.0.1",
            "exclude program=redis-server",
            "exclude uid=33,34 local=:80,:443",
        ]);
        let redis = Program::named("/usr/bin/redis-server");
        let nginx = Program::named("/usr/sbin/nginx");
        let (near, far) = ("127.0.0.1:6379", "10.0.0.2:6379");
        assert_eq!(action(&rules, &subject(&redis, 0, near, "127.0.0.1:5")), (Action::Include, Some(1)));
        assert_eq!(action(&rules, &subject(&redis, 0, near, far)), (Action::Exclude, Some(2)));
        assert_eq!(action(&rules, &subject(&nginx, 33, "10.0.0.1:80", far)), (Action::Exclude, Some(3)));
        assert_eq!(action(&rules, &subject(&nginx, 34, "10.0.0.1:443", far)), (Action::Exclude, Some(3)));
        assert_eq!(action(&rules, &subject(&nginx, 33, "10.0.0.1:81", far)), (Action::Include, None));
        assert_eq!(action(&rules, &subject(&nginx, 35, "10.0.0.1:80", far)), (Action::Include, None));
    }

    #[test]
    fn what_is_not_known_leaves_the_decision_open_unless_another_condition_fails() {
        let rules = rules(&["exclude program=redis* peer=:6379", "exclude uid=5"]);
        let redis = Program::named("redis-cli");
        let without_peer = Subject { program: Some(&redis), uid: Some(1), ..Subject::default() };
        assert!(
            matches!(decide(&rules, &without_peer), Decision::Open(rule, Field::Peer) if rule == &rules[0])
        );
        let other = Program::named("curl");
        let other = Subject { program: Some(&other), uid: Some(1), ..Subject::default() };
        assert_eq!(decide(&rules, &other), Decision::Decided(Action::Include, None));
        let no_uid = Subject { uid: None, ..other };
        assert!(matches!(decide(&rules, &no_uid), Decision::Open(rule, Field::Uid) if rule == &rules[1]));
    }

    #[test]
    fn a_process_keeps_only_what_can_matter_to_it() {
        let all = rules(&[
            "exclude program=curl",
            "exclude program=redis-server peer=10.0.0.0/8",
            "include program=redis-server",
            "exclude",
        ]);
        let kept = |name| for_program(all.clone(), &Program::named(name)).len();
        assert_eq!((kept("curl"), kept("redis-server"), kept("nginx")), (1, 1, 1));
        let kept = for_program(all, &Program::named("redis-server"));
        assert_eq!(kept[0].origin, Origin::File(2));
        assert!(kept[0].programs.is_empty());
        assert!(for_program(rules(&["include program=a", "include"]), &Program::named("a")).is_empty());
    }
}
