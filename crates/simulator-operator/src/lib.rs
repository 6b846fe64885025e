//! The real operator in a simulated world: its reconciler, its watches, its lease, against an API server, machinery and
//! members in memory, on a clock that is moved by hand. One script, one seed, one fault: one story.
//!
//! ```text
//! script   what users and fate do             api      the API server
//! run      tells a story, judges its end      life     scheduler, kubelets, binder, garbage collection
//! world    everything, behind one lock        etcd     members          road   the operator's way to them
//! control  the fault                          checks   the invariants   tls    certificates of members
//! campaign every fault of every scenario
//! ```

pub mod api;
pub mod campaign;
pub mod checks;
pub mod control;
pub mod etcd;
pub mod life;
pub mod random;
pub mod road;
pub mod run;
pub mod script;
pub mod tls;
pub mod world;
