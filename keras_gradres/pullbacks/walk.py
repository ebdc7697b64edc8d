"""The walk back along the calls of a branch, from a cotangent of its output to x.

    c[output] <- 1
    for each pullback, last first:
        c[inputs] += pullback(c[output])

Where paths join, their cotangents add up. Along with a cotangent goes what the
structure says of it: the axes along which it is constant. A normalization gives no
gradient to a sum that is constant along its axes: what comes out is rounding noise. So

- where that is the sum of the branch's outputs itself, the sum is taken of what goes
  into the normalization;
- else the gradient of the branch vanishes, and the walk raises.

Usage:

    p = Run(steps, slots, tensors, masks, second_order).gradient()
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_gradres.pullbacks.masks import Masks
from keras_gradres.pullbacks.rule import Axes, Pullback

NOWHERE: Axes = frozenset()


class VanishingGradientError(ValueError):
    """Raised where the gradient of a branch is zero whatever its input is."""


class Slot:
    """Stands for a tensor between two calls."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A pullback between two places of a branch.

    Attributes:
        pullback: The `Pullback`.
        layer: The layer that it belongs to.
        outputs: The slots of the cotangents that it takes.
        specs: Their ranks and dtypes.
        inputs: The slots of the cotangents that it gives.
        input_ranks: Their ranks.
    """

    pullback: Pullback
    layer: Any
    outputs: list[Slot]
    specs: list[tuple[int, Any]]
    inputs: list[Slot]
    input_ranks: list[int]


@dataclasses.dataclass
class _Cotangent:
    """A cotangent on its way.

    Attributes:
        value: The tensor; its batch size may be 1 for all samples.
        constant: The axes along which it is constant by structure, but for masks.
        lost: The layers that have taken all of it, so that `value` is rounding noise.
    """

    value: Any
    constant: Axes = NOWHERE
    lost: tuple = ()

    def __add__(self, other: "_Cotangent") -> "_Cotangent":
        lost = self.lost + other.lost if self.lost and other.lost else ()
        value = self.value + other.value
        return _Cotangent(value, self.constant & other.constant, lost)


class Run:
    """One call of a branch: its output, and the way back.

    Args:
        steps: The steps of the call, in the order of the forward pass.
        slots: Those of the branch's input and output.
        tensors: The input and the output.
        masks: What reads the masks of tensors.
        second_order: Whether gradients flow through what comes back.
    """

    def __init__(
        self,
        steps: list[Step],
        slots: tuple[Slot, Slot],
        tensors: tuple[Any, Any],
        masks: Masks,
        second_order: bool,
    ):
        self._steps = steps
        self._input_slot, self._output_slot = slots
        self._input, self.output = tensors
        self._masks = masks
        self._second_order = second_order

    @property
    def is_certain(self) -> bool:
        """Whether the structure tells all of whether the gradient vanishes."""
        return all(step.pullback.constant is not None for step in self._steps)

    def gradient(self, seed: Callable | None = None) -> Any:
        """P = J^T 1, the gradient of the sum of the outputs, of the shape of x.

        Masked outputs are left out of the sum. Where the branch ends in a
        normalization, it is the sum of what goes into it.

        Args:
            seed: From a tensor to the cotangent there, for another one than 1.

        Raises:
            ValueError: if p vanishes whatever x is.
        """
        seeds: dict[Slot, _Cotangent] = {}
        for slot, tensor in self._summed():
            c = self._ones(tensor) if seed is None else seed(tensor)
            self._add(seeds, slot, _Cotangent(c, _all_axes(len(tensor.shape))))
        found, _ = self._walk(seeds)
        return self._finished(found)

    def pull(self, c: Any) -> Any:
        """J^T c, for a cotangent of the output."""
        found, _ = self._walk({self._output_slot: _Cotangent(c)})
        return None if found is None else found.value

    def parts(self) -> dict[str, list[str]]:
        """The names of the layers, by what becomes of them; see `GradientResidual`."""
        seeds: dict[Slot, _Cotangent] = {}
        for slot, tensor in self._summed():
            axes = _all_axes(len(tensor.shape))
            self._add(seeds, slot, _Cotangent(self._ones(tensor), axes))
        _, kinds = self._walk(seeds)
        parts: dict[str, list[str]] = {
            "closed_form": [],
            "affine_tail": [],
            "trailing": [],
            "automatic_differentiation": [],
        }
        for layer in {id(s.layer): s.layer for s in self._steps}.values():
            found = kinds.get(id(layer), {"trailing"})
            kind = next(k for k in reversed(_RANKING) if k in found)
            parts[kind].append(layer.name)
        return parts

    def _summed(self):
        """Slots and tensors whose sum is differentiated."""
        producer = {slot: step for step in self._steps for slot in step.outputs}

        def before_normalization(slot):
            step = producer.get(slot)
            if step is None or len(step.outputs) > 1:
                return []
            pullback = step.pullback
            if pullback.normalizes is not None:
                (slot,) = step.inputs
                return before_normalization(slot) or [(slot, pullback.before)]
            if not _keeps_sum(step):
                return []
            found = [before_normalization(slot) for slot in step.inputs]
            return [pair for pairs in found for pair in pairs] if all(found) else []

        found = before_normalization(self._output_slot)
        return found or [(self._output_slot, self.output)]

    def _ones(self, tensor):
        ones = ops.ones((1, *ops.shape(tensor)[1:]), dtype=tensor.dtype)
        mask = self._masks.of(tensor)
        if mask is None:
            return ones
        for _ in range(len(tensor.shape) - len(mask.shape)):
            mask = ops.expand_dims(mask, -1)
        return ones * ops.cast(mask, tensor.dtype)

    def _walk(self, cotangents):
        kinds: dict[int, set[str]] = {}
        for step in reversed(self._steps):
            given = [cotangents.pop(slot, None) for slot in step.outputs]
            if all(c is None for c in given):
                continue
            values = [
                c and ops.cast(c.value, dtype)
                for c, (_, dtype) in zip(given, step.specs, strict=True)
            ]
            pullback = step.pullback
            found = pullback.function(values[0] if len(values) == 1 else values)
            found = found if isinstance(found, (list, tuple)) else [found]
            before = given[0].constant if len(given) == 1 else NOWHERE
            after = pullback.constant(before) if pullback.constant else NOWHERE
            lost = _lost(step, [c for c in given if c is not None], before)
            for slot, value in zip(step.inputs, found, strict=True):
                if value is not None:
                    self._add(cotangents, slot, _Cotangent(value, after, lost))
            kind = "closed_form"
            if all(v is None or v.shape[0] == 1 for v in [*values, *found]):
                kind = "affine_tail"
            if pullback.automatic:
                kind = "automatic_differentiation"
            kinds.setdefault(id(step.layer), set()).add(kind)
        return cotangents.get(self._input_slot), kinds

    @staticmethod
    def _add(cotangents, slot, c):
        cotangents[slot] = cotangents[slot] + c if slot in cotangents else c

    def _finished(self, c):
        x = self._input
        if c is None:
            return ops.zeros_like(x)
        if c.lost:
            raise VanishingGradientError(
                "The gradient of `branch` is zero whatever its input is, since "
                f"{_described(c.lost)} takes out what all entries of a sum have in "
                "common, and what follows gives it such a sum. Put an activation after "
                "it, or take it out; a BatchNormalization can be frozen "
                "(`trainable = False`), too. Or use a `residual` without gradient."
            )
        p = ops.broadcast_to(ops.cast(c.value, x.dtype), ops.shape(x))
        return p if self._second_order else ops.stop_gradient(p)


# What is said of a layer with several steps: the last of these that holds.
_RANKING = ("trailing", "affine_tail", "closed_form", "automatic_differentiation")


def _keeps_sum(step):
    """Whether the inputs are summed with equal weights where the outputs are."""
    if step.pullback.constant is None:
        return False
    after = step.pullback.constant(_all_axes(step.specs[0][0]))
    return all(_all_axes(rank) <= after for rank in step.input_ranks)


def _lost(step, given, constant):
    pullback = step.pullback
    normalizes = pullback.normalizes if pullback.active else None
    if normalizes is not None and normalizes <= constant:
        return (step.layer,)
    lost = [c.lost for c in given]
    return sum(lost, ()) if all(lost) else ()


def _all_axes(rank):
    return frozenset(range(rank))


def _described(layers):
    names = dict.fromkeys(f"'{x.name}' (of type {type(x).__name__})" for x in layers)
    return "layer " + " and layer ".join(names)
