//! Ports of the host that lead into a sandbox, as they are asked for and as they are shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a port listens if nothing else is said: out of reach of other machines.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How a port is written.
const FORM: &str = "write it [ADDRESS:]HOST_PORT:GUEST_PORT, such as 8080:80";

/// A port of the host that shall lead into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortRequest {
    /// The address of the host to listen on; 127.0.0.1 if left out.
    #[serde(default = "loopback")]
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The port of the host; 0 takes a free one.
    pub host_port: u16,
    /// The port in the sandbox, on its own 127.0.0.1 or ::1.
    pub guest_port: u16,
    /// `tcp`, also if left out.
    #[serde(default = "tcp")]
    pub protocol: String,
}

/// Names a port of the host that leads into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortName {
    /// The address it listens on; 127.0.0.1 if left out.
    #[serde(default = "loopback")]
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The port.
    pub host_port: u16,
}

/// A port of the host that leads into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// The address it listens on.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The port of the host.
    pub host_port: u16,
    /// The port in the sandbox.
    pub guest_port: u16,
    /// `tcp`.
    pub protocol: String,
    /// Whether other machines can reach it.
    pub exposed: bool,
    /// What becomes of a connection now.
    pub status: PortStatus,
    /// Why it is so, or what became of the last connection that failed; empty if there is nothing to say.
    pub why: String,
    /// Connections at this moment.
    pub connections: u32,
    /// The rule of the policy that admitted it (`mvmctl policy explain RULE`).
    pub rule: String,
    /// The entry of the audit log that authorised it, in the answer to the request that opened it.
    #[serde(default)]
    pub audit_id: Option<u64>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortStatus {
    /// It is passed on into the sandbox.
    Open,
    /// It is reset, because no machine runs.
    Refused,
    /// Nobody listens: after the supervisor was replaced the port could not be had again.
    Failed,
}

fn loopback() -> IpAddr {
    LOOPBACK
}

fn tcp() -> String {
    "tcp".to_owned()
}

impl std::str::FromStr for PortRequest {
    type Err = String;

    /// `[ADDRESS:]HOST_PORT:GUEST_PORT[/PROTOCOL]`. Which protocols there are is not decided here.
    fn from_str(text: &str) -> Result<PortRequest, String> {
        let (ends, protocol) = text.split_once('/').map_or((text, tcp()), |(ends, p)| (ends, p.to_ascii_lowercase()));
        let (host, guest) = ends.rsplit_once(':').ok_or_else(|| format!("both ends are named: {FORM}"))?;
        if host.starts_with('[') && guest.ends_with(']') || host.is_empty() || host.ends_with(':') {
            return Err(format!("both ends are named: {FORM}"));
        }
        let PortName { address, host_port } = host.parse()?;
        Ok(PortRequest { address, host_port, guest_port: port(guest)?, protocol })
    }
}

impl std::str::FromStr for PortName {
    type Err = String;

    /// `[ADDRESS:]PORT`.
    fn from_str(text: &str) -> Result<PortName, String> {
        match text.rsplit_once(':') {
            None => Ok(PortName { address: LOOPBACK, host_port: port(text)? }),
            Some((address, number)) => Ok(PortName { address: parse_address(address)?, host_port: port(number)? }),
        }
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("{text} is no port: they go up to 65535"))
        }
        _ => Err(format!("{text:?} is no port: {FORM}")),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        None => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
    };
    address.ok_or_else(|| match text.parse::<Ipv6Addr>() {
        Ok(_) => format!("an IPv6 address has brackets: [{text}]"),
        Err(_) => format!("{text:?} is no address: names are not looked up; an IPv6 address has brackets"),
    })
}

/// `127.0.0.1:8080`, `[::1]:8080`.
impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.address, self.host_port).fmt(f)
    }
}

impl PortName {
    /// Whether other machines can reach it.
    pub fn exposed(&self) -> bool {
        !self.address.to_canonical().is_loopback()
    }
}

impl Port {
    /// What names it.
    pub fn name(&self) -> PortName {
        PortName { address: self.address, host_port: self.host_port }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(String, u16, u16, String), String> {
        text.parse::<PortRequest>().map(|p| (p.address.to_string(), p.host_port, p.guest_port, p.protocol))
    }

    #[test]
    fn both_ends_are_named_and_the_address_is_this_machine_unless_said_otherwise() {
        let is = |address: &str, host, guest, protocol: &str| Ok((address.into(), host, guest, protocol.into()));
        assert_eq!(parsed("8080:80"), is("127.0.0.1", 8080, 80, "tcp"));
        assert_eq!(parsed("0:65535/tcp"), is("127.0.0.1", 0, 65535, "tcp"));
        assert_eq!(parsed("0.0.0.0:8080:80/UDP"), is("0.0.0.0", 8080, 80, "udp"));
        assert_eq!(parsed("[::1]:8080:80"), is("::1", 8080, 80, "tcp"));
        for (bad, why) in [
            ("", "both ends"),
            ("8080", "both ends"),
            (":80", "both ends"),
            ("127.0.0.1::80", "both ends"),
            ("[::1]", "both ends"),
            ("8080:", "is no port"),
            ("a:80", "is no port"),
            ("+1:80", "is no port"),
            ("-1:80", "is no port"),
            ("65536:80", "up to 65535"),
            ("80:99999999999999999999", "up to 65535"),
            ("localhost:8080:80", "names are not looked up"),
            ("::1:8080:80", "has brackets"),
            ("[127.0.0.1]:8080:80", "is no address"),
            ("1.2.3:8080:80", "is no address"),
        ] {
            let error = parsed(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let [plain, wide]: [PortName; 2] = ["8080", "[::]:8080"].map(|text| text.parse().unwrap());
        assert_eq!([plain.to_string(), wide.to_string()], ["127.0.0.1:8080", "[::]:8080"]);
    }

    #[test]
    fn only_loopback_is_out_of_reach() {
        let reach = |text: &str| PortName { address: text.parse().unwrap(), host_port: 1 }.exposed();
        assert!(!["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"].into_iter().any(reach));
        assert!(["0.0.0.0", "::", "192.168.1.1", "::ffff:0.0.0.0"].into_iter().all(reach));
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in "[0-9a-z:\\[\\]./+ -]{0,24}") {
            let _ = text.parse::<PortRequest>();
        }
    }
}
