//! The page that has the figures: what a run has measured goes between marks, and what is said
//! about it stays.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces what is between `<!-- name -->` and `<!-- /name -->`.
///
/// # Errors
///
/// The file's, and one that names a mark that is not there.
pub fn put(page: &Path, name: &str, text: &str) -> io::Result<()> {
    let whole = fs::read_to_string(page)?;
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let marked = whole.find(&begin).map(|at| at + begin.len());
    let marked = marked.and_then(|start| Some((start, start + whole[start..].find(&end)?)));
    let (start, end) = marked.ok_or_else(|| {
        io::Error::other(format!(
            "{}: no marks {begin:?} and {end:?}",
            page.display()
        ))
    })?;
    fs::write(
        page,
        format!("{}\n{text}\n{}", &whole[..start], &whole[end..]),
    )
}
