"""The files of a checkpoint: what the state of a part becomes on disk, and comes back from without running any code.

A module becomes `<name>.safetensors`, tied tensors once; any other part, plain containers and tensors, `<name>.pt`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from footplate.errors import CheckpointError, TrainingError
from footplate.segments import Segmented, Segments
from footplate.step import Part

WriteFile = Callable[[Path], object]

PLAIN = {type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device}
"""Besides containers and tensors, what `torch.load(weights_only=True)` reads back: these types, and no subclasses."""


class Snapshots:
    """Copies of the parts' state, so that training may go on while they are written.

    Each copy goes where the one before it was, which must be on disk by then: to fill fresh memory takes several times
    as long, and training waits. The price is memory on the CPU for one copy of the state, for the whole run.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Any] = {}

    def take(self, parts: Mapping[str, Part], segments: Segments) -> dict[str, WriteFile]:
        """Copy the state of the parts; returns, by file name, what writes each. Those raise OSError.

        What is new of the largest parts is written at once. Raises OSError, and TrainingError where a state holds what
        could be written, but not read back.
        """
        return dict(self._take(name, part, segments) for name, part in parts.items())

    def _take(self, name: str, part: Part, segments: Segments) -> tuple[str, WriteFile]:
        state: Mapping[str, Any] = part.save_to(segments) if isinstance(part, Segmented) else part.state_dict()
        ties = None
        if isinstance(part, nn.Module):
            state, ties = _untied(state)
        copy = self._copies[name] = _copied(name, state, self._copies.get(name))
        if ties is None:
            return f"{name}.pt", partial(_write_plain, copy)
        return f"{name}.safetensors", partial(_write_module, copy, ties)


def load_module_state(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of a module, ties included. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            ties = json.loads((file.metadata() or {}).get("ties", "{}"))
            return state | {alias: state[kept] for alias, kept in ties.items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error


def load_plain_state(path: Path) -> dict[str, Any]:
    """The `state_dict` of a part that is not a module. Raises CheckpointError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # the unpickler raises whatever the bytes make it raise
        raise CheckpointError(f"{path}: cannot be read as plain data; nothing in it was run") from error


def _untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that are not another one under a second name, and of the others the name of the first."""
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first_name: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in first_name:
            ties[name] = first_name[place]
        else:
            first_name[place] = name
            kept[name] = tensor
    return kept, ties


def first_misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What keeps a module from loading this state, which it has refused to."""
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            return f"it has no {name}"
        if state[name].shape != tensor.shape:
            return f"its {name} has shape {tuple(state[name].shape)} where the job has {tuple(tensor.shape)}"
    return f"the job has no {next((name for name in state if name not in own), 'such parameters')}"


def _copied(part: str, value: Any, earlier: Any) -> Any:
    """A copy on the CPU, its tensors where those of the earlier copy were, wherever shape and kind are the same."""
    if isinstance(value, Tensor):
        fits = isinstance(earlier, Tensor) and (earlier.shape, earlier.dtype) == (value.shape, value.dtype)
        copy = earlier if fits else torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        return copy.copy_(value.detach())
    if isinstance(value, Mapping):
        named = earlier if isinstance(earlier, Mapping) else {}
        return {_checked(part, key): _copied(part, entry, named.get(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        placed = earlier if isinstance(earlier, list | tuple) and len(earlier) == len(value) else [None] * len(value)
        copies = [_copied(part, entry, before) for entry, before in zip(value, placed, strict=True)]
        return copies if isinstance(value, list) else tuple(copies)
    return _checked(part, value)


def _checked(part: str, value: Any) -> Any:
    """A value as it is. Raises TrainingError where it could be written, but not read back."""
    if type(value) in (set, tuple):
        return type(value)(_checked(part, entry) for entry in value)
    if type(value) not in PLAIN:
        raise TrainingError(
            f"{part}: its state holds a {type(value).__name__}, which cannot be read back; "
            "make it a plain number or a tensor"
        )
    return value


def _write_module(tensors: dict[str, Tensor], ties: dict[str, str], path: Path) -> None:
    with _system_errors():
        # One metadata entry: several would be written in a random order, and equal weights should be equal bytes.
        save_file(tensors, path, metadata={"ties": json.dumps(ties, sort_keys=True)})


def _write_plain(state: Mapping[str, Any], path: Path) -> None:
    with _system_errors(), path.open("wb") as file:
        torch.save(state, file)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Bring out the system's error, which safetensors puts into its message and torch hides behind an own one."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from error
