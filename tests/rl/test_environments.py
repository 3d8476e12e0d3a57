import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from footplate.errors import FootplateError, TrainingError
from footplate.job import load_job
from footplate_rl import gymnasium_vector
from footplate_rl.actions import checked_actions
from footplate_rl.environments import (
    Environments,
    GymnasiumConfig,
    OwnConfig,
    Seeds,
    SingleConfig,
    Transitions,
    make_environments,
)
from footplate_rl.networks import MLP, build_network, scaled


@pytest.fixture(autouse=True)
def _broken_environments_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def misbehaving(what: str, **settings: Any) -> OwnConfig:
    return OwnConfig(kind="own", name="broken_environments.Misbehaving", arguments={"what": what}, **settings)


def play(environments: Environments, number: int, steps: int = 40) -> list[Transitions]:
    environments.reset(number)
    assert isinstance(environments.action_space, Discrete)
    actions = np.random.default_rng(7).integers(environments.action_space.n, size=(steps, environments.count))
    return [environments.step(actions_N) for actions_N in actions]


def observations_of(steps: list[Transitions]) -> np.ndarray[Any, Any]:
    return np.stack([step.observations_NO for step in steps])


CARTPOLE = GymnasiumConfig(id="CartPole-v1")


def test_a_reset_makes_all_that_follows_a_function_of_seed_and_number() -> None:
    environments = make_environments(CARTPOLE, 3, seed=4)
    first, other, again = (observations_of(play(environments, number)) for number in (0, 1, 0))
    fresh = observations_of(play(make_environments(CARTPOLE, 3, seed=4), 0))
    assert (first == again).all()
    assert (first == fresh).all()
    assert not (first == other).any(axis=(0, 2)).any()
    assert not (first == observations_of(play(make_environments(CARTPOLE, 3, seed=5), 0))).all()


def test_an_environment_is_the_same_whoever_owns_it() -> None:
    whole = make_environments(CARTPOLE, 4, seed=1).reset(2)
    halves = [make_environments(CARTPOLE, 2, first_index=first, seed=1).reset(2) for first in (0, 2)]
    assert (whole == np.concatenate(halves)).all()
    assert len(np.unique(whole, axis=0)) == 4


def test_evaluation_has_seeds_of_its_own() -> None:
    assert Seeds(1, "evaluation", range(3)).at(0) != Seeds(1, "environments", range(3)).at(0)


def test_an_episode_in_progress_is_forgotten_by_a_reset() -> None:
    environments = make_environments(GymnasiumConfig(id="footplate/Catch-v0"), 1)
    environments.reset(0)
    for _ in range(5):
        environments.step(np.array([1]))
    environments.reset(1)
    episodes = [episode for _ in range(9) for episode in environments.step(np.array([1])).episodes]
    assert [(episode.environment, episode.steps, abs(episode.total_reward)) for episode in episodes] == [(0, 9, 1.0)]


def test_what_was_returned_is_never_written_over() -> None:
    environments = make_environments(CARTPOLE, 2)
    first = environments.reset(0)
    kept = first.copy()
    play(environments, 0, steps=3)
    assert (first == kept).all()


def test_an_own_environment_is_found_by_its_dotted_name() -> None:
    config = OwnConfig(kind="own", name="broken_environments.Misbehaving", arguments={"scale": 2.0})
    step = play(make_environments(config, 2), 0, steps=1)[0]
    assert step.rewards_N.tolist() == [2.0, 2.0]


def test_a_step_of_4_frames_counts_as_4() -> None:
    assert make_environments(GymnasiumConfig(id="CartPole-v1", frame_skip=4), 1).frames_per_step == 4


def test_pictures_can_be_drawn_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    environments = make_environments(CARTPOLE, 2, render=True)
    environments.reset(0)
    before = environments.render()
    for _ in range(5):
        environments.step(np.array([1, 0]))
    after = environments.render()
    assert [picture.shape for picture in after] == [(400, 600, 3)] * 2
    assert all(picture.dtype == np.uint8 and picture.min() < picture.max() for picture in after)
    assert (before[0] != after[0]).any()
    environments.close()


# What the user can mend

BROKEN = Path(__file__).parent / "broken_environments.py"
WRAPPER = Path(gymnasium_vector.__file__)


def line_of(text: str, path: Path = BROKEN) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            GymnasiumConfig(id="CartPol-v1"),
            "environment.id: gymnasium knows no environment CartPol-v1; did you mean CartPole-v1?",
        ),
        (
            GymnasiumConfig(id="footplate/Catc-v0"),
            "environment.id: gymnasium knows no environment footplate/Catc-v0; did you mean footplate/Catch-v0?",
        ),
        (
            GymnasiumConfig(id="Zzzzz-v9"),
            "environment.id: gymnasium knows no environment Zzzzz-v9; see gymnasium.registry for those that are "
            "installed",
        ),
        (
            GymnasiumConfig(id="no_such_module:Thing-v0"),
            "environment.id: no_such_module:Thing-v0: No module named 'no_such_module'; install it or correct the id",
        ),
        (
            GymnasiumConfig(id="footplate/Catch-v0", arguments={"raws": 5}),
            "environment.arguments: footplate/Catch-v0 refuses them: Catch.__init__() got an unexpected keyword "
            "argument 'raws'",
        ),
        (
            OwnConfig(kind="own", name="broken_environments.Behaving"),
            "environment.name: there is no broken_environments.Behaving (module 'broken_environments' has no attribute "
            "'Behaving'); write package.module.Class of an importable module",
        ),
        (
            OwnConfig(kind="own", name="no_such_module.Thing"),
            "environment.name: there is no no_such_module.Thing (No module named 'no_such_module'); "
            "write package.module.Class of an importable module",
        ),
        (
            OwnConfig(kind="own", name="Thing"),
            "environment.name: there is no Thing (Empty module name); write package.module.Class of an importable "
            "module",
        ),
        (
            OwnConfig(kind="own", name="math.pi"),
            "environment.name: math.pi is no class or function; write package.module.Class",
        ),
        (
            OwnConfig(kind="own", name="broken_environments.Misbehaving", arguments={"wat": 5}),
            "environment.arguments: broken_environments.Misbehaving refuses them: Misbehaving.__init__() got an "
            "unexpected keyword argument 'wat'",
        ),
        (
            OwnConfig(kind="own", name="broken_environments.Misbehaving", arguments={"what": "raise when made"}),
            "environment: broken_environments.Misbehaving can't be made: RuntimeError: no licence found "
            f"(broken_environments.py, line {line_of('raise RuntimeError')}); mend it",
        ),
        (
            OwnConfig(kind="own", name="broken_environments.Spaceless"),
            "environment: broken_environments.Spaceless makes a Spaceless without observation_space; "
            "make a gymnasium.Env that sets its spaces in __init__",
        ),
        (
            OwnConfig(kind="own", name="broken_environments.nothing"),
            "environment: broken_environments.nothing makes a NoneType without observation_space; "
            "make a gymnasium.Env that sets its spaces in __init__",
        ),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_line(config: GymnasiumConfig | OwnConfig, message: str) -> None:
    with pytest.raises(FootplateError) as refused:
        make_environments(config, 2)
    assert str(refused.value) == message


def odd(what: str, **rest: Any) -> OwnConfig:
    return OwnConfig(kind="own", name="broken_environments.Odd", arguments={"what": what}, **rest)


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize(
    "what", ["tells of what may be none", "tells of more and more", "tells of many types", "tells nothing"]
)
def test_what_an_environment_tells_besides_is_left_alone(what: str, mode: Any) -> None:
    with closing(make_environments(odd(what, autoreset=mode), 2)) as environments:
        environments.reset(0)
        steps = [environments.step(np.array([0, 1])) for _ in range(7)]
    assert sum(len(step.episodes) for step in steps) == 4


@pytest.mark.parametrize(
    ("what", "problem"), [("pays nothing", "TypeError"), ("pays twice", "TypeError"), ("exit", "SystemExit (")]
)
def test_what_pays_no_number_or_exits_ends_the_run_in_one_line(what: str, problem: str) -> None:
    with closing(make_environments(odd(what), 2)) as environments:
        environments.reset(0)
        with pytest.raises(TrainingError) as failed:
            environments.step(np.array([0, 1]))
    assert str(failed.value).startswith(f"environment 0: step raised {problem}")
    assert str(failed.value).endswith("; mend it, and `footplate resume` goes on from the last checkpoint")


def test_one_that_can_not_be_closed_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    environments = make_environments(odd("can't close"), 2)
    environments.reset(0)
    environments.close()
    assert caplog.messages == [
        f"environment {number}: close raised RuntimeError: it is stuck (broken_environments.py, line "
        f"{line_of('it is stuck')}); nothing else is lost"
        for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("can't draw", f"OSError: no display (broken_environments.py, line {line_of('no display')})"),
        ("draws nothing", "TypeError: "),
    ],
)
def test_one_that_can_not_be_drawn_is_one_line(what: str, problem: str) -> None:
    with closing(make_environments(odd(what), 1, render=True)) as environments:
        environments.reset(0)
        with pytest.raises(TrainingError) as failed:
            environments.render()
    assert str(failed.value).startswith(f"environment 0: render raised {problem}")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "all different",
            "environment: broken_environments.Odd makes environments with different spaces; make all alike",
        ),
        (
            "empty",
            "environment: broken_environments.Odd shows Box([], [], (0,), float32), which holds no number; show at "
            "least one",
        ),
    ],
)
def test_spaces_that_nothing_can_take_are_one_line(what: str, message: str) -> None:
    with pytest.raises(FootplateError) as refused:
        make_environments(odd(what), 2)
    assert str(refused.value) == message


@pytest.mark.parametrize("what", ["scalar", "bytes"])
def test_what_is_no_image_reaches_the_network_as_it_is(what: str) -> None:
    with closing(make_environments(odd(what), 2)) as environments:
        observations = environments.reset(0)
        assert observations.dtype == np.float32
        assert observations.tolist() == ([[1.0]] if what == "scalar" else [[1.0, 1.0, 1.0]]) * 2
        network = build_network(MLP(), environments.observation_space, environments.action_space)
        assert torch.equal(scaled(torch.from_numpy(observations), torch.float32), torch.from_numpy(observations))
        assert network(torch.from_numpy(observations))[0].shape == (2, 2)


def test_an_environment_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(FootplateError) as refused:
        make_environments(GymnasiumConfig(id="LunarLander-v3"), 1)
    assert str(refused.value).startswith("environment.id: LunarLander-v3 needs a package that is not installed: Box2D")


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 2]), "environment 7: there is no action 2; the actions are 0 to 1"),
        (np.array([-1, 0]), "environment 6: there is no action -1; the actions are 0 to 1"),
        (np.array([0]), "environment: actions have shape (1,); 2 environments take (2,)"),
        (np.array([0.0, 1.0]), "environment: actions are float64; discrete actions are integers"),
    ],
)
def test_what_is_no_action_is_refused_before_the_environment_sees_it(actions: Any, message: str) -> None:
    environments = make_environments(CARTPOLE, 2, first_index=6)
    environments.reset(0)
    with pytest.raises(FootplateError) as refused:
        environments.step(actions)
    assert str(refused.value) == message


def test_continuous_actions_are_clipped_to_their_bounds() -> None:
    space = Box(-2.0, 2.0, (1,), np.float32)
    assert checked_actions(np.array([[5.0], [-0.5]]), space, range(2)).tolist() == [[2.0], [-0.5]]
    with pytest.raises(FootplateError) as refused:
        checked_actions(np.array([[1.0], [np.nan]]), space, range(3, 5))
    assert str(refused.value) == "environment 4: the action [nan] is not finite"


ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"
FAILURES = [
    (
        "raise",
        "environment 0: step raised ZeroDivisionError: it broke "
        f"(broken_environments.py, line {line_of('raise ZeroDivisionError')}); {ADVICE}",
    ),
    (
        "raise in reset",
        "environment 0: reset raised ValueError: no start "
        f"(broken_environments.py, line {line_of('raise ValueError')}); {ADVICE}",
    ),
    (
        "nothing in reset",
        "environment 0: reset raised TypeError: cannot unpack non-iterable NoneType object "
        f"(gymnasium_vector.py, line {line_of('= self.env.reset', WRAPPER)}); {ADVICE}",
    ),
    (
        "another shape",
        "environment 0: step raised ValueError: an observation of shape (3,) where the space has (2,) "
        f"(gymnasium_vector.py, line {line_of('an observation of shape', WRAPPER)}); {ADVICE}",
    ),
    ("nan reward", f"environment 0: its reward is not finite; {ADVICE}"),
    ("nan observation", f"environment 0: its observation is not finite; {ADVICE}"),
]


@pytest.mark.parametrize(("what", "message"), FAILURES)
def test_an_environment_that_fails_ends_the_run_in_one_line(what: str, message: str) -> None:
    with pytest.raises(TrainingError) as failed:
        play(make_environments(misbehaving(what), 2), 0)
    assert str(failed.value) == message


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_the_last_observation_of_an_episode_is_looked_at_too(autoreset: Any) -> None:
    name, arguments = "broken_environments.Countdown", {"what": "nan at the end"}
    environments = make_environments(OwnConfig(kind="own", name=name, arguments=arguments, autoreset=autoreset), 2)
    assert len(play(environments, 0, steps=3)) == 3
    with pytest.raises(TrainingError) as failed:
        play(environments, 0, steps=4)
    assert str(failed.value) == f"environment 0: its observation is not finite; {ADVICE}"


def test_the_exception_of_an_environment_in_this_process_is_kept_for_its_traceback() -> None:
    with pytest.raises(TrainingError) as failed:
        play(make_environments(misbehaving("raise"), 1), 0)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_preparation_is_documented_for_every_field() -> None:
    for config in (SingleConfig, GymnasiumConfig, OwnConfig):
        assert all(field.description for name, field in config.model_fields.items() if name != "kind")


@pytest.mark.parametrize("task", ["paac", "ppo", "dqn"])
def test_under_debug_breakpoints_in_environments_stop(task: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    environment = "{kind: gymnasium, id: footplate/Catch-v0, processes: true, timeout_seconds: 5}"
    recipe.write_text(f"task: {task}\nnetwork: {{kind: mlp}}\nenvironment: {environment}\n")
    assert load_job(recipe).config.environment.processes  # type: ignore[attr-defined]
    assert not load_job(recipe, debug=True).config.environment.processes  # type: ignore[attr-defined]
