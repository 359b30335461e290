//! Users and groups by name, as the files of the system have them. Directory services are not
//! asked: that takes the C library's plugins, and a number always works.

use std::fs;

/// Returns the number of a user: itself, or that of a name in /etc/passwd.
pub(super) fn user_named(text: &str) -> Option<u32> {
    number(text, "/etc/passwd")
}

/// Returns the number of a group: itself, or that of a name in /etc/group.
pub(super) fn group_named(text: &str) -> Option<u32> {
    number(text, "/etc/group")
}

fn number(text: &str, file: &str) -> Option<u32> {
    text.parse().ok().or_else(|| {
        let accounts = fs::read_to_string(file).ok()?;
        number_in(&accounts, text)
    })
}

/// Both files have name, password and number first, with colons between.
fn number_in(accounts: &str, name: &str) -> Option<u32> {
    let mut rows = accounts.lines().map(|line| line.split(':'));
    let mut row = rows.find(|row| row.clone().next() == Some(name))?;
    row.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_found_by_its_whole_name() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\ngoumem:x:997:996::/:\nbroken\nhalf:x:\n";
        assert_eq!(number_in(accounts, "goumem"), Some(997));
        assert_eq!(number_in(accounts, "root"), Some(0));
        for nobody in ["gou", "", "broken", "half", "x"] {
            assert_eq!(number_in(accounts, nobody), None, "{nobody}");
        }
        assert_eq!(user_named("1000"), Some(1000));
        assert_eq!(user_named("root"), Some(0));
        assert_eq!(group_named("no such group"), None);
    }
}
