//! Literal texts of real machines.

use super::*;

const MEMINFO: &str = "MemTotal:       49364072 kB\nMemFree:        41911936 kB\n\
    MemAvailable:   47009028 kB\nBuffers:           61092 kB\nHugePages_Total:       0\n";

/// Version 1 for memory, version 2 mounted beside it without controllers.
const HYBRID_CGROUPS: &str =
    "9:name=systemd:/\n5:devices:/\n4:memory:/jobs/f9c7\n3:cpuset:/\n1:cpu,cpuacct:/\n0::/\n";
const HYBRID_MOUNTS: &str = "\
23 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn meminfo_gives_total_and_available() {
    assert_eq!(
        parse_meminfo(MEMINFO),
        Some((49_364_072 * 1024, 47_009_028 * 1024))
    );
    assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
    assert_eq!(parse_meminfo("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    assert_eq!(
        parse_meminfo("MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n"),
        None
    );
}

#[test]
fn hybrid_machine_has_two_hierarchies() {
    let found = hierarchies(HYBRID_CGROUPS, HYBRID_MOUNTS);
    assert_eq!(
        found,
        [
            Hierarchy {
                version: Version::One,
                mount: "/sys/fs/cgroup/memory".into(),
                leaf: "/sys/fs/cgroup/memory/jobs/f9c7".into(),
            },
            Hierarchy {
                version: Version::Two,
                mount: "/sys/fs/cgroup/unified".into(),
                leaf: "/sys/fs/cgroup/unified".into(),
            },
        ]
    );
}

#[test]
fn container_sees_its_part_of_the_hierarchy() {
    // Without a cgroup namespace the container's mount shows its own cgroup at the top.
    let mounts = "60 50 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n";
    let of = |cgroups| hierarchies(cgroups, mounts)[0].leaf.clone();
    assert_eq!(
        of("0::/docker/abc/inner\n"),
        Path::new("/sys/fs/cgroup/inner")
    );
    assert_eq!(of("0::/docker/abc\n"), Path::new("/sys/fs/cgroup"));
    assert_eq!(of("0::/../elsewhere\n"), Path::new("/sys/fs/cgroup"));
}

#[test]
fn every_limit_on_the_way_up_counts() {
    for (version, no_limit) in [
        (Version::One, "9223372036854771712\n"),
        (Version::Two, "max\n"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path().join("memory");
        let leaf = mount.join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        let write = |at: &Path, limit: &str, usage: &str| {
            fs::write(at.join(version.limit_file()), limit).unwrap();
            fs::write(at.join(version.usage_file()), usage).unwrap();
        };
        write(&leaf, no_limit, "10\n");
        write(&mount.join("a"), "1000\n", "900\n");
        write(&mount, "2000\n", "2050\n");
        // Above the mount point; not ours to read.
        write(directory.path(), "1\n", "1\n");
        let levels = Hierarchy {
            version,
            mount,
            leaf,
        }
        .levels();
        assert_eq!(
            levels.iter().map(Level::room_bytes).collect::<Vec<_>>(),
            [100, 0]
        );
    }
}

#[test]
fn no_limit_has_several_spellings() {
    for text in [
        "max\n",
        "9223372036854771712\n",
        "9223372036854775807\n",
        "",
        "-1\n",
    ] {
        assert_eq!(parse_bytes(text), None, "{text:?}");
    }
    assert_eq!(parse_bytes("67108864\n"), Some(64 << 20));
}

#[test]
fn mount_point_with_a_blank_is_unescaped() {
    assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
    assert_eq!(unescape(r"/a\9"), Path::new(r"/a\9"));
    assert_eq!(unescape("/plain"), Path::new("/plain"));
}

#[test]
fn line_that_is_no_mount_is_skipped() {
    for line in [
        "",
        "1 2 3",
        "35 31 0:32 / /m rw - cgroup",
        "35 31 0:32 / - cgroup2 c rw",
    ] {
        assert_eq!(parse_mount(line), None, "{line:?}");
    }
}

#[test]
fn this_machine_can_be_read() {
    let memory = Machine::read().unwrap();
    assert!(0 < memory.available_bytes && memory.available_bytes <= memory.total_bytes);
    assert_eq!(
        memory.cgroup_limit_bytes.is_some(),
        memory.cgroup_usage_bytes.is_some()
    );
}
