//! Sections: a macro that makes a settings struct, its defaults, its reader and its printer from one list of fields.

use std::fmt;

use super::setting::Setting;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key's full path; empty for a mistake of syntax.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

impl Mistake {
    pub(super) fn new(path: &str, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into() }
    }

    pub(super) fn syntax(error: &toml::de::Error) -> Self {
        Self::new("", error.to_string().trim_end().replace('\n', "\n  "))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.what)
    }
}

/// A group of settings, or one setting: what has a place in the configuration.
pub trait Section {
    /// Takes over what `value` says; adds what it cannot take to `mistakes`.
    fn read_value(&mut self, path: &str, value: &toml::Value, mistakes: &mut Vec<Mistake>);

    /// Prints it as TOML: a setting as its line, a group as its header and lines.
    fn show_section(&self, path: &str, out: &mut String);

    /// Whether it is a group.
    fn is_group(&self) -> bool {
        false
    }
}

impl<T: Setting> Section for T {
    fn read_value(&mut self, path: &str, value: &toml::Value, mistakes: &mut Vec<Mistake>) {
        match T::read(value) {
            Ok(read) => *self = read,
            Err(what) => mistakes.push(Mistake::new(path, what)),
        }
    }

    fn show_section(&self, path: &str, out: &mut String) {
        let key = path.rsplit('.').next().unwrap_or(path);
        match self.show() {
            Some(value) => out.push_str(&format!("{key} = {value}\n")),
            None => out.push_str(&format!("# {key} = \"…\"\n")),
        }
    }
}

/// A field of a group, as the macro hands it on.
pub struct Field<'a> {
    pub(super) key: &'static str,
    pub(super) section: &'a mut dyn Section,
}

/// Reads a group's fields out of `value`.
pub(super) fn read_fields(path: &str, value: &toml::Value, fields: &mut [Field<'_>], mistakes: &mut Vec<Mistake>) {
    let Some(table) = value.as_table() else {
        let what = format!("a section is needed here, not {}; write [{path}] and its keys below it", a_kind(value));
        return mistakes.push(Mistake::new(path, what));
    };
    for key in table.keys().filter(|key| !fields.iter().any(|field| field.key == key.as_str())) {
        mistakes.push(Mistake::new(&join(path, key), unknown_key(key, fields)));
    }
    for field in fields {
        if let Some(value) = table.get(field.key) {
            field.section.read_value(&join(path, field.key), value, mistakes);
        }
    }
}

/// Prints a group: its settings, then the groups in it.
pub(super) fn show_fields(path: &str, fields: &[(&str, &[&str], &dyn Section)], out: &mut String) {
    if !path.is_empty() && fields.iter().any(|(.., section)| !section.is_group()) {
        out.push_str(&format!("\n[{path}]\n"));
    }
    for (key, doc, section) in fields.iter().filter(|(.., section)| !section.is_group()) {
        doc.iter().for_each(|line| out.push_str(&format!("#{line}\n")));
        section.show_section(&join(path, key), out);
    }
    for (key, _, section) in fields.iter().filter(|(.., section)| section.is_group()) {
        section.show_section(&join(path, key), out);
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn unknown_key(key: &str, fields: &[Field<'_>]) -> String {
    let nearest = fields.iter().map(|field| (strsim::damerau_levenshtein(key, field.key), field.key)).min();
    match nearest {
        Some((steps, name)) if steps <= 3 && steps < name.len() => format!("no such key; did you mean \"{name}\"?"),
        _ => format!("no such key; there are: {}", fields.iter().map(|field| field.key).collect::<Vec<_>>().join(", ")),
    }
}

/// The kind of a value with its article, for a message.
pub(super) fn a_kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a string",
        toml::Value::Integer(_) => "an integer",
        toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a section",
    }
}

/// Defines a group of settings: its struct, its defaults, how it is read and shown.
macro_rules! section {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[doc = $doc:literal])+ pub $field:ident: $type:ty = $default:expr,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        section_of!($name { $($(#[doc = $doc])+ $field,)+ });
    };
}

/// A field's key: its name, or another one.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// Makes a struct that is defined elsewhere, for example in the core, a group of settings. A field that is neither listed
/// nor in `without` does not compile.
macro_rules! section_of {
    ($name:ident {
        $($(#[doc = $doc:literal])+ $field:ident $(as $key:literal)?,)+
    } $(without { $($skipped:ident),+ })?) => {
        impl $crate::config::Section for $name {
            fn read_value(&mut self, path: &str, value: &toml::Value, mistakes: &mut Vec<$crate::config::Mistake>) {
                let Self { $($field,)+ $($($skipped: _,)+)? } = self;
                let fields = &mut [$($crate::config::section::Field { key: key!($field $($key)?), section: $field }),+];
                $crate::config::section::read_fields(path, value, fields, mistakes);
            }

            fn show_section(&self, path: &str, out: &mut String) {
                $crate::config::section::show_fields(path, &[$((key!($field $($key)?), &[$($doc),+], &self.$field)),+], out);
            }

            fn is_group(&self) -> bool {
                true
            }
        }
    };
}
