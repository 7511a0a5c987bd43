//! What is redacted, as a list for people and programs.

use serde::Serialize;

use super::shapes;

/// When a rule is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Before output is kept or logged. It cannot be undone.
    Writing,
    /// When the log is read. What is kept has it still.
    Reading,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name, stable.
    pub id: &'static str,
    /// When it is applied.
    pub step: Step,
    /// What it finds.
    pub text: &'static str,
}

/// The forms in which the value of a secret is found.
const WRITING: [(&str, &str); 6] = [
    ("secret-value", "the value of a secret that commands were given, as it is"),
    ("secret-lines", "each line of such a value that has 8 bytes or more"),
    (
        "secret-base64",
        "such a value in base64, standard or URL-safe, wherever it begins in what was encoded, wrapped or not",
    ),
    ("secret-hex", "such a value in hexadecimal digits, wrapped or not"),
    ("secret-percent", "such a value percent-encoded, as a part of a URL or of a form"),
    ("secret-json", "such a value, and each of its lines, as a JSON string"),
];

/// All rules.
pub fn rules() -> Vec<Rule> {
    let writing = WRITING.iter().map(|(id, text)| Rule { id, step: Step::Writing, text });
    writing.chain(shapes::rules().map(|(id, text)| Rule { id, step: Step::Reading, text })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_an_id_of_its_own() {
        let mut ids: Vec<&str> = rules().iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rules().len());
        assert!(rules().iter().any(|rule| rule.step == Step::Reading) && ids.contains(&"secret-value"));
    }
}
