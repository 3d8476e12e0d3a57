"""The keys of Ape-X, which its actors, its shards and its learner all read."""

from typing import Self

from pydantic import model_validator

from footplate.section import Count, Positive, WholeNumber
from footplate.update import UpdateConfig
from footplate_rl.environments import AtariConfig
from footplate_rl.evaluation import GreedyEvaluation
from footplate_rl.exploration import Ladder
from footplate_rl.q_learning import HardTarget, Target
from footplate_rl.replay.kinds import ProportionalReplay, ReplayConfig
from footplate_rl.resets import require_evaluations_at_resets
from footplate_rl.value_learning import ValueLearning, require_room


class Config(ValueLearning):
    """The defaults are the paper's where it says them, for Atari, but for the optimizer, `samples_per_insert` and the
    number of actors."""

    steps: Count = 50_000_000
    """The budget: decisions of all actors together (on Atari four emulator frames each), the filling included."""
    actors: Count = 8
    """How many play, each with environments and a copy of the network of its own."""
    environments: Count = 1
    """How many environments each actor plays at once."""
    shards: Count = 1
    """Into how many parts the replay is cut, each filled by as many actors; actor i fills the shard i modulo this."""
    processes: bool = True
    """Each actor and shard in a process of its own; false: one after another in this one, where breakpoints stop."""
    rollout_steps: Count = 50
    """Steps of each environment that an actor hands over at a time."""
    learning_starts_steps: Count = 50_000
    """Transitions, over all shards, before the first update."""
    samples_per_insert: Positive = 8.0
    """How many windows are learnt from for each transition that is stored: it holds learner and actors in step."""
    lead_rollouts: Count = 2
    """How many rollouts of every actor the actors may be ahead of the learner, or the learner of them."""
    batches_ahead: WholeNumber = 2
    """How many batches are drawn while the learner is at an earlier one; the price is priorities so much older."""
    weights_every_updates: Count = 100
    """After how many updates the actors are to play with newer weights."""
    replace_workers: WholeNumber = 10
    """How many actors and shards that die are replaced before the run ends; what one raises ends it at once."""
    exploration: Ladder = Ladder()
    """How often each environment of each actor is played at random."""
    batch_size: Count = 512
    """Windows an update learns from."""
    replay: ReplayConfig = ProportionalReplay(transitions=2_000_000, final_beta=0.4)
    """What all shards together keep, and how each draws."""
    n_step: Count = 3
    """How many rewards a target adds up before it bootstraps."""
    double: bool = True
    """Whether the network chooses the action that the target network judges (double Q-learning)."""
    dueling: bool = True
    """Whether the network's last layers part into a value and advantages."""
    target: Target = HardTarget(every_updates=2_500)
    """How the network that targets are computed with follows."""
    update: UpdateConfig = UpdateConfig(clip_norm=40.0)
    """How gradients become an update."""
    evaluate: GreedyEvaluation = GreedyEvaluation(every_updates=100_000, episodes=30, environments=15)
    """When and how the policy is evaluated; a multiple of `reset_every_updates`. It also happens at the end."""
    reset_every_updates: Count = 20_000
    """After so many updates all actors rest, and all environments start anew. Checkpoints fall only there. Episodes cut
    this way bootstrap from where they stood, and no statistic counts them: make it several times the longest one, in
    steps of each environment."""

    @property
    def updates(self) -> int:
        """How many updates the budget pays for: samples_per_insert windows for each transition after the filling."""
        return int(max(0, self.steps - self.learning_starts_steps) * self.samples_per_insert / self.batch_size)

    @property
    def players(self) -> int:
        """All environments of all actors."""
        return self.actors * self.environments

    @property
    def lead_transitions(self) -> int:
        """How far the actors may be ahead of the learner, or the learner of them."""
        return self.lead_rollouts * self.players * self.rollout_steps

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.updates == 0:
            raise ValueError(
                f"steps: {self.steps} pays for no update: after learning_starts_steps, {self.learning_starts_steps}, a "
                f"batch takes batch_size / samples_per_insert = {self.batch_size / self.samples_per_insert:g} more; "
                "use at least as many"
            )
        if self.actors % self.shards:
            raise ValueError(
                f"shards: {self.actors} actors can't fill {self.shards} shards evenly, and each is drawn from as "
                "often; use a divisor of actors"
            )
        if self.batch_size > (most := self.samples_per_insert * self.lead_transitions):
            raise ValueError(
                f"lead_rollouts: {self.lead_rollouts} lets the learner draw {most:g} windows ahead, less than "
                f"batch_size: {self.batch_size}; use more, or a higher samples_per_insert"
            )
        if not isinstance(self.environment, AtariConfig) and self.environment.processes:
            raise ValueError(
                "environment.processes: actors are processes that play their own environments; set it to false"
            )
        require_room(self, self.players)
        require_evaluations_at_resets(self.evaluate.every_updates, self.reset_every_updates)
        return self
