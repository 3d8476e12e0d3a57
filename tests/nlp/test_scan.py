"""SCAN from its grammar: by hand, by the paper's counts, and beside the published files."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import pytest

from footplate_nlp.scan import scan_commands, scan_split

PUBLISHED = {
    "train_length": "7ffb97f45029871c94bede7e723f7a4aa179eb99fe2b977a18283310422c719d",
    "test_length": "3297fd0b676c391f7bc3a7385aa66a7fdf64f6f8e81ad584810c1d4ebd0eaa2c",
    "train_addprim_jump": "0683daacfdce23cf8ed6f5077feda21785e93ac82e0d11363a9280b7b0c6561e",
    "test_addprim_jump": "522454c6280eab957dfc4ea9579ef1d780a716ac34df09619970e1d98822d7e2",
    "simple": "6be4b39bc8bf3a20be810b6991250d0493e608560609db6765dd679e1ed1c98e",
}
"""SHA-256 of the published files `tasks_....txt`, by `LC_ALL=C sort | sha256sum`; `simple` of both its files as one."""


def digest(pairs: Iterable[tuple[str, str]]) -> str:
    """That of a published file with these pairs."""
    lines = sorted(f"IN: {command} OUT: {actions}\n" for command, actions in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "I_JUMP"),
        ("jump left", "I_TURN_LEFT I_JUMP"),
        ("turn left twice", "I_TURN_LEFT I_TURN_LEFT"),
        ("jump thrice", "I_JUMP I_JUMP I_JUMP"),
        ("turn opposite right", "I_TURN_RIGHT I_TURN_RIGHT"),
        ("jump opposite left and walk thrice", "I_TURN_LEFT I_TURN_LEFT I_JUMP I_WALK I_WALK I_WALK"),
        ("jump around right", "I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP"),
        ("walk after run", "I_RUN I_WALK"),
        (
            "look opposite right after turn around left",
            " ".join(["I_TURN_LEFT"] * 4 + ["I_TURN_RIGHT"] * 2 + ["I_LOOK"]),
        ),
    ],
)
def test_commands_mean_what_the_paper_says(command: str, actions: str) -> None:
    assert scan_commands()[command] == actions


def test_the_grammar_makes_20910_commands_of_at_most_9_words_and_48_actions() -> None:
    commands = scan_commands()
    assert len(commands) == 20_910
    assert max(len(command.split()) for command in commands) == 9
    assert max(len(actions.split()) for actions in commands.values()) == 48


def test_the_length_split_trains_on_at_most_22_actions() -> None:
    train, test = scan_split("length")
    assert (len(train), len(test)) == (16_990, 3_920)
    assert max(len(actions.split()) for _, actions in train) == 22
    assert min(len(actions.split()) for _, actions in test) == 24


def test_the_jump_split_shows_jump_only_alone_in_a_tenth_of_training() -> None:
    train, test = scan_split("addprim_jump")
    with_jump = [command for command, _ in train if "jump" in command]
    assert set(with_jump) == {"jump"}
    assert (len(train), len(with_jump), len(test)) == (14_670, 1_467, 7_706)
    assert all("jump" in command for command, _ in test)


def test_the_simple_split_divides_all_commands_four_to_one_and_always_alike() -> None:
    train, test = scan_split("simple")
    assert (len(train), len(test)) == (16_728, 4_182)
    assert {**dict(train), **dict(test)} == scan_commands()
    assert test[0] == ("run thrice and run right twice", "I_RUN I_RUN I_RUN I_TURN_RIGHT I_RUN I_TURN_RIGHT I_RUN")


@pytest.mark.parametrize("split", ["length", "addprim_jump"])
def test_the_splits_hold_what_the_published_files_hold(split: Literal["length", "addprim_jump"]) -> None:
    train, test = scan_split(split)
    assert digest(train) == PUBLISHED[f"train_{split}"]
    assert digest(test) == PUBLISHED[f"test_{split}"]


def test_the_commands_are_those_of_the_published_simple_split() -> None:
    assert digest(scan_commands().items()) == PUBLISHED["simple"]
