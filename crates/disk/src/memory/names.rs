//! The names of a disk in memory: what programs see, what is durable, and the changes between the two.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Directory,
    /// A file, by its inode.
    File(u64),
}

/// A change of names.
#[derive(Debug, Clone)]
pub enum NameChange {
    Create {
        path: PathBuf,
        entry: Entry,
    },
    /// With all that is below it.
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
}

type Tree = BTreeMap<PathBuf, Entry>;

/// Invariant: `live` is `durable` with all changes of `journal` applied in order.
#[derive(Debug, Clone, Default)]
pub struct Names {
    live: Tree,
    durable: Tree,
    journal: VecDeque<NameChange>,
}

/// Whether a path is a root, which always exists.
pub fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}

fn apply(tree: &mut Tree, change: &NameChange) {
    match change {
        NameChange::Create { path, entry } => {
            tree.insert(path.clone(), *entry);
        }
        NameChange::Remove { path } => tree.retain(|name, _| !name.starts_with(path)),
        NameChange::Rename { from, to } => {
            let moved: Vec<(PathBuf, Entry)> = tree
                .iter()
                .filter_map(|(name, entry)| match name.strip_prefix(from) {
                    Ok(rest) if rest.as_os_str().is_empty() => Some((to.clone(), *entry)),
                    Ok(rest) => Some((to.join(rest), *entry)),
                    Err(_) => None,
                })
                .collect();
            // A crash can have lost the name that a later change moves: then there is nothing to move.
            if !moved.is_empty() {
                tree.retain(|name, _| !name.starts_with(from) && !name.starts_with(to));
                tree.extend(moved);
            }
        }
    }
}

fn touches(change: &NameChange, dir: &Path) -> bool {
    let within = |path: &Path| path.parent() == Some(dir);
    match change {
        NameChange::Create { path, .. } | NameChange::Remove { path } => within(path),
        NameChange::Rename { from, to } => within(from) || within(to),
    }
}

impl Names {
    pub fn get(&self, path: &Path) -> Option<Entry> {
        self.live.get(path).copied()
    }

    /// The name of a file; empty when it has none any more.
    pub fn path_of(&self, inode: u64) -> PathBuf {
        let found = self.live.iter().find(|(_, entry)| **entry == Entry::File(inode));
        found.map(|(path, _)| path.clone()).unwrap_or_default()
    }

    pub fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if is_root(parent) => Ok(()),
            Some(parent) => match self.get(parent) {
                Some(Entry::Directory) => Ok(()),
                Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// What lies directly in a directory, in order.
    pub fn children<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = &'a Path> {
        self.live
            .keys()
            .map(PathBuf::as_path)
            .filter(move |path| path.parent() == Some(dir))
    }

    /// The files that have a name, or may have one after a crash.
    pub fn inodes(&self) -> impl Iterator<Item = u64> + '_ {
        let created = self.journal.iter().filter_map(|change| match change {
            NameChange::Create { entry, .. } => Some(entry),
            NameChange::Remove { .. } | NameChange::Rename { .. } => None,
        });
        self.live
            .values()
            .chain(self.durable.values())
            .chain(created)
            .filter_map(|entry| match entry {
                Entry::File(inode) => Some(*inode),
                Entry::Directory => None,
            })
    }

    pub fn apply(&mut self, change: NameChange) {
        apply(&mut self.live, &change);
        self.journal.push_back(change);
    }

    /// Makes durable what happened to the names in a directory, and what came before that: file systems with a journal
    /// keep the order.
    pub fn sync(&mut self, dir: &Path) {
        let last = self.journal.iter().rposition(|change| touches(change, dir));
        for change in self.journal.drain(..last.map_or(0, |last| last + 1)) {
            apply(&mut self.durable, &change);
        }
    }

    /// The number of changes that are not durable.
    pub fn pending(&self) -> usize {
        self.journal.len()
    }

    /// Keeps the first `kept` pending changes and loses the others, with everything whose directory is lost.
    pub fn crash(&mut self, kept: usize) {
        for change in self.journal.drain(..).take(kept) {
            apply(&mut self.durable, &change);
        }
        let mut reachable = Tree::new();
        // In order of the paths a directory comes before what it holds.
        for (path, entry) in &self.durable {
            let parent = path.parent();
            if parent.is_none_or(|parent| is_root(parent) || reachable.get(parent) == Some(&Entry::Directory)) {
                reachable.insert(path.clone(), *entry);
            }
        }
        self.live = reachable.clone();
        self.durable = reachable;
    }
}
