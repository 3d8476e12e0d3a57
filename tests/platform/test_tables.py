"""Tables say what they were given, letter by letter."""

import pytest

from footplate.tables import print_table


def test_names_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("run", "best[0]"), [("try[b]", "[red]"), ("a[/x]", ":smile:")])
    words = capsys.readouterr().out.split()
    assert [word for word in words if "\u2500" not in word] == ["run", "best[0]", "try[b]", "[red]", "a[/x]", ":smile:"]
