"""Pictures of a policy at work: what it makes of each step of an episode, and how returns are spread.

Axes: T step, A action (or axis of a continuous one), N the one environment, P number that a network puts out for a
policy, O all axes of an observation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from footplate.errors import FootplateError
from footplate.step import Picture
from footplate_rl.distributions import Categorical, Gaussian
from footplate_rl.environments import Observations
from footplate_rl.policy import Policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 110


class Thoughts:
    """What a policy makes of the steps of one episode, whoever plays it."""

    def __init__(self, policy: Policy, meanings: Sequence[str] = ()) -> None:
        """`meanings` is a word for each discrete action, or none."""
        self._policy, self._meanings = policy.fresh(), meanings
        self._outputs: list[NDArray[np.float64]] = []
        self.values: list[float] = []
        """V(s), or that of the best action, of each step."""
        self._actions: list[Any] = []

    def add(self, observations_NO: Observations, action: Any) -> None:
        """The next step of the episode: what is seen, and what is done."""
        begins_N = np.full(1, not self.values)
        outputs_NP, values_N = self._policy.look(observations_NO, begins_N)
        self._outputs.append(outputs_NP[0].double().cpu().numpy())
        self.values.append(float(values_N[0]))
        self._actions.append(action)

    def draw(self, title: str) -> Picture:
        """Above, the value of the state or, where the network knows it, of each action. Below, the policy: the
        probability of each action, the mean and deviation of each axis, or which action was taken."""
        figure = _figure(9, 5)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        outputs_TP = np.stack(self._outputs)
        above.set_title(title)
        if isinstance(self._policy.sampler, Categorical):
            self._draw_state_values(above)
            exponentials_TA = np.exp(outputs_TP - outputs_TP.max(axis=1, keepdims=True))
            shares_TA = exponentials_TA / exponentials_TA.sum(axis=1, keepdims=True)
            below.stackplot(range(len(shares_TA)), shares_TA.T, labels=self._names(shares_TA.shape[1]), step="mid")
            below.set_ylim(0, 1)
            below.set_ylabel("probability")
        elif isinstance(self._policy.sampler, Gaussian):
            self._draw_state_values(above)
            means_TA, log_deviations_TA = np.split(outputs_TP, 2, axis=1)
            for axis in range(means_TA.shape[1]):
                mean_T, deviation_T = means_TA[:, axis], np.exp(log_deviations_TA[:, axis])
                below.plot(mean_T, label=f"axis {axis}")
                below.fill_between(range(len(mean_T)), mean_T - deviation_T, mean_T + deviation_T, alpha=0.2)
            below.set_ylabel("mean, deviation")
        else:
            for action, name in enumerate(self._names(outputs_TP.shape[1])):
                above.plot(outputs_TP[:, action], label=name, linewidth=1)
            above.set_ylabel("Q(s, a)")
            below.scatter(range(len(self._actions)), self._actions, s=4)
            below.set_yticks(range(outputs_TP.shape[1]), self._names(outputs_TP.shape[1]))
            below.set_ylabel("taken")
        below.set_xlabel("step")
        for axes in (above, below):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
        return _drawn(figure)

    def _draw_state_values(self, axes: "Axes") -> None:
        axes.plot(self.values)
        axes.set_ylabel("V(s)")

    def _names(self, count: int) -> list[str]:
        return list(self._meanings) or [f"action {number}" for number in range(count)]


def draw_returns(returns: Sequence[float], title: str) -> Picture:
    """A histogram of the returns of an evaluation, with their mean."""
    figure = _figure(6, 3.5)
    axes = figure.subplots()
    axes.hist(returns, bins="auto" if len(set(returns)) > 1 else 1)
    axes.axvline(float(np.mean(returns)), color="black", linestyle="--", label=f"mean {np.mean(returns):.4g}")
    axes.set_title(title)
    axes.set_xlabel("return")
    axes.set_ylabel("episodes")
    axes.legend(frameon=False)
    return _drawn(figure)


def require_that_it_can_be_saved(path: Path) -> None:
    """Raise FootplateError where `save_picture` would, before anything is drawn."""
    if path.suffix != ".png":
        raise FootplateError(f"--values: {path}: only .png files are written; call it {path.with_suffix('.png').name}")
    if not path.parent.is_dir():
        raise FootplateError(f"--values: {path}: {path.parent} is no folder; make it first")


def save_picture(picture: Picture, path: Path) -> None:
    """Write the PNG. Raises FootplateError where that fails."""
    from matplotlib.image import imsave

    try:
        imsave(path, picture.pixels)
    except OSError as error:
        raise FootplateError(f"--values: {path}: cannot be written ({error.strerror}); choose another place") from error


def _figure(width_inches: float, height_inches: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: "Figure") -> Picture:
    canvas: Any = figure.canvas
    canvas.draw()
    return Picture(np.asarray(canvas.buffer_rgba())[..., :3].copy())
