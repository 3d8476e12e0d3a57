"""The actor: who plays the environments, a rollout for each update, and under `lag: 1` beside the learner."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from functools import partial

import torch

from footplate.context import Context
from footplate_rl.distributions import distribution_of
from footplate_rl.groups import Group
from footplate_rl.networks import ActorCritic
from footplate_rl.rollout import Rollout


class Actor:
    """Plays the groups of this rank. Which parameters play follows from where it is called, never from time.

    `rollout` alone plays when it is asked to, under the network as it stands. After `start` it hands over what was
    played meanwhile, in a thread, under a copy of the parameters that `start` took: the caller may change the network
    at once.
    """

    def __init__(
        self, groups: Sequence[Group], steps: int, environments: int, share: slice, threads: int, context: Context
    ) -> None:
        """A rollout has `steps` steps; this rank has the columns `share` of all `environments`; torch has `threads`."""
        self._groups, self._share, self._context = groups, share, context
        self._threads = threads
        first = groups[0].environments
        distribution = distribution_of(first.action_space)
        self._shape_TNX = (steps, environments, *distribution.shape)
        self._empty_rollout = partial(
            Rollout, steps, share.stop - share.start, first.observation_space, distribution, context
        )
        self._rollouts = [self._empty_rollout()]
        self._snapshot: ActorCritic | None = None
        self._thread = ThreadPoolExecutor(1, "actor")
        self._ahead: Future[Rollout] | None = None

    def reset(self, number: int) -> None:
        """All environments start anew with the seeds of their `number`-th reset; nothing may be under way."""
        assert self._ahead is None
        for group in self._groups:
            group.reset(number)

    def start(self, network: ActorCritic, number: int) -> None:
        """Begin the rollout of this number in a thread; the next `rollout` waits for it."""
        if self._snapshot is None:
            self._snapshot = deepcopy(network)
            self._rollouts.append(self._empty_rollout())
        with torch.no_grad():
            torch._foreach_copy_(list(self._snapshot.parameters()), list(network.parameters()))
        self._rollouts.reverse()  # the caller still learns from the one that was played last
        self._ahead = self._thread.submit(self._play, self._snapshot, number)

    def rollout(self, network: ActorCritic, number: int) -> Rollout:
        """The rollout of this number: the one that was started, else one that is played now.

        It is written over when the next one is played here, or the next but one elsewhere.
        """
        if self._ahead is None:
            return self._play(network, number)
        ahead, self._ahead = self._ahead, None
        return ahead.result()

    def close(self) -> None:
        """Wait until nothing is under way."""
        self._thread.shutdown()

    def _play(self, network: ActorCritic, number: int) -> Rollout:
        uniforms_TNX = self._context.stream("act", number).random(self._shape_TNX)
        # A number of the calling thread's own: a learner beside this one keeps its.
        learning_threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            self._rollouts[0].collect(network, self._groups, uniforms_TNX[:, self._share])
        finally:
            torch.set_num_threads(learning_threads)
        return self._rollouts[0]
