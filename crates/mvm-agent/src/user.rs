//! Users and groups from the guest's own files. Static programs cannot ask the C library's name services.

use std::fs;

/// Whom a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
}

impl User {
    fn root() -> User {
        User { uid: 0, gid: 0, groups: vec![], name: "root".into(), home: "/root".into() }
    }

    /// Whether it is root, or in root's group.
    pub fn is_privileged(&self) -> bool {
        self.uid == 0 || self.gid == 0 || self.groups.contains(&0)
    }

    /// Resolves `name`, `uid`, `name:group` or `uid:gid`; empty is root. The error says what was not found.
    pub fn resolve(spec: &str) -> Result<User, String> {
        if matches!(spec, "" | "root" | "0") {
            return Ok(User::root());
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        lookup(spec, &passwd, &group)
    }
}

fn lookup(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (who, group_spec) = match spec.split_once(':') {
        Some((who, group)) => (who, Some(group)),
        None => (spec, None),
    };
    let mut user = match (find_user(who, passwd), id(who)) {
        (Some(user), _) => user,
        (None, Some(uid)) => User { uid, gid: uid, groups: vec![], name: uid.to_string(), home: "/".into() },
        (None, None) => return Err(format!("no user \"{who}\" in /etc/passwd")),
    };
    user.groups = member_of(&user.name, group);
    if let Some(spec) = group_spec {
        user.gid =
            find_group(spec, group).or_else(|| id(spec)).ok_or_else(|| format!("no group \"{spec}\" in /etc/group"))?;
    }
    Ok(user)
}

/// A number of a user or group. The last one is none: to the kernel it means that nothing is to change.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn find_user(who: &str, passwd: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        (name == who || uid == who).then_some(())?;
        Some(User { uid: id(uid)?, gid: id(gid)?, groups: vec![], name: name.into(), home: home.into() })
    })
}

fn find_group(who: &str, group: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == who).then(|| id(fields.nth(1)?))?
    })
}

fn member_of(name: &str, group: &str) -> Vec<u32> {
    let member = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { return None };
        members.split(',').any(|m| m == name).then(|| id(gid))?
    };
    group.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1001::/home/user:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nusers:x:1001:\naudio:x:29:other,user\nvideo:x:44:user\n";

    #[test]
    fn names_and_numbers_are_found() {
        let user = lookup("user", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1001, "/home/user"));
        assert_eq!(user.groups, [29, 44]);
        assert_eq!(lookup("1000", PASSWD, GROUP).unwrap().name, "user");
        assert_eq!(lookup("user:audio", PASSWD, GROUP).unwrap().gid, 29);
        assert_eq!(lookup("5:6", PASSWD, GROUP).unwrap().gid, 6);
        assert_eq!(lookup("5", PASSWD, GROUP).unwrap().gid, 5);
    }

    #[test]
    fn root_is_known_under_every_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\ntoor:x:0:5::/:/bin/sh\nuser:x:7:7::/:/bin/sh\n";
        for spec in ["toor", "root:7", "user:0", "user:wheel", "00"] {
            assert!(lookup(spec, passwd, "wheel:x:0:\n").unwrap().is_privileged(), "{spec}");
        }
        assert!(lookup("user", passwd, "root:x:0:user\n").unwrap().is_privileged());
        assert!(!lookup("user", passwd, "").unwrap().is_privileged());
    }

    #[test]
    fn the_number_that_changes_nothing_is_nobodys() {
        assert!(lookup("4294967295", PASSWD, GROUP).is_err());
        assert!(lookup("1000:4294967295", PASSWD, GROUP).is_err());
        assert!(lookup("evil", "evil:x:4294967295:5::/:/bin/sh\n", GROUP).is_err());
        assert!(lookup("evil", "evil:x:5:4294967295::/:/bin/sh\n", GROUP).is_err());
        assert!(lookup("user:evil", PASSWD, "evil:x:4294967295:\n").is_err());
        assert!(lookup("user", PASSWD, "evil:x:4294967295:user\n").unwrap().groups.is_empty());
    }

    #[test]
    fn the_unknown_are_named() {
        assert_eq!(lookup("nobody", PASSWD, GROUP).unwrap_err(), "no user \"nobody\" in /etc/passwd");
        assert_eq!(lookup("user:nogroup", PASSWD, GROUP).unwrap_err(), "no group \"nogroup\" in /etc/group");
    }
}
