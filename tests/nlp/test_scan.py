"""SCAN from its grammar: by hand, by the paper's counts, and beside the published files."""

from pathlib import Path

import pytest

from footplate_nlp.scan import scan_commands, scan_split

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "scan"


def published(part: str, split: str) -> list[tuple[str, str]]:
    lines = (PUBLISHED / f"tasks_{part}_{split}.txt").read_text().splitlines()
    pairs = [line.removeprefix("IN: ").split(" OUT: ") for line in lines]
    return [(command, actions) for command, actions in pairs]


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


def test_the_grammar_and_the_published_files_agree() -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published files are not at ../shared/data/scan")
    for split in ("length", "addprim_jump"):
        train, test = scan_split(split)  # type: ignore[arg-type]
        assert sorted(published("train", split)) == sorted(train)
        assert sorted(published("test", split)) == sorted(test)
    assert dict(published("train", "simple") + published("test", "simple")) == scan_commands()
