"""SCAN: simplified navigation commands and the actions they mean, made from the published grammar.

    C -> S and S | S after S | S         [x and y] = [x] [y]           [x after y] = [y] [x]
    S -> V twice | V thrice | V          [x twice] = [x] [x]           [x thrice] = [x] [x] [x]
    V -> W opposite T | W around T       [w opposite left] = LEFT LEFT [w]
    V -> W T | U                         [w around left] = LEFT [w] LEFT [w] LEFT [w] LEFT [w]
    W -> U | turn                        [w left] = LEFT [w]           [turn] = nothing besides the turn
    U -> walk | look | run | jump        [walk] = WALK, and so on
    T -> left | right

Source: Lake & Baroni 2018, "Generalization without systematicity", supplementary figures 6 (phrases) and 7 (meanings);
the figures' D is W T here, and their `D[1] opposite D[2]` is W opposite T.
"""

from typing import Literal

from footplate.streams import numpy_stream

Split = Literal["simple", "length", "addprim_jump"]
Pair = tuple[str, str]

LONGEST_TRAINED = 22
"""The `length` split trains on what takes at most this many actions (section 4.2 of the paper)."""
JUMP_SHARE = 0.1
"""The `addprim_jump` split repeats `jump` until it fills about this share of the training set (section 4.3)."""


def scan_commands() -> dict[str, str]:
    """All 20,910 commands with their actions, in the order of the grammar.

    >>> commands = scan_commands()
    >>> len(commands)
    20910
    >>> commands["jump opposite left after walk around left"]
    'I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK I_TURN_LEFT I_TURN_LEFT I_JUMP'
    """
    phrases: dict[str, list[str]] = {}
    for command, actions in _verb_phrases().items():
        phrases[command] = actions
        phrases[f"{command} twice"] = actions * 2
        phrases[f"{command} thrice"] = actions * 3
    sentences = dict(phrases)
    for first, first_actions in phrases.items():
        for second, second_actions in phrases.items():
            sentences[f"{first} and {second}"] = first_actions + second_actions
            sentences[f"{first} after {second}"] = second_actions + first_actions
    return {command: " ".join(actions) for command, actions in sentences.items()}


def scan_split(split: Split) -> tuple[list[Pair], list[Pair]]:
    """The pairs (command, actions) to train on and to test on.

    `length` and `addprim_jump` follow the paper's rules and equal the published files as sets. The published `simple`
    is a random 80/20 division that no rule yields: this one is another such division, the same on every machine. Only
    the published files, read by path, give scores that may stand beside the literature's.
    """
    pairs = list(scan_commands().items())
    if split == "length":
        short = [pair for pair in pairs if len(pair[1].split()) <= LONGEST_TRAINED]
        return short, [pair for pair in pairs if len(pair[1].split()) > LONGEST_TRAINED]
    if split == "addprim_jump":
        composed = [pair for pair in pairs if "jump" in pair[0].split() and pair[0] != "jump"]
        known = [pair for pair in pairs if "jump" not in pair[0].split()]
        repeats = round(len(known) * JUMP_SHARE / (1 - JUMP_SHARE))
        return known + [("jump", "I_JUMP")] * repeats, composed
    order = numpy_stream(0, "scan/simple").permutation(len(pairs))
    cut = len(pairs) * 4 // 5
    return [pairs[row] for row in order[:cut]], [pairs[row] for row in order[cut:]]


def _verb_phrases() -> dict[str, list[str]]:
    verbs = {"walk": ["I_WALK"], "look": ["I_LOOK"], "run": ["I_RUN"], "jump": ["I_JUMP"]}
    phrases = dict(verbs)
    for verb, action in {**verbs, "turn": []}.items():
        for side in ("left", "right"):
            turn = [f"I_TURN_{side.upper()}"]
            phrases[f"{verb} {side}"] = turn + action
            phrases[f"{verb} opposite {side}"] = turn + turn + action
            phrases[f"{verb} around {side}"] = (turn + action) * 4
    return phrases
