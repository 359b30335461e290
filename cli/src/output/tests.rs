use super::*;

fn list() -> List {
    let mut list = List::new(&["name", "capacity_bytes", "age_ms", "named"]);
    list.push([
        "frames".into(),
        Cell::Bytes(64 << 20),
        Duration::from_millis(1500).into(),
        Cell::None,
    ]);
    list.push([
        "b".into(),
        Cell::Bytes(1000),
        Duration::from_micros(20).into(),
        true.into(),
    ]);
    list
}

fn record() -> Record {
    Record::new()
        .with("pool_id", 7_u32)
        .with("largest_free_bytes", Cell::Bytes(3 << 19))
        .with("os_name", None::<String>)
        .with("holders", list())
}

fn printed(output: &Output, format: Format) -> String {
    let mut text = Vec::new();
    output.write(format, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_list_as_a_table() {
    let expected = "\
NAME    CAPACITY     AGE  NAMED
frames    64 MiB  1.50 s  -
b         1000 B   20 µs  yes
";
    let text = printed(&Output::List(list()), Format::Table);
    assert_eq!(text, expected);
}

#[test]
fn a_list_as_json() {
    let expected = r#"[
  {
    "age_ms": 1500.0,
    "capacity_bytes": 67108864,
    "name": "frames",
    "named": null
  },
  {
    "age_ms": 0.02,
    "capacity_bytes": 1000,
    "name": "b",
    "named": true
  }
]
"#;
    assert_eq!(printed(&Output::List(list()), Format::Json), expected);
}

#[test]
fn a_list_as_plain_text() {
    let expected = "frames\t67108864\t1500\t-\nb\t1000\t0.02\ttrue\n";
    assert_eq!(printed(&Output::List(list()), Format::Plain), expected);
}

#[test]
fn a_record_as_a_table() {
    let expected = "\
pool id       7
largest free  1.5 MiB
os name       -

holders:
NAME    CAPACITY     AGE  NAMED
frames    64 MiB  1.50 s  -
b         1000 B   20 µs  yes
";
    assert_eq!(printed(&Output::Record(record()), Format::Table), expected);
}

#[test]
fn a_record_as_plain_text() {
    let expected = "\
pool_id\t7
largest_free_bytes\t1572864
os_name\t-
holders\tframes\t67108864\t1500\t-
holders\tb\t1000\t0.02\ttrue
";
    assert_eq!(printed(&Output::Record(record()), Format::Plain), expected);
}

#[test]
fn a_record_as_json_holds_its_lists() {
    let text = printed(&Output::Record(record()), Format::Json);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["largest_free_bytes"], 1_572_864);
    assert_eq!(value["os_name"], Value::Null);
    assert_eq!(value["holders"][1]["name"], "b");
}

#[test]
fn what_was_done_is_a_sentence_for_people_and_facts_for_programs() {
    let facts = Record::new().with("purged_bytes", Cell::Bytes(4096));
    let done = Output::Done("pool p gave back 4 KiB".to_owned(), facts);
    assert_eq!(printed(&done, Format::Table), "pool p gave back 4 KiB\n");
    assert_eq!(printed(&done, Format::Plain), "purged_bytes\t4096\n");
    assert_eq!(
        printed(&done, Format::Json),
        "{\n  \"purged_bytes\": 4096\n}\n"
    );
}

#[test]
fn an_empty_list_has_a_header_or_is_an_empty_array() {
    let empty = Output::List(List::new(&["name", "uid"]));
    assert_eq!(printed(&empty, Format::Table), "NAME  UID\n");
    assert_eq!(printed(&empty, Format::Plain), "");
    assert_eq!(printed(&empty, Format::Json), "[]\n");
}

#[test]
fn contents_are_written_as_they_are_in_every_format() {
    for format in [Format::Table, Format::Json, Format::Yaml, Format::Plain] {
        let mut written = Vec::new();
        Output::Raw(vec![0, 255, b'\n'])
            .write(format, &mut written)
            .unwrap();
        assert_eq!(written, [0, 255, b'\n']);
    }
}

#[test]
fn control_characters_never_reach_a_terminal() {
    let mut list = List::new(&["command"]);
    list.push(["\u{1b}[31m\tevil\n\u{202e}".into()]);
    let list = Output::List(list);
    for format in [Format::Table, Format::Plain] {
        let text = printed(&list, format);
        assert!(text.contains(r"\u{1b}[31m\tevil\n\u{202e}"), "{text:?}");
    }
}

#[test]
fn sizes_and_times_for_people() {
    assert_eq!(human_bytes(0), "0 B");
    assert_eq!(human_bytes(64 << 20), "64 MiB");
    assert_eq!(human_bytes((3 << 30) / 2), "1.5 GiB");
    assert_eq!(human_bytes(u64::MAX), "no limit");
    assert_eq!(human_time(Duration::from_micros(140)), "140 µs");
    assert_eq!(human_time(Duration::from_micros(2500)), "2.50 ms");
    assert_eq!(human_time(Duration::from_millis(250)), "250 ms");
    assert_eq!(human_time(Duration::from_secs(7)), "7.00 s");
    assert_eq!(human_time(Duration::from_secs(600)), "10 min");
    assert_eq!(human_time(Duration::from_secs(86_400)), "24 h");
    assert_eq!(human_time(Duration::from_secs(3 * 86_400)), "3 days");
}

#[test]
fn a_record_as_yaml_holds_its_lists() {
    let expected = r#"holders:
  - age_ms: 1500.0
    capacity_bytes: 67108864
    name: "frames"
    named: null
  - age_ms: 0.02
    capacity_bytes: 1000
    name: "b"
    named: true
largest_free_bytes: 1572864
os_name: null
pool_id: 7
"#;
    assert_eq!(printed(&Output::Record(record()), Format::Yaml), expected);
}

#[test]
fn texts_in_yaml_are_never_taken_for_something_else() {
    let value = json!({"no": "yes", "a b": ["1", [], {}], "x": "a: b\n# c"});
    let expected = r#""a b":
  - "1"
  - []
  - {}
"no": "yes"
x: "a: b\n# c"
"#;
    assert_eq!(yaml(&value), expected);
    assert_eq!(yaml(&json!([])), "[]\n");
}

#[test]
fn changes_and_parts_for_people() {
    assert_eq!(Cell::PerSecond(3 << 19).human(), "+1.5 MiB/s");
    assert_eq!(Cell::PerSecond(-1024).human(), "-1 KiB/s");
    assert_eq!(Cell::PerSecond(0).human(), "0");
    assert_eq!(Cell::PerSecond(i64::MIN).json(), json!(i64::MIN));
    assert_eq!(Cell::Percent(31).human(), "31 %");
    assert_eq!(Cell::Percent(31).raw(), "31");
}

#[test]
fn cells_of_a_column_have_an_order() {
    for (less, more) in [
        (Cell::Bytes(9), Cell::Bytes(10)),
        (Cell::None, Cell::PerSecond(-5)),
        (Cell::PerSecond(-5), Cell::PerSecond(0)),
        (Cell::from("a"), Cell::from("b")),
        (Cell::Flag(false), Cell::Flag(true)),
        (
            Cell::Time(Duration::from_micros(1)),
            Cell::Time(Duration::from_millis(1)),
        ),
    ] {
        assert_eq!(less.order(&more), Ordering::Less, "{less:?} {more:?}");
        assert_eq!(more.order(&less), Ordering::Greater);
    }
}
