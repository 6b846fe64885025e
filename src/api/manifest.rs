//! Reads manifests as `kubectl apply -f` would, for platforms without an API server: several documents in one text,
//! unknown fields refused, every error with its document, line and field.
//!
//! Invariant: what is returned has passed the schema of its kind (the one in `crds/`) and every rule of [`convert`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use serde_json::Value;

use super::convert::{self, FieldError};
use super::{EtcdBackup, EtcdCluster, crds};

/// One object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// A cluster.
    Cluster(Box<EtcdCluster>),
    /// A backup or a backup policy.
    Backup(Box<EtcdBackup>),
    /// A Secret that the others refer to.
    Secret(Box<Secret>),
}

/// What is wrong with a manifest, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// Number of the document, from 1.
    pub document: usize,
    /// Line of the text, from 1.
    pub line: usize,
    /// The field; empty when the text itself cannot be read.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (document {}): ", self.line, self.document)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

const API_VERSION: &str = "quorate.dev/v1alpha1";
const KINDS: [&str; 3] = ["EtcdCluster", "EtcdBackup", "Secret"];

/// The schemas of our kinds, which take a while to generate.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let schema = |crd: CustomResourceDefinition| {
        let version = crd.spec.versions.into_iter().next()?;
        let schema = version.schema?.open_api_v3_schema?;
        Some((crd.spec.names.kind, serde_json::to_value(schema).ok()?))
    };
    let definitions = crds::definitions().into_iter();
    definitions.filter_map(|(_, crd)| schema(crd)).collect()
});

/// Reads all documents of `text`; or everything that is wrong with them.
pub fn read(text: &str) -> Result<Vec<Document>, Vec<ManifestError>> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    let mut names: BTreeMap<(&'static str, Option<String>, String), usize> = BTreeMap::new();
    for (index, (first_line, part)) in split(text).into_iter().enumerate() {
        let at = Part {
            document: index + 1,
            first_line,
            text: part,
        };
        match at.read() {
            Ok(None) => {}
            Ok(Some(document)) => {
                let key = document.key();
                if let Some(other) = names.insert(key.clone(), at.document) {
                    let problem = format!(
                        "{} {:?} is in document {other} already: give each its own name",
                        key.0, key.2
                    );
                    errors.push(at.error("metadata.name", problem));
                }
                documents.push(document);
            }
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() { Ok(documents) } else { Err(errors) }
}

impl Document {
    fn key(&self) -> (&'static str, Option<String>, String) {
        match self {
            Document::Cluster(c) => ("EtcdCluster", c.namespace(), c.name_any()),
            Document::Backup(b) => ("EtcdBackup", b.namespace(), b.name_any()),
            Document::Secret(s) => ("Secret", s.namespace(), s.name_any()),
        }
    }
}

/// The documents of a YAML stream with the number of their first line.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            parts.push((first_line, &text[start..offset]));
            start = offset + line.len();
            first_line = number + 2;
        }
        offset += line.len();
    }
    parts.push((first_line, &text[start..]));
    parts.retain(|(_, part)| {
        part.lines()
            .any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'))
    });
    parts
}

/// One document of the text.
struct Part<'a> {
    document: usize,
    first_line: usize,
    text: &'a str,
}

impl Part<'_> {
    fn error(&self, field: &str, problem: impl Into<String>) -> ManifestError {
        ManifestError {
            document: self.document,
            line: self.first_line + line_of(self.text, field),
            field: field.to_string(),
            problem: problem.into(),
        }
    }

    fn read(&self) -> Result<Option<Document>, Vec<ManifestError>> {
        let value: serde_yaml::Value = serde_yaml::from_str(self.text).map_err(|error| {
            let line = error.location().map_or(0, |l| l.line().saturating_sub(1));
            vec![ManifestError {
                document: self.document,
                line: self.first_line + line,
                field: String::new(),
                problem: format!("is not YAML: {error}"),
            }]
        })?;
        if value.is_null() {
            return Ok(None);
        }
        let value: Value = serde_json::to_value(&value)
            .map_err(|error| vec![self.error("", format!("has keys that are not text: {error}"))])?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if !KINDS.contains(&kind.as_str()) {
            let problem = format!(
                "{kind:?} is not known here: write EtcdCluster, EtcdBackup or Secret{}",
                hint(&kind, &KINDS)
            );
            return Err(vec![self.error("kind", problem)]);
        }
        let expected = if kind == "Secret" { "v1" } else { API_VERSION };
        if api_version != expected {
            let problem = format!("{api_version:?} is not the version of {kind}: write {expected}");
            return Err(vec![self.error("apiVersion", problem)]);
        }
        match kind.as_str() {
            "EtcdCluster" => {
                self.structure(&value, &kind)?;
                let cluster: EtcdCluster = self.typed(value)?;
                self.rules(convert::check_cluster(&cluster))?;
                Ok(Some(Document::Cluster(Box::new(cluster))))
            }
            "EtcdBackup" => {
                self.structure(&value, &kind)?;
                let backup: EtcdBackup = self.typed(value)?;
                self.rules(convert::check_backup(&backup))?;
                Ok(Some(Document::Backup(Box::new(backup))))
            }
            _ => {
                self.name(&value)?;
                Ok(Some(Document::Secret(Box::new(self.typed(value)?))))
            }
        }
    }

    fn name(&self, value: &Value) -> Result<(), Vec<ManifestError>> {
        match value.pointer("/metadata/name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => Ok(()),
            _ => Err(vec![self.error("metadata.name", "is required: give the object a name")]),
        }
    }

    /// What the API server checks by the schema alone.
    fn structure(&self, value: &Value, kind: &str) -> Result<(), Vec<ManifestError>> {
        self.name(value)?;
        let mut found = Vec::new();
        for key in value.as_object().into_iter().flat_map(|o| o.keys()) {
            let top = ["apiVersion", "kind", "metadata", "spec", "status"];
            if !top.contains(&key.as_str()) {
                found.push((key.clone(), format!("is not a field of the object{}", hint(key, &top))));
            }
        }
        let metadata = [
            "name",
            "namespace",
            "labels",
            "annotations",
            "uid",
            "generation",
            "creationTimestamp",
            "finalizers",
        ];
        for key in value
            .get("metadata")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|o| o.keys())
        {
            if !metadata.contains(&key.as_str()) {
                found.push((
                    format!("metadata.{key}"),
                    format!("is not a field of metadata{}", hint(key, &metadata)),
                ));
            }
        }
        let schema = SCHEMAS.get(kind).and_then(|schema| schema.pointer("/properties/spec"));
        match (value.get("spec"), schema) {
            (Some(spec), Some(schema)) => walk(spec, schema, "spec", &mut found),
            (None, _) => found.push(("spec".into(), "is required; an empty one is written spec: {}".into())),
            (Some(_), None) => {}
        }
        if found.is_empty() {
            Ok(())
        } else {
            Err(found.into_iter().map(|(f, p)| self.error(&f, p)).collect())
        }
    }

    fn typed<T: serde::de::DeserializeOwned>(&self, value: Value) -> Result<T, Vec<ManifestError>> {
        serde_json::from_value(value).map_err(|error| vec![self.error("", format!("cannot be read: {error}"))])
    }

    fn rules(&self, broken: Vec<FieldError>) -> Result<(), Vec<ManifestError>> {
        if broken.is_empty() {
            return Ok(());
        }
        Err(broken.into_iter().map(|e| self.error(&e.path, e.problem)).collect())
    }
}

/// Compares a value with an OpenAPI schema as the API server does, and collects `(path, problem)`. An explicit null is
/// as good as absent.
fn walk(value: &Value, schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    if value.is_null() {
        return;
    }
    let mut wrong = |problem: String| found.push((path.to_string(), problem));
    if schema.get("x-kubernetes-int-or-string").is_some() {
        if !(value.is_u64() || value.is_string()) {
            wrong("is neither a number nor text: write e.g. 8Gi".into());
        }
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let close = value.as_str().map(|v| hint(v, &names)).unwrap_or_default();
        return wrong(format!("{value} is not one of {}{close}", names.join(", ")));
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => object(value, schema, path, found),
        Some("array") => match value.as_array() {
            None => wrong("must be a list: write its entries with \"- \"".into()),
            Some(items) => {
                if let Some(items_schema) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        walk(item, items_schema, &format!("{path}[{index}]"), found);
                    }
                }
            }
        },
        Some("string") => match value.as_str() {
            None => wrong(format!("{value} must be text: write it in quotes")),
            Some(text) => {
                let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
                let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
                if bound("minLength").is_some_and(|min| length < min) {
                    wrong("is too short".into());
                } else if let Some(max) = bound("maxLength").filter(|max| length > *max) {
                    wrong(format!("is too long: at most {max} characters"));
                }
            }
        },
        Some("integer") => match value.as_i64() {
            None => wrong(format!("{value} must be a whole number, without quotes")),
            Some(number) => {
                let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
                #[allow(clippy::cast_precision_loss)]
                let number = number as f64;
                let (min, max) = (bound("minimum"), bound("maximum"));
                if min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max) {
                    let text = |n: Option<f64>| n.map_or("any".into(), |n| n.to_string());
                    wrong(format!("{value} is out of range: from {} to {}", text(min), text(max)));
                }
            }
        },
        Some("boolean") if !value.is_boolean() => wrong(format!("{value} must be true or false, without quotes")),
        _ => {}
    }
}

fn object(value: &Value, schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    let Some(map) = value.as_object() else {
        found.push((path.into(), "must have fields of its own below it".into()));
        return;
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    let open = schema
        .get("x-kubernetes-preserve-unknown-fields")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    for (key, inner) in map {
        let below = format!("{path}.{key}");
        match (properties.and_then(|p| p.get(key)), others) {
            (Some(schema), _) | (None, Some(schema)) => walk(inner, schema, &below, found),
            (None, None) if open => {}
            (None, None) => {
                let known: Vec<&str> = properties
                    .into_iter()
                    .flat_map(|p| p.keys())
                    .map(String::as_str)
                    .collect();
                let list = if known.len() <= 12 && !known.is_empty() {
                    format!("; known: {}", known.join(", "))
                } else {
                    String::new()
                };
                found.push((below, format!("is not a field of {path}{}{list}", hint(key, &known))));
            }
        }
    }
    for required in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if map.get(required).is_none_or(Value::is_null) {
            found.push((format!("{path}.{required}"), "is required".into()));
        }
    }
}

/// `; did you mean X?` for the nearest of `known`, if one is near.
fn hint(given: &str, known: &[&str]) -> String {
    let near = |name: &&&str| distance(&given.to_lowercase(), &name.to_lowercase());
    known
        .iter()
        .min_by_key(near)
        .filter(|best| near(best) <= 1 + given.len() / 4)
        .map_or(String::new(), |best| format!("; did you mean {best}?"))
}

/// The least number of letters to insert, delete or change to make one word from the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The line (from 0) on which a field of a block-style document stands; of its nearest parent when it is absent or
/// written in flow style.
fn line_of(text: &str, field: &str) -> usize {
    let mut best = 0;
    let mut from = 0;
    let mut indent: Option<usize> = None;
    let lines: Vec<&str> = text.lines().collect();
    for segment in field.split('.') {
        let (key, index) = match segment.split_once('[') {
            Some((key, rest)) => (key, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (segment, None),
        };
        let found = (from..lines.len()).find(|n| {
            let trimmed = lines[*n].trim_start().trim_start_matches("- ").trim_start();
            let depth = lines[*n].len() - trimmed.len();
            let named = trimmed.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
            named && indent.is_none_or(|parent| depth > parent) && (indent.is_some() || depth == 0)
        });
        let Some(line) = found else { return best };
        best = line;
        indent = Some(lines[line].len() - lines[line].trim_start().trim_start_matches("- ").trim_start().len());
        from = line + 1;
        if let Some(index) = index {
            let mut items = (from..lines.len()).filter(|n| lines[*n].trim_start().starts_with('-'));
            if let Some(line) = items.nth(index) {
                best = line;
                from = line;
            }
        }
    }
    best
}
