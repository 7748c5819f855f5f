//! Patterns of names: of hosts, paths and events.

use glob::MatchOptions;
use std::fmt;
use std::str::FromStr;

/// A name, or a pattern with `*` (anything, also `/`), `?` and `[a-z]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(glob::Pattern);

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

impl Pattern {
    /// Whether the name is meant.
    pub fn fits(&self, name: &str) -> bool {
        self.0.matches_with(name, OPTIONS)
    }

    /// The only name that is meant, if there is only one.
    pub fn exact(&self) -> Option<&str> {
        let text = self.0.as_str();
        (!text.contains(['*', '?', '['])).then_some(text)
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = glob::Pattern::new(text);
        pattern.map(Pattern).map_err(|error| {
            format!("'{text}' is no pattern: {error}; expected a name with *, ? or [a-z] in it")
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_folders_too() {
        let pattern: Pattern = "/lab/*.lock".parse().unwrap();
        assert!(pattern.fits("/lab/a/b.lock") && !pattern.fits("/lab/a"));
        assert_eq!(pattern.exact(), None);
        assert_eq!("/lab/a".parse::<Pattern>().unwrap().exact(), Some("/lab/a"));
        assert!("[".parse::<Pattern>().unwrap_err().contains("[a-z]"));
    }
}
