"""Optimizers: one configuration for each kind, and `build_optimizer`.

In the formulas w is a parameter, g its gradient, l the learning rate of the update (the schedule's factor is already in
it), and products, quotients and roots are taken element by element. *L2* decay adds `weight_decay * w` to g before
anything else; *decoupled* decay shrinks w by `l * weight_decay * w` beside the step.

On the CPU torch's fused kernels take a third of the time of its loops (Adam on 60 matrices of 256 x 256: 2.5 ms against
8.2 ms), hence `fused=True` where there is one.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import nn

from footplate.rmsprop import RootMeanSquare
from footplate.section import NonNegative, Positive, Probability, Section


class _Descent(Section):
    """What every optimizer can be told."""

    kind: str
    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    """How strongly weights are drawn to zero: L2, except for `adamw` and `radam`, where it is decoupled."""
    no_decay: bool = True
    """Leave biases, norms and parameters of fewer than two dimensions (as ReZero's alphas are) out of the decay."""

    @model_validator(mode="after")
    def _what_decays_has_a_decay(self) -> Self:
        if not self.no_decay and self.weight_decay == 0:
            raise ValueError("no_decay: false without weight_decay does nothing; set weight_decay above 0")
        return self


class Sgd(_Descent):
    """Stochastic gradient descent: v <- momentum v + g; w <- w - l v, or w - l (g + momentum v) with Nesterov.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", eq. 1-4, in the
    form that applies the learning rate to the velocity when it is used, so that a schedule acts at once.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.1
    """The step's size; the schedule multiplies it."""
    momentum: Probability = 0.0
    """The share of the velocity that is kept; 0 is plain gradient descent."""
    nesterov: bool = False
    """Look ahead along the velocity (Nesterov's accelerated gradient)."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov without momentum does nothing; set momentum above 0 or nesterov to false")
        return self


class Adadelta(_Descent):
    """Adadelta: d = g sqrt(E[d^2] + epsilon) / sqrt(E[g^2] + epsilon); w <- w - l d. It needs no learning rate.

    Source: Zeiler 2012, "ADADELTA: an adaptive learning rate method", algorithm 1 (l = 1); the defaults are those of
    Bahdanau et al. 2014, section 4.2.
    """

    kind: Literal["adadelta"] = "adadelta"
    learning_rate: Positive = 1.0
    """1 is the paper's method."""
    rho: Probability = 0.95
    """The decay of both running averages."""
    epsilon: Positive = 1e-6
    """Added inside both roots: sets the size of the first steps."""


class RmsProp(_Descent):
    """RMSProp: s <- decay s + (1 - decay) g^2; w <- w - l g / sqrt(s + epsilon), or / (sqrt(s) + epsilon).

    With momentum v <- momentum v + g / root; w <- w - l v. Source: Tieleman & Hinton 2012, "Lecture 6.5"; Mnih et al.
    2016, "Asynchronous methods for deep reinforcement learning", section 4 and eq. S2-S3, has epsilon inside the root.
    """

    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: Positive = 0.001
    """The step's size; the schedule multiplies it."""
    decay: Probability = 0.99
    """The share of the mean square that is kept."""
    epsilon: Positive = 1e-8
    """What keeps the root away from zero. At 0.1, as reinforcement learning has it, its place is a factor of three."""
    epsilon_inside_root: bool = False
    """sqrt(s + epsilon) (Mnih 2016, TensorFlow) instead of sqrt(s) + epsilon (PyTorch)."""
    initial_statistic: Literal[0, 1] = 0
    """What the mean square starts at: 1 (TensorFlow) makes the first steps small, 0 makes them large."""
    momentum: Probability = 0.0
    """The share of the velocity that is kept."""


class Adam(_Descent):
    """Adam: m, s running means of g and g^2, freed of their bias; w <- w - l m / (sqrt(s) + epsilon). Decay is L2.

    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """

    kind: Literal["adam"] = "adam"
    learning_rate: Positive = 0.001
    """The step's size; the schedule multiplies it."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """The decay of the running mean of the gradient and of its square; Vaswani 2017 has (0.9, 0.98)."""
    epsilon: Positive = 1e-8
    """Worth tuning: large values turn Adam towards momentum, 1e-9 is Vaswani 2017."""


class AdamW(_Descent):
    """Adam with decoupled decay: w <- w - l weight_decay w - l m / (sqrt(s) + epsilon).

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2, where our l is their
    schedule times their alpha, and the decay follows both.
    """

    kind: Literal["adamw"] = "adamw"
    learning_rate: Positive = 0.001
    """The step's size; the schedule multiplies it."""
    weight_decay: NonNegative = 0.01
    """How strongly weights are drawn to zero, beside the step and in proportion to the learning rate."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """The decay of the running mean of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """What keeps the root away from zero."""


class RAdam(_Descent):
    """Adam whose adaptive rate is rectified while its variance is large. Decay is decoupled.

    Source: Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", algorithm 2.
    """

    kind: Literal["radam"] = "radam"
    learning_rate: Positive = 0.001
    """The step's size; the schedule multiplies it."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """The decay of the running mean of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """What keeps the root away from zero."""


Optimizer = Annotated[Sgd | Adadelta | RmsProp | Adam | AdamW | RAdam, Field(discriminator="kind")]

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@runtime_checkable
class SaysWhatDecays(Protocol):
    """A module of which other parameters decay than those with two dimensions and more."""

    def decaying(self) -> Sequence[nn.Parameter]:
        """Those of its own that do."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...


def decay_groups(config: Optimizer, module: nn.Module) -> list[dict[str, Any]]:
    """The module's parameters in one group, or in two: those that decay and those that do not.

    A parameter that is tied to several places stands there once: one slot of state, one step, and one decay.
    """
    parameters = list(module.parameters())
    if config.weight_decay == 0 or not config.no_decay:
        return [{"params": parameters, "weight_decay": config.weight_decay}]
    exempt = {id(parameter) for part in module.modules() if isinstance(part, _NORMS) for parameter in part.parameters()}
    exempt |= {id(parameter) for name, parameter in module.named_parameters() if name.split(".")[-1] == "bias"}
    exempt |= {id(parameter) for parameter in parameters if parameter.ndim < 2}
    for part in module.modules():
        if isinstance(part, SaysWhatDecays):
            exempt |= {id(parameter) for parameter in part.parameters(recurse=False)}
            exempt -= {id(parameter) for parameter in part.decaying()}
    decayed = [parameter for parameter in parameters if id(parameter) not in exempt]
    spared = [parameter for parameter in parameters if id(parameter) in exempt]
    groups = [(decayed, config.weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def build_optimizer(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters of `module`, which already lies on its device and in its precision.

    Frozen parameters are among them, so that thawing them later changes nothing in the saved state; without a gradient
    they are left alone.
    """
    groups = decay_groups(config, module)
    on = {parameter.device.type for parameter in module.parameters()}
    # torch refuses fused=False together with foreach=None on some devices; None lets it choose.
    fused = True if on <= {"cpu", "cuda"} else None
    rate = config.learning_rate
    match config:
        case Sgd():
            return _plain(torch.optim.SGD)(
                groups, rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
            )
        case Adadelta():
            return _plain(torch.optim.Adadelta)(groups, rate, rho=config.rho, eps=config.epsilon)
        case RmsProp():
            return _plain(RootMeanSquare)(
                groups,
                rate,
                decay=config.decay,
                epsilon=config.epsilon,
                epsilon_inside_root=config.epsilon_inside_root,
                initial_statistic=config.initial_statistic,
                momentum=config.momentum,
            )
        case Adam():
            return _plain(torch.optim.Adam)(groups, rate, betas=config.betas, eps=config.epsilon, fused=fused)
        case AdamW():
            return _plain(torch.optim.AdamW)(groups, rate, betas=config.betas, eps=config.epsilon, fused=fused)
        case RAdam():
            return _plain(torch.optim.RAdam)(
                groups, rate, betas=config.betas, eps=config.epsilon, decoupled_weight_decay=True
            )


def _plain(kind: type[Kind]) -> type[Kind]:
    """The optimizer without the decorators by which it would import all of torch's compiler: a second at every start.

    They keep a compiled program from tracing into the optimizer; here it is never part of one.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
