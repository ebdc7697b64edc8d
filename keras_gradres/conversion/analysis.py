"""Finds every sum of a model and of the models in it, and whether it can be converted.

Usage:

    for candidate in Analysis(model).sums:
        candidate.path, candidate.skip, candidate.reason
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_gradres.conversion import cost, obstacles, sums
from keras_gradres.conversion.calls import ModelCall, ModelCalls
from keras_gradres.conversion.masking import masks_of
from keras_gradres.layers.gradient_residual import GradientResidual
from keras_gradres.pullbacks.recording import is_recordable
from keras_gradres.traversal import layers_in
from keras_gradres.typing import Mask


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A sum of a model, and what the analysis says of it.

    Attributes:
        path: Its name, preceded by those of the models that it is in.
        calls: The calls of the model that it is in.
        call: The call that computes the sum.
        skip: The `Skip` that ends in the sum, or `None`.
        reason: Why it cannot be converted, or `None`.
        flops: The operations of one pullback of its branch. `None` if unknown.
    """

    path: str
    calls: ModelCalls
    call: ModelCall
    skip: sums.Skip | None
    reason: str | None
    flops: int | None


class Analysis:
    """What can be converted in a model.

    Args:
        model: A model.
        differentiate: Whether the gradient of a branch is needed, and must not vanish.

    Attributes:
        sums: The list of `Candidate`.
        closed: The layers that hold other layers and call them in code. Sums in that
            code are not seen.
    """

    def __init__(self, model: keras.Model, differentiate: bool = True):
        self.differentiate = differentiate
        self.sums: list[Candidate] = []
        self.closed: list[keras.Layer] = []
        self._calls: dict[int, ModelCalls] = {}
        self._masks: dict[int, list[dict[int, Mask]]] = {}
        self._seen: set[int] = set()
        if self.calls_inside(model) is not None:
            self._collect_masks(self.calls_of(model), ())
        self._uses = collections.Counter(
            id(call.layer) for calls in self._calls.values() for call in calls.calls
        )
        self._visit(model, "", None)

    def calls_of(self, model: Any) -> ModelCalls:
        """The calls of a functional model or a `Sequential`, recorded once."""
        if id(model) not in self._calls:
            self._calls[id(model)] = ModelCalls(model)
        return self._calls[id(model)]

    def calls_inside(self, layer: Any) -> ModelCalls | None:
        """The calls of a model, or `None` if they cannot be recorded."""
        return self.calls_of(layer) if is_recordable(layer) else None

    def _visit(self, layer: Any, prefix: str, refusal: str | None) -> None:
        """Goes through a model.

        Args:
            layer: The model, or another layer.
            prefix: The names of the models that it is in, and its own.
            refusal: Why nothing in it can be converted, or `None`.
        """
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        calls = self.calls_inside(layer)
        if calls is None:
            self._visit_code(layer, prefix, refusal)
            return
        for call in calls.calls:
            if sums.is_sum(call):
                self.sums.append(self._examined(calls, call, prefix, refusal))
            elif isinstance(call.layer, keras.Layer):
                self._visit(call.layer, f"{prefix}{call.layer.name}/", refusal)

    def _visit_code(self, layer: Any, prefix: str, refusal: str | None) -> None:
        """Goes through a layer whose `call` is code."""
        inside = [sublayer for sublayer in layers_in(layer) if sublayer is not layer]
        converted = isinstance(layer, GradientResidual)
        of_keras = type(layer).__module__.startswith("keras.")
        if inside and not converted and not of_keras:
            self.closed.append(layer)
        refusal = refusal or (
            f"it is in a model inside '{layer.name}' (of type {type(layer).__name__}), "
            "whose `call` is code. Convert that model and set it there"
        )
        for sublayer in inside:
            if is_recordable(sublayer):
                self._visit(sublayer, f"{prefix}{sublayer.name}/", refusal)

    def _examined(
        self, calls: ModelCalls, call: ModelCall, prefix: str, refusal: str | None
    ) -> Candidate:
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
        return Candidate(path, calls, call, skip, reason, flops)

    def _collect_masks(self, calls: ModelCalls, input_masks: Sequence[Mask]) -> None:
        """Keeps the masks in a model and in the models in it, for each call of these.

        Args:
            calls: The calls of the model.
            input_masks: The masks of its inputs, in one call of it.
        """
        masks = masks_of(calls, self.calls_inside, input_masks)
        self._masks.setdefault(id(calls), []).append(masks)
        for call in calls.calls:
            inside = self.calls_inside(call.layer)
            if inside is not None:
                self._collect_masks(inside, [masks.get(id(t)) for t in call.inputs])
