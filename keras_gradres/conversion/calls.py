"""The calls of a functional model, and what lies between two of its tensors.

    between(fork, end) = {calls that `fork` leads to} and {calls that lead to `end`}

Usage:

    calls = ModelCalls(model)
    path = calls.between(fork, end)
    path.calls, path.entries, path.leaks
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import keras

from keras_gradres.pullbacks.recording import Section, recorded
from keras_gradres.typing import Structure, SymbolicTensor


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCall:
    """One call of a layer or an operation.

    Attributes:
        index: Its place in the order of the calls.
        layer: The layer or the operation.
        args: Its arguments, with symbolic tensors.
        kwargs: Its keyword arguments, likewise.
        output: The structure of its symbolic outputs.
    """

    index: int
    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Structure

    @functools.cached_property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic tensors among its arguments."""
        return symbolic((self.args, self.kwargs))

    @functools.cached_property
    def outputs(self) -> list[SymbolicTensor]:
        """Its symbolic outputs, as a list."""
        return symbolic(self.output)


@dataclasses.dataclass(frozen=True)
class Path:
    """The calls between two tensors.

    Attributes:
        fork: The tensor where they begin.
        end: The tensor where they end.
        calls: The calls, in order.
        entries: The names of the layers outside whose outputs are used inside, other
            than the fork.
        leaks: The names of the layers inside whose outputs are used outside, other than
            the end.
    """

    fork: SymbolicTensor
    end: SymbolicTensor
    calls: list[ModelCall]
    entries: list[str]
    leaks: list[str]

    @property
    def section(self) -> Section:
        """The calls, as what a `Graph` is made of."""
        calls = [(c.layer, c.args, c.kwargs, c.output) for c in self.calls]
        return Section([self.fork], calls, [self.end])


class ModelCalls:
    """The calls of a functional model or a `Sequential`.

    Attributes:
        inputs: Its symbolic inputs.
        outputs: Its symbolic outputs.
        calls: The list of `ModelCall`, in an order in which they can be made.
    """

    def __init__(self, model: keras.Model):
        section = recorded(model)
        self.inputs = section.inputs
        self.outputs = section.outputs
        self.calls = [ModelCall(i, *call) for i, call in enumerate(section.calls)]
        self._producers = {id(t): call for call in self.calls for t in call.outputs}
        self._users: dict[int, list[int]] = {}
        # For each call the calls that it depends on: bit i stands for call i.
        self._before: list[int] = []
        for call in self.calls:
            before = 0
            for tensor in call.inputs:
                self._users.setdefault(id(tensor), []).append(call.index)
                before |= self._leading_to(tensor)
            self._before.append(before)

    def between(self, fork: SymbolicTensor, end: SymbolicTensor) -> Path:
        """The calls through which `end` is computed from `fork`."""
        leading = self._leading_to(end)
        reached = {id(fork)}
        calls: list[ModelCall] = []
        for call in self.calls:
            if leading >> call.index & 1 and any(id(t) in reached for t in call.inputs):
                reached.update(map(id, call.outputs))
                calls.append(call)
        inside = {call.index for call in calls}
        entries = [t for call in calls for t in call.inputs if id(t) not in reached]
        leaks = [
            call
            for call in calls
            if any(t is not end and self._is_used(t, inside) for t in call.outputs)
        ]
        return Path(
            fork,
            end,
            calls,
            _unique(self.name_of(t) for t in entries),
            _unique(call.layer.name for call in leaks),
        )

    def leads_to(self, tensor: SymbolicTensor, end: SymbolicTensor) -> bool:
        """Whether `end` is computed from `tensor`."""
        leading = self._leading_to(end)
        return any(leading >> i & 1 for i in self._users.get(id(tensor), []))

    def common(self, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor | None:
        """The last tensor from which both are computed, or `None`."""
        ancestors = {id(t) for t in self._ancestors(a)}
        shared = [t for t in self._ancestors(b) if id(t) in ancestors]
        return shared[-1] if shared else None

    def is_used_beside(self, tensor: SymbolicTensor, user: ModelCall) -> bool:
        """Whether anything but the call `user` uses the tensor."""
        return self._is_used(tensor, {user.index})

    def name_of(self, tensor: SymbolicTensor) -> str:
        """The name of the layer that computes a tensor, or that of a model's input."""
        call = self._producers.get(id(tensor))
        return tensor.name if call is None else call.layer.name

    def _is_used(self, tensor: SymbolicTensor, inside: set[int]) -> bool:
        """Whether a tensor is an output, or used by a call that is not `inside`."""
        if any(tensor is t for t in self.outputs):
            return True
        return any(i not in inside for i in self._users.get(id(tensor), []))

    def _leading_to(self, tensor: SymbolicTensor) -> int:
        """The calls that a tensor is computed by: bit i stands for call i."""
        call = self._producers.get(id(tensor))
        return 0 if call is None else self._before[call.index] | 1 << call.index

    def _ancestors(self, tensor: SymbolicTensor) -> list[SymbolicTensor]:
        """The tensor and all that it is computed from, in order."""
        leading = self._leading_to(tensor)
        calls = [call for call in self.calls if leading >> call.index & 1]
        needed = {id(tensor)} | {id(t) for call in calls for t in call.inputs}
        tensors = [*self.inputs, *(t for call in calls for t in call.outputs)]
        return [t for t in tensors if id(t) in needed]


def symbolic(structure: Structure) -> list[SymbolicTensor]:
    """The symbolic tensors in a structure."""
    flat = keras.tree.flatten(structure)
    return [t for t in flat if isinstance(t, keras.KerasTensor)]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
