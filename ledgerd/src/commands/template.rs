//! How an entry is printed, in a user's own words.

use ledger_client::Entry;

use crate::cli::Failure;
use crate::commands::print::{time, verify};

#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Seq,
    Time,
    Lamport,
    Key,
    Payload,
    Metadata(String),
}

impl Template {
    /// Text with names in braces; `{{` and `}}` are braces.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            plain += before;
            let twice = if brace.starts_with('{') { "{{" } else { "}}" };
            if let Some(after) = brace.strip_prefix(twice) {
                plain += &twice[1..];
                rest = after;
                continue;
            }
            let (name, after) = brace
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'))
                .ok_or("a brace without its partner; twice it is one")?;
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(Piece::named(name)?);
            rest = after;
        }
        pieces.push(Piece::Text(plain + rest));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Template(pieces))
    }

    /// An entry in these words, once it is verified.
    pub(super) fn of(&self, entry: &Entry<'_>) -> Result<String, Failure> {
        verify(entry)?;
        Ok(self.0.iter().map(|piece| piece.of(entry)).collect())
    }
}

impl Piece {
    fn named(name: &str) -> Result<Piece, String> {
        Ok(match name {
            "seq" => Piece::Seq,
            "time" => Piece::Time,
            "lamport" => Piece::Lamport,
            "key" => Piece::Key,
            "payload" => Piece::Payload,
            _ => match name.strip_prefix("meta.") {
                Some(name) => Piece::Metadata(name.to_owned()),
                None => {
                    return Err(format!(
                        "{{{name}}} is none of {{seq}}, {{time}}, {{lamport}}, {{key}}, \
                         {{payload}}, {{meta.NAME}}"
                    ));
                }
            },
        })
    }

    fn of(&self, entry: &Entry<'_>) -> String {
        match self {
            Piece::Text(text) => text.clone(),
            Piece::Seq => entry.seq().to_string(),
            Piece::Time => time(entry.appended_at_ns()),
            Piece::Lamport => entry.lamport().to_string(),
            Piece::Key => entry.key().escape_debug().to_string(),
            Piece::Payload => {
                let text = String::from_utf8_lossy(entry.payload());
                text.escape_debug().to_string()
            }
            Piece::Metadata(wanted) => entry
                .metadata()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.escape_debug().to_string())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, Template};

    #[test]
    fn names_stand_in_braces() {
        let parsed = Template::parse("{seq}: {{{meta.a b}}} ").expect("a template");
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(
            parsed.0,
            [
                Piece::Seq,
                text(": {"),
                Piece::Metadata("a b".to_owned()),
                text("} "),
            ]
        );
        assert_eq!(Template::parse("").expect("nothing").0, []);
        for wrong in ["{", "}", "{seq", "{sequence}", "{}", "{{}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
