use super::*;

fn press(code: KeyCode, mode: Mode) -> Option<Action> {
    with(code, KeyModifiers::NONE, mode)
}

fn with(code: KeyCode, modifiers: KeyModifiers, mode: Mode) -> Option<Action> {
    let said = TerminalEvent::Key(KeyEvent::new(code, modifiers));
    match event(&said, mode) {
        Some(Event::Do(action)) => Some(action),
        None => None,
        other => panic!("not an action: {other:?}"),
    }
}

#[test]
fn control_c_quits_in_every_mode() {
    for mode in [Mode::Normal, Mode::Filter, Mode::Help] {
        let key = KeyCode::Char('c');
        assert_eq!(with(key, KeyModifiers::CONTROL, mode), Some(Action::Quit));
    }
}

#[test]
fn letters_are_commands_in_the_table_and_text_in_the_filter() {
    let key = KeyCode::Char('q');
    assert_eq!(press(key, Mode::Normal), Some(Action::Quit));
    assert_eq!(press(key, Mode::Filter), Some(Action::Type('q')));
    assert_eq!(
        press(KeyCode::Char('/'), Mode::Normal),
        Some(Action::BeginFilter)
    );
    assert_eq!(press(KeyCode::Enter, Mode::Normal), Some(Action::Detail));
    assert_eq!(press(KeyCode::Enter, Mode::Filter), Some(Action::EndFilter));
    let upper = with(KeyCode::Char('S'), KeyModifiers::SHIFT, Mode::Normal);
    assert_eq!(upper, Some(Action::PreviousSort));
}

#[test]
fn any_key_ends_the_help_and_q_the_program() {
    assert_eq!(press(KeyCode::Char('x'), Mode::Help), Some(Action::Back));
    assert_eq!(press(KeyCode::Esc, Mode::Help), Some(Action::Back));
    assert_eq!(press(KeyCode::Char('q'), Mode::Help), Some(Action::Quit));
}

#[test]
fn keys_of_no_meaning_and_releases_do_nothing() {
    assert_eq!(press(KeyCode::F(9), Mode::Normal), None);
    assert_eq!(
        with(KeyCode::Char('k'), KeyModifiers::CONTROL, Mode::Normal),
        None
    );
    let mut key = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    key.kind = KeyEventKind::Release;
    assert!(event(&TerminalEvent::Key(key), Mode::Normal).is_none());
    let resized = event(&TerminalEvent::Resize(80, 24), Mode::Normal);
    assert!(matches!(resized, Some(Event::Redraw)));
}

#[test]
fn every_key_of_the_help_means_something() {
    let named = |text: &str| match text {
        "Tab," | "Tab" => KeyCode::Tab,
        "Enter" => KeyCode::Enter,
        "Space" => KeyCode::Char(' '),
        "↑" => KeyCode::Up,
        "↓" => KeyCode::Down,
        "q," => KeyCode::Char('q'),
        "S," => KeyCode::Char('S'),
        one => KeyCode::Char(one.chars().next().unwrap()),
    };
    for (keys, what) in HELP {
        for key in keys.split(' ').filter(|key| *key != "Ctrl-C") {
            assert!(press(named(key), Mode::Normal).is_some(), "{key}: {what}");
        }
    }
}
