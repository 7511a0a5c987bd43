//! What a process of this host uses, as the kernel counts it; and what the kernel may show of this one.

/// Memory that no other process shares, in bytes.
pub fn private_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    Some(text.lines().filter(|line| line.starts_with("Private_")).filter_map(kib).sum::<u64>() << 10)
}

/// Processor time it has used so far, in seconds.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The limit of core dumps with which there are none. The kernel ignores a limit of 0 where a program collects them.
pub const NO_CORE: u64 = 1;

/// Has the kernel write no core dump of this process, nor of what it starts: there are secrets in their memory.
pub fn dump_no_core() {
    let none = rustix::process::Rlimit { current: Some(NO_CORE), maximum: Some(NO_CORE) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_this_process() {
        assert!(super::private_bytes(std::process::id()).unwrap() > 1 << 16);
        assert!(super::cpu_seconds(std::process::id()).is_some());
        assert_eq!(super::private_bytes(u32::MAX), None);
    }
}
