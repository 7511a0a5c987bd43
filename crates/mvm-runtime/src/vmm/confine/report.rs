//! The one list of layers, and what is said about each of them for a VMM or a host.

use serde::{Deserialize, Serialize};

/// A layer of confinement. The order is that of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Every layer. Which of them must apply is for a policy to say.
    pub const ALL: [Layer; 12] = [
        Layer::Descriptors,
        Layer::EmptyEnvironment,
        Layer::DiesWithParent,
        Layer::NoNewPrivileges,
        Layer::Seccomp,
        Layer::TemplateReadOnly,
        Layer::NoCapabilities,
        Layer::OwnUser,
        Layer::NetworkNamespace,
        Layer::Landlock,
        Layer::ResourceLimits,
        Layer::Cgroup,
    ];

    /// Its name in reports.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Whether a layer applies to one VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The layer.
    pub layer: Layer,
    /// Whether it applies.
    pub applied: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub missing: String,
}

/// Every layer's report.
pub(super) fn reports(missing: &[(Layer, String)]) -> Vec<LayerReport> {
    let why = |layer| missing.iter().find(|(missing, _)| *missing == layer).map(|(_, why)| why.clone());
    let report = |layer| match why(layer) {
        None => LayerReport { layer, applied: true, missing: String::new() },
        Some(missing) => LayerReport { layer, applied: false, missing },
    };
    Layer::ALL.into_iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_layer_is_told_and_no_other() {
        for layer in Layer::ALL {
            let reports = reports(&[(layer, "why".into())]);
            assert_eq!(reports.len(), Layer::ALL.len());
            let missing: Vec<_> = reports.iter().filter(|r| !r.applied).collect();
            assert!(missing.len() == 1 && missing[0].layer == layer && missing[0].missing == "why");
        }
    }
}
