"""YAML as recipes use it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from footplate.document import Origin, parse_document, parse_value, read_document, write_yaml
from footplate.errors import ConfigError

SCALARS = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def problems_of(text: str) -> list[str]:
    try:
        document = parse_document(text, "r.yaml")
    except ConfigError as error:
        return error.problems
    return [problem.line(problem.origin) for problem in document.problems if problem.origin is not None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("-.inf", float("-inf")),
        ("100_000", 100_000),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("-3", -3),
        ("true", True),
        ("~", None),
        ("", None),
        ("null", None),
        ("on", "on"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("'1e-4'", "1e-4"),
        ("1e", "1e"),
        ("[1, {a: 2.0}]", [1, {"a": 2.0}]),
    ],
)
def test_values_are_read_as_people_mean_them(text: str, value: Any) -> None:
    read = parse_value(text, "value")
    assert read == value
    assert type(read) is type(value)


@given(st.dictionaries(st.text(), TREES, max_size=4).filter(bool))
def test_what_is_written_reads_back_equal(data: dict[str, Any]) -> None:
    assert parse_document(write_yaml(data), "written").data == data


def test_small_floats_survive() -> None:
    assert write_yaml({"learning_rate": 1e-4, "epsilon": 1e-9}) == "learning_rate: 0.0001\nepsilon: 1.0e-09\n"


def test_what_is_written_is_in_block_style_and_in_order() -> None:
    data = {"task": "copy", "on": "here", "betas": [0.9, 0.98], "track": {"tags": [], "wandb": None}, "about": "1e-4"}
    assert write_yaml(data) == (
        "task: copy\non: here\nbetas:\n  - 0.9\n  - 0.98\ntrack:\n  tags: []\n  wandb: null\nabout: '1e-4'\n"
    )


def test_each_key_and_each_entry_knows_its_line() -> None:
    document = parse_document("a:\n  b: 1\n  c:\n    - 2\n    - d: 3\n", "r.yaml")
    assert document.origins == {
        ("a",): Origin("r.yaml", 1),
        ("a", "b"): Origin("r.yaml", 2),
        ("a", "c"): Origin("r.yaml", 3),
        ("a", "c", 0): Origin("r.yaml", 4),
        ("a", "c", 1): Origin("r.yaml", 5),
        ("a", "c", 1, "d"): Origin("r.yaml", 5),
    }
    assert document.where(("a", "c", 1, "missing")) == Origin("r.yaml", 5)
    assert document.where(("elsewhere",)) == Origin("r.yaml")


def test_an_anchor_repeats_a_value() -> None:
    assert parse_document("a: &size {width: 3}\nb: *size\n", "r.yaml").data == {"a": {"width": 3}, "b": {"width": 3}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "r.yaml: is empty; a recipe names at least its task, such as task: translation"),
        ("# nothing\n", "r.yaml: is empty; a recipe names at least its task, such as task: translation"),
        ("\n- a\n", "r.yaml:2: expected a mapping of keys to values, got a list; start with task: NAME"),
        ("abc", "r.yaml:1: expected a mapping of keys to values, got a single value; start with task: NAME"),
        ("a: 1\na: 2\n", "r.yaml:2: a: given twice (first in line 1); remove one"),
        ("a:\n  b: 1\n  b: 2\n", "r.yaml:3: a.b: given twice (first in line 2); remove one"),
        ("1: 2\n", "r.yaml:1: 1: this key is not a string; put it in quotes"),
        ("? [a]\n: 1\n", "r.yaml:1: a list or a mapping can't be a key; write a plain word"),
        ("a: &x {b: 1}\n<<: *x\n", "r.yaml:2: <<: merge keys are not read; write the keys out"),
        ("a: !!python/name:os.abort\n",
         "r.yaml:1: a: the tag !!python/name:os.abort is not allowed; write a plain value"),
        ("a: !!python/object/apply:os.abort []\n",
         "r.yaml:1: a: the tag !!python/object/apply:os.abort is not allowed; write a plain value"),
        ("a: !mine {b: 1}\n", "r.yaml:1: a: the tag !mine is not allowed; write a plain value"),
        ("a: !!set {b}\n", "r.yaml:1: a: the tag !!set is not allowed; write a plain value"),
        ("a: !!int abc\n", "r.yaml:1: a: 'abc' does not fit the tag !!int; remove the tag"),
        ("a: 9223372036854775808\n", "r.yaml:1: a: too large; whole numbers end at 9223372036854775807"),
        (f"a: {'9' * 5000}\n", "r.yaml:1: a: too large; whole numbers end at 9223372036854775807"),
        ('a: "\\ud800"\n', "r.yaml:1: a: holds half a surrogate pair; write the character itself"),
        ("a: b: c\n",
         "r.yaml:1: not valid YAML (mapping values are not allowed here); check the indentation and the quotes there"),
        ("a:\n\t- b\n", "r.yaml:2: not valid YAML (a tab); indent with spaces"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: a second document starts here; keep one, without ---"),
        ("a: 1\nb: \x07\n", "r.yaml:2: not valid YAML (the character '\\x07'); remove it"),
        ("a: &x [*x, *x]\n", "r.yaml:1: nested more than 50 levels deep; make it flatter"),
        (f"a: {'[' * 5000}", "r.yaml:1: nested more than 50 levels deep; make it flatter"),
    ],
)  # fmt: skip
def test_what_is_not_plain_yaml_is_refused_in_one_line(text: str, problem: str) -> None:
    assert problems_of(text)[0] == problem


def test_aliases_that_multiply_are_cut_off() -> None:
    text = "a0: [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
    text = text.replace("a0: [1]", "a0: &a0 [1]")
    assert problems_of(text) == ["r.yaml:1: more than 100,000 values; write fewer, or use fewer aliases"]


def test_all_problems_are_told_at_once() -> None:
    assert problems_of("a: 1\na: 2\n3: 4\nb: !x 5\n") == [
        "r.yaml:2: a: given twice (first in line 1); remove one",
        "r.yaml:3: 3: this key is not a string; put it in quotes",
        "r.yaml:4: b: the tag !x is not allowed; write a plain value",
    ]


def test_what_could_not_be_read_is_known_until_something_else_is_said_there() -> None:
    document = parse_document("a: {b: !x 5, c: 1}\nd: 1\nd: 2\n", "r.yaml")
    assert document.data == {"a": {"b": None, "c": 1}, "d": 1}
    assert [document.is_unread(path) for path in [("a", "b"), ("a", "b", 0), ("a",), ("d",)]] == [
        True,
        True,
        False,
        False,
    ]
    document.forget(("a",))
    assert not document.is_unread(("a", "b"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.yaml").write_bytes("task: a\nabout: caf\u00e9\n".encode("latin-1"))
    Path("folder.yaml").mkdir()
    expected = {
        "none.yaml": "none.yaml: no such file; `footplate recipes` lists the recipes that can be given by name",
        "folder.yaml": "folder.yaml: is a folder; give the path of a YAML file",
        "latin.yaml": "latin.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8",
        "x" * 300 + ".yaml": "x" * 300 + ".yaml: can't be read (File name too long)",
        "a\0.yaml": "'a\\x00.yaml': can't be read (embedded null byte)",
    }
    for name, problem in expected.items():
        with pytest.raises(ConfigError) as caught:
            read_document(Path(name))
        assert str(caught.value) == problem


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbftask: a\n")
    assert read_document(path).data == {"task": "a"}
