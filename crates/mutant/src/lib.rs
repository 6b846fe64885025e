//! Planted bugs: places in other crates ask [`planted`] whether they are to be wrong, and `simulate mutants` checks that the simulator
//! finds out.
//!
//! Invariants:
//! - Without the feature `mutants`, which no default and no release build has, [`planted`] is the constant `false`: the wrong branches do
//!   not exist in the program.
//! - A bug is switched on for one thread, so that simulations beside each other do not disturb each other.

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<&'static str> = const { Cell::new("") };
    }

    /// Whether the bug of this name is switched on for this thread.
    #[inline]
    pub fn planted(name: &str) -> bool {
        NOW.with(|now| now.get() == name)
    }

    /// Switches a bug on for this thread, and the one before off; an empty name stands for none.
    pub fn plant(name: &'static str) {
        NOW.with(|now| now.set(name));
    }
}

#[cfg(feature = "mutants")]
pub use switch::{plant, planted};

/// Whether the bug of this name is switched on for this thread: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_: &str) -> bool {
    false
}
