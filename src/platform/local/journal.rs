//! The planner's journal in a file.

use super::files;
use super::records::Layout;
use crate::api::journal::JournalText;
use crate::plan::Journal;

/// The journal; an empty one when there is none.
pub fn load(layout: &Layout) -> Result<Journal, files::Error> {
    let text: Option<JournalText> = files::read_json(&layout.file("journal.json"))?;
    Ok(text.as_ref().map(Journal::from).unwrap_or_default())
}

/// Writes it down; it has reached the disk when this returns.
pub fn save(layout: &Layout, journal: &Journal) -> Result<(), files::Error> {
    files::write_json(&layout.file("journal.json"), &JournalText::from(journal)).map(drop)
}
