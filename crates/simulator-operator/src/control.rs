//! What goes wrong, and when: one fault at one side effect or one call of the operator.
//!
//! Invariant: a caller that crashed never has an effect again.

use crate::api::service::Asked;
use http::Method;
use quorate::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who calls: the number of an operator's process.
pub type Caller = u32;

/// One call of an operator.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// What, in words.
    pub what: String,
    /// It changes something that matters: no lease, no event.
    pub effect: bool,
    /// It is about the lease.
    pub lease: bool,
    /// It reads only.
    pub read: bool,
}

impl Call {
    /// A request to the API server.
    pub fn of(asked: &Asked) -> Call {
        let verb = match asked.method {
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "replace",
            Method::DELETE => "delete",
            _ if asked.content.contains("apply") => "apply",
            _ => "patch",
        };
        let plural = asked.target.kind.plural;
        let name = asked
            .target
            .name
            .as_deref()
            .or_else(|| asked.body["metadata"]["name"].as_str());
        let sub = asked
            .target
            .subresource
            .as_deref()
            .map_or(String::new(), |sub| format!("/{sub}"));
        let (lease, event) = (plural == "leases", plural == "events");
        let read = asked.method == Method::GET;
        Call {
            caller: asked.caller,
            what: format!("{verb} {plural}{sub} {}", name.unwrap_or("*")),
            effect: !read && !lease && !event,
            lease,
            read,
        }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answer,
    /// It is refused with this code, and nothing happened.
    Refuse(u16),
    /// It happened, and the answer is lost.
    Lost,
    /// Nothing happened, and that takes a while to find out.
    Unreachable,
    /// The caller is gone.
    Never,
    /// It happened, and the caller is gone.
    LastWords,
    /// It arrives so much later.
    Late(Duration),
}

/// A fault. Numbers count side effects, or calls, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// The operator dies before this side effect.
    CrashBefore(u64),
    /// The operator dies after it, without having heard of it.
    CrashAfter(u64),
    /// The answer to it is lost.
    Lost(u64),
    /// It is refused with this code; 0: nobody answers.
    Refuse(u64, u16),
    /// The same for a call, whether it changes something or not.
    RefuseCall(u64, u16),
    /// From it on watches and caches are so many revisions behind, for half a minute.
    Stale(u64, u64),
    /// This event of a watch is lost.
    Drop(u64),
    /// The operator stands still for a minute at this side effect, which is on its way; another one takes over.
    Pause(u64),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::None => write!(f, "none"),
            Fault::CrashBefore(n) => write!(f, "crash before {n}"),
            Fault::CrashAfter(n) => write!(f, "crash after {n}"),
            Fault::Lost(n) => write!(f, "lost {n}"),
            Fault::Refuse(n, code) => write!(f, "refuse {n} {code}"),
            Fault::RefuseCall(n, code) => write!(f, "refuse-call {n} {code}"),
            Fault::Stale(n, by) => write!(f, "stale {n} {by}"),
            Fault::Drop(n) => write!(f, "drop {n}"),
            Fault::Pause(n) => write!(f, "pause {n}"),
        }
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let code = || u16::try_from(number(words.len().saturating_sub(1))?).ok();
        let fault = match (words.as_slice(), number(1).or(number(2)), number(2)) {
            (["none"], ..) => Some(Fault::None),
            (["crash", "before", _], ..) => number(2).map(Fault::CrashBefore),
            (["crash", "after", _], ..) => number(2).map(Fault::CrashAfter),
            (["lost", _], Some(n), _) => Some(Fault::Lost(n)),
            (["refuse", _, _], Some(n), _) => code().map(|code| Fault::Refuse(n, code)),
            (["refuse-call", _, _], Some(n), _) => code().map(|code| Fault::RefuseCall(n, code)),
            (["stale", _, _], Some(n), Some(by)) => Some(Fault::Stale(n, by)),
            (["drop", _], Some(n), _) => Some(Fault::Drop(n)),
            (["pause", _], Some(n), _) => Some(Fault::Pause(n)),
            _ => None,
        };
        fault.ok_or_else(|| format!("{text:?} is no fault"))
    }
}

/// Where the fault stands.
#[derive(Debug)]
pub struct Control {
    /// What is to go wrong.
    pub fault: Fault,
    /// Side effects so far.
    pub effects: u64,
    /// Calls so far.
    pub calls: u64,
    /// Events of watches so far.
    pub events: u64,
    /// What each side effect was.
    pub names: Vec<String>,
    /// Who crashed.
    pub dead: BTreeSet<Caller>,
    /// Who stands still, until when.
    pub paused: BTreeMap<Caller, Instant>,
    /// Watches show nothing newer than this, until then.
    pub stale: Option<(u64, Instant)>,
    /// It has happened.
    pub struck: bool,
    /// Nothing goes wrong any more, and nothing is counted.
    pub over: bool,
}

impl Control {
    /// Nothing has gone wrong yet.
    pub fn new(fault: Fault) -> Control {
        Control {
            fault,
            effects: 0,
            calls: 0,
            events: 0,
            names: Vec::new(),
            dead: BTreeSet::new(),
            paused: BTreeMap::new(),
            stale: None,
            struck: false,
            over: false,
        }
    }

    /// Decides about a call; `revision` is the newest.
    pub fn fate(&mut self, call: &Call, now: Instant, revision: u64) -> Fate {
        if self.dead.contains(&call.caller) {
            return Fate::Never;
        }
        if let Some(until) = self.paused.get(&call.caller)
            && *until > now
        {
            return Fate::Late(until.saturating_duration_since(now));
        }
        if call.lease {
            return Fate::Answer;
        }
        if self.over {
            if call.effect {
                self.names.push(call.what.clone());
            }
            return Fate::Answer;
        }
        let unheard = |code: u16| {
            if code == 0 {
                Fate::Unreachable
            } else {
                Fate::Refuse(code)
            }
        };
        self.calls += 1;
        if let Fault::RefuseCall(n, code) = self.fault
            && n == self.calls
        {
            self.struck = true;
            return unheard(code);
        }
        if !call.effect {
            return Fate::Answer;
        }
        self.effects += 1;
        self.names.push(call.what.clone());
        let mine = self.effects;
        let fate = match self.fault {
            Fault::CrashBefore(n) if n == mine => {
                self.dead.insert(call.caller);
                Fate::Never
            }
            Fault::CrashAfter(n) if n == mine => {
                self.dead.insert(call.caller);
                Fate::LastWords
            }
            Fault::Lost(n) if n == mine => Fate::Lost,
            Fault::Refuse(n, code) if n == mine => unheard(code),
            Fault::Stale(n, by) if n == mine => {
                self.stale = Some((revision.saturating_sub(by), now + Duration::from_secs(30)));
                self.struck = true;
                return Fate::Answer;
            }
            Fault::Pause(n) if n == mine => {
                let pause = Duration::from_secs(60);
                self.paused.insert(call.caller, now + pause);
                Fate::Late(pause)
            }
            _ => return Fate::Answer,
        };
        self.struck = true;
        fate
    }
}
