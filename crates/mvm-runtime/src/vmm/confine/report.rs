//! The one list of layers, and what is said about each of them for a VMM or a host.

use mvm_wire::ErrorCode;
use serde::Serialize;

use crate::error::{Error, Result};

/// A layer of confinement. The order is that of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// It holds the descriptors it was given and no others, and its working directory is `/`.
    Descriptors,
    /// Its environment is empty.
    EmptyEnvironment,
    /// It dies with the thread that started it, and cannot change that.
    DiesWithParent,
    /// Nothing it executes can gain privileges.
    NoNewPrivileges,
    /// A system call filter of ours, besides QEMU's own: no sockets, no other processes, no program but the first.
    Seccomp,
    /// Files that other sandboxes read too cannot be opened for writing.
    TemplateReadOnly,
    /// No capabilities, not even ones it could get back.
    NoCapabilities,
    /// A user and group of its own, different for each sandbox.
    OwnUser,
    /// A network namespace without any interface that is up.
    NetworkNamespace,
    /// File system rules: what it may read is listed, nothing may be written.
    Landlock,
    /// Limits on file sizes, descriptors and core dumps.
    ResourceLimits,
    /// Limits on memory and processes by a cgroup.
    Cgroup,
}

impl Layer {
    /// Every layer, and whether a VMM without it is refused.
    pub const ALL: [(Layer, bool); 12] = [
        (Layer::Descriptors, true),
        (Layer::EmptyEnvironment, true),
        (Layer::DiesWithParent, true),
        (Layer::NoNewPrivileges, true),
        (Layer::Seccomp, true),
        (Layer::TemplateReadOnly, true),
        (Layer::NoCapabilities, true),
        (Layer::OwnUser, false),
        (Layer::NetworkNamespace, false),
        (Layer::Landlock, false),
        (Layer::ResourceLimits, true),
        (Layer::Cgroup, false),
    ];

    /// Its name in reports.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Whether a layer applies to one VMM.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// The layer.
    pub layer: Layer,
    /// Whether it applies.
    pub applied: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub missing: String,
}

/// Every layer's report; an error if a mandatory one is missing.
pub(super) fn reports(missing: &[(Layer, String)]) -> Result<Vec<LayerReport>> {
    let mut reports = Vec::new();
    for (layer, mandatory) in Layer::ALL {
        let why = missing.iter().find(|(missing, _)| *missing == layer).map(|(_, why)| why.clone());
        if let (true, Some(why)) = (mandatory, &why) {
            return Err(Error::new(
                ErrorCode::BackendUnsupported,
                format!("cannot confine QEMU: the layer {} is missing", layer.name()),
                why,
            )
            .hint("mvmctl doctor"));
        }
        reports.push(LayerReport { layer, applied: why.is_none(), missing: why.unwrap_or_default() });
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_mandatory_layer_is_refused_by_name_and_others_are_told() {
        for (layer, mandatory) in Layer::ALL {
            match reports(&[(layer, "why".into())]) {
                Err(error) => {
                    assert!(mandatory, "{layer:?}");
                    assert_eq!(error.code, ErrorCode::BackendUnsupported);
                    assert!(error.what.contains(&layer.name()) && error.why == "why", "{error}");
                }
                Ok(reports) => {
                    assert!(!mandatory, "{layer:?}");
                    let missing: Vec<_> = reports.iter().filter(|r| !r.applied).map(|r| r.layer).collect();
                    assert_eq!(missing, [layer]);
                }
            }
        }
    }
}
