//! What is a name and what is not.

use super::*;

#[test]
fn names_within_the_rule_are_kept_as_they_are() {
    let longest = "x".repeat(MAX_NAME_BYTES);
    for text in ["a", "0", "frames", "a.b_c-d", "9..", &longest] {
        assert_eq!(text.parse::<PoolName>().unwrap().as_str(), text);
        assert_eq!(text.parse::<BlockName>().unwrap().to_string(), text);
        assert_eq!(String::from(text.parse::<ArenaName>().unwrap()), text);
    }
    assert_eq!(
        "batch/17".parse::<ArenaName>().unwrap().as_str(),
        "batch/17"
    );
}

#[test]
fn names_outside_the_rule_are_rejected_with_the_place() {
    assert_eq!("".parse::<PoolName>(), Err(NameError::Empty));
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert_eq!(
        long.parse::<PoolName>(),
        Err(NameError::TooLong { len_bytes: 65 })
    );
    for (text, character, at_byte) in [
        (".hidden", '.', 0),
        ("-option", '-', 0),
        ("_x", '_', 0),
        ("..", '.', 0),
        ("a b", ' ', 1),
        ("batch/17", '/', 5),
        ("naïve", 'ï', 2),
        ("nul\0", '\0', 3),
    ] {
        match text.parse::<PoolName>() {
            Err(NameError::Character {
                character: c,
                at_byte: at,
                ..
            }) => {
                assert_eq!((c, at), (character, at_byte), "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    assert!("/absolute".parse::<ArenaName>().is_err());
}

#[test]
fn labels_are_printable_text_of_any_language() {
    for text in ["", "worker 3", "it's \"quoted\" \\o/", "données", "索引"] {
        assert_eq!(text.parse::<Label>().unwrap().as_str(), text);
    }
    for text in [
        "a\nb",
        "\u{1b}[2J",
        "\u{202e}reversed",
        "\u{7f}",
        "zero\u{200b}width",
    ] {
        assert!(
            matches!(text.parse::<Label>(), Err(NameError::Character { .. })),
            "{text:?}"
        );
    }
    assert!(matches!(
        "é".repeat(33).parse::<Label>(),
        Err(NameError::TooLong { len_bytes: 66 })
    ));
}

#[test]
fn maps_keyed_by_name_are_asked_with_text() {
    let map = std::collections::HashMap::from([("frames".parse::<PoolName>().unwrap(), 1)]);
    assert_eq!(map.get("frames"), Some(&1));
}
