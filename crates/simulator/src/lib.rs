//! A simulator that breaks everything, from one seed: the real replicas, on disks, a network and clocks that fail, with clients that
//! check every answer.
//!
//! ```text
//! random    the one generator          swarm     what a seed's world is like
//! world     clock, queue, members      client    requests, and what becomes of them
//! model     what a cluster must do     truth     what the members did, compared with it and with each other
//! watching  watch clients, every guarantee of watches checked
//! history   real-time order of all answers, and a search that knows nothing of revisions
//! report    story, trace hash, figures campaign  many seeds    mutants  planted bugs
//! ```
//!
//! Invariants:
//! - One clock, one queue, one generator: the same seed gives the same trace, on every machine. No wall clock, no thread and no order of a
//!   hash map decides anything in a world.
//! - Members are what the server runs, [`replica::Replica`] and below; only what surrounds them is simulated.

pub mod campaign;
pub mod client;
pub mod history;
pub mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod random;
pub mod report;
pub mod swarm;
pub mod truth;
pub mod watching;
pub mod world;
