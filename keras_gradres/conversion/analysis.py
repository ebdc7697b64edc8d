"""Finds every sum of a model and of the models in it, and says what stands against it.

Usage:

    for found in Analysis(model).sums:
        found.path, found.skip, found.reason
"""

import collections
import dataclasses
from typing import Any

import keras

from keras_gradres.conversion import cost, obstacles, sums
from keras_gradres.conversion.calls import Call, Calls
from keras_gradres.conversion.masking import masks_of
from keras_gradres.layers.gradient_residual import GradientResidual
from keras_gradres.pullbacks.recording import is_recordable
from keras_gradres.traversal import layers_in


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A sum that was found.

    Attributes:
        path: Its name, after those of the models that it is in.
        calls: The calls of the model that it is in.
        call: Its own.
        skip: The `Skip` that it ends, or `None`.
        reason: Why it cannot be converted, or `None`.
        flops: The operations of one pullback of its branch, if that is known.
    """

    path: str
    calls: Calls
    call: Call
    skip: Any
    reason: str | None
    flops: int | None


class Analysis:
    """What can be converted in a model.

    Args:
        model: A model.
        differentiate: Whether the gradient of a branch is needed, and must not vanish.

    Attributes:
        sums: The list of `Found`.
        closed: The layers that hold layers and are code: what they sum is not seen.
    """

    def __init__(self, model: keras.Model, differentiate: bool = True):
        self.differentiate = differentiate
        self.sums: list[Found] = []
        self.closed: list[keras.Layer] = []
        self._calls: dict[int, Calls] = {}
        self._masks: dict[int, list[dict]] = {}
        self._seen: set[int] = set()
        if self.opened(model) is not None:
            self._collect_masks(self.calls_of(model), ())
        self._uses = collections.Counter(
            id(call.layer) for calls in self._calls.values() for call in calls.calls
        )
        self._visit(model, "", None)

    def calls_of(self, model: Any) -> Calls:
        """The calls of a functional model or a `Sequential`, found once."""
        if id(model) not in self._calls:
            self._calls[id(model)] = Calls(model)
        return self._calls[id(model)]

    def opened(self, layer: Any) -> Calls | None:
        """The calls of a model, or `None` if it is something else."""
        return self.calls_of(layer) if is_recordable(layer) else None

    def _visit(self, layer, prefix, refusal):
        """Goes through a model; `refusal` is why nothing in it can be converted."""
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        calls = self.opened(layer)
        if calls is None:
            self._visit_code(layer, prefix, refusal)
            return
        for call in calls.calls:
            if sums.is_sum(call):
                self.sums.append(self._examined(calls, call, prefix, refusal))
            elif isinstance(call.layer, keras.Layer):
                self._visit(call.layer, f"{prefix}{call.layer.name}/", refusal)

    def _visit_code(self, layer, prefix, refusal):
        inside = [inner for inner in layers_in(layer) if inner is not layer]
        ours = isinstance(layer, GradientResidual)
        if inside and not ours and not type(layer).__module__.startswith("keras."):
            self.closed.append(layer)
        refusal = refusal or (
            f"it is in a model inside '{layer.name}' (of type {type(layer).__name__}), "
            "whose `call` is code. Convert that model and set it there"
        )
        for inner in inside:
            if is_recordable(inner):
                self._visit(inner, f"{prefix}{inner.name}/", refusal)

    def _examined(self, calls, call, prefix, refusal):
        skip = flops = None
        reason = refusal
        try:
            skip = sums.find(calls, call)
            if reason is None:
                for masks in self._masks.get(id(calls), [{}]):
                    obstacles.check(calls, skip, masks)
                obstacles.check_sharing(skip, self._uses)
                if self.differentiate:
                    parts = obstacles.check_gradient(skip)
                    kinds = ("closed_form", "automatic_differentiation")
                    names = [name for kind in kinds for name in parts[kind]]
                    flops = cost.flops(skip.branch.calls, names)
        except sums.NotConvertibleError as refused:
            reason = reason or str(refused)
        path = f"{prefix}{call.layer.name}"
        return Found(path, calls, call, skip, reason, flops)

    def _collect_masks(self, calls, given):
        """The masks in a model, for each call of it."""
        masks = masks_of(calls, self.opened, given)
        self._masks.setdefault(id(calls), []).append(masks)
        for call in calls.calls:
            inner = self.opened(call.layer)
            if inner is not None:
                self._collect_masks(inner, [masks.get(id(t)) for t in call.inputs])
