"""What embeddings have in common, whatever the model: which of the three matrices may be one."""

from typing import Literal

from footplate.errors import ConfigError

Tie = Literal["none", "target", "all"]
"""`target`: one matrix embeds the target and makes the output; `all`: the source too."""


def refuse_two_vocabularies(source_vocabulary: int, target_vocabulary: int, *, tie: Tie, copying: bool) -> None:
    """Raise ConfigError where one vocabulary is needed and there are two, of these sizes."""
    if source_vocabulary == target_vocabulary:
        return
    if tie == "all":
        raise ConfigError(
            [
                f"model: tie: `all` needs one vocabulary, but the source has {source_vocabulary} tokens and the "
                f"target {target_vocabulary}; use a joint vocabulary, or `target`."
            ]
        )
    if copying:
        raise ConfigError(["model: copying: needs one vocabulary for both sides; set vocabulary.joint to true."])
