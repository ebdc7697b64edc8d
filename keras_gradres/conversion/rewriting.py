"""Repeats the calls of a model, with gradient residuals in the place of sums.

    for each call that is in no branch or shortcut:
        a chosen sum     -> GradientResidual(branch, shortcut)(fork)
        a model          -> the converted model
        anything else    -> the same layer

A branch becomes a model of the same layers. Its calls are repeated in the same way, so
sums inside it become gradient residuals, too.

Usage:

    converted = Rewriting(analysis, chosen, arguments).layer(model)
"""

from typing import Any

import keras

from keras_gradres.conversion import obstacles
from keras_gradres.conversion.analysis import Analysis, Candidate
from keras_gradres.conversion.calls import ModelCall, Path
from keras_gradres.conversion.sums import Skip
from keras_gradres.layers.gradient_residual import GradientResidual
from keras_gradres.pullbacks.recording import is_functional, is_sequential
from keras_gradres.typing import Structure, SymbolicTensor

# The dtype policies that compute in these dtypes and keep their weights in float32.
_POLICIES = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


class Rewriting:
    """Builds converted models.

    Args:
        analysis: The analysis of the outermost model.
        chosen: The sums that become gradient residuals.
        arguments: The arguments of these gradient residuals.
    """

    def __init__(
        self, analysis: Analysis, chosen: list[Candidate], arguments: dict[str, Any]
    ):
        self._analysis = analysis
        self._arguments = arguments
        # By the call of the sum.
        self._chosen = {id(c.call): (c, c.skip) for c in chosen if c.skip is not None}
        self._converted: dict[int, Any] = {}
        self._names: dict[int, set[str]] = {}

    def layer(self, layer: Any) -> Any:
        """The converted model if the layer is a model, else the layer itself.

        Each model is converted once.
        """
        if id(layer) not in self._converted:
            converted = layer
            if is_functional(layer):
                converted = self._functional(layer)
            elif is_sequential(layer):
                converted = self._sequential(layer)
            self._converted[id(layer)] = converted
        return self._converted[id(layer)]

    def _functional(self, model: keras.Model) -> keras.Model:
        calls = self._analysis.calls_of(model)
        unchanged = all(
            id(call) not in self._chosen and self.layer(call.layer) is call.layer
            for call in calls.calls
        )
        if unchanged:
            return model
        # The calls were recorded in a copy of the model, with tensors of the copy.
        tensors = {
            id(t): new for t, new in zip(calls.inputs, model.inputs, strict=True)
        }
        self._replay(calls.calls, tensors)
        outputs = keras.tree.pack_sequence_as(
            model.output, [tensors[id(t)] for t in calls.outputs]
        )
        return _frozen_as(model, keras.Model(model.input, outputs, name=model.name))

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        layers = [self.layer(layer) for layer in model.layers]
        pairs = zip(layers, model.layers, strict=True)
        if all(new is old for new, old in pairs):
            return model
        if model.built:
            (x,) = model.inputs
            layers = [keras.Input(batch_shape=x.shape, dtype=x.dtype), *layers]
        return _frozen_as(model, keras.Sequential(layers, name=model.name))

    def _replay(
        self, calls: list[ModelCall], tensors: dict[int, SymbolicTensor]
    ) -> None:
        """Repeats calls, with gradient residuals in the place of chosen sums.

        Args:
            calls: The calls.
            tensors: The new tensors by the `id` of the old ones. At first these are the
                inputs of the calls. The outputs are added.
        """
        chosen = [self._chosen[id(c)] for c in calls if id(c) in self._chosen]
        paths = [path for _, skip in chosen for path in skip.paths]
        replaced = {id(call) for path in paths for call in path.calls}
        for call in calls:
            if id(call) in replaced:
                continue
            if id(call) in self._chosen:
                candidate, skip = self._chosen[id(call)]
                output = self._residual(candidate, skip)(tensors[id(skip.fork)])
            else:
                output = self._repeated(call, tensors)
            outputs = keras.tree.flatten(output)
            pairs = zip(call.outputs, outputs, strict=True)
            tensors.update((id(old), new) for old, new in pairs)

    def _repeated(
        self, call: ModelCall, tensors: dict[int, SymbolicTensor]
    ) -> Structure:
        """The output of a call that is made again, on the new tensors."""

        def new(value: Any) -> Any:
            return tensors[id(value)] if isinstance(value, keras.KerasTensor) else value

        args, kwargs = keras.tree.map_structure(new, (call.args, call.kwargs))
        return self.layer(call.layer)(*args, **kwargs)

    def _residual(self, candidate: Candidate, skip: Skip) -> GradientResidual:
        layer = candidate.call.layer
        name = self._free_name(candidate)
        arguments = {"axis": obstacles.feature_axis(skip), **self._arguments}
        if skip.shortcut is not None and arguments["residual"] != "none":
            arguments["shortcut"] = self._path(skip.shortcut, f"{name}_shortcut")
        if isinstance(layer, keras.Layer):
            dtype = layer.dtype_policy
            arguments["activity_regularizer"] = layer.activity_regularizer
        else:
            dtype = candidate.call.outputs[0].dtype
            dtype = _POLICIES.get(dtype, dtype)
        branch = self._path(skip.branch, f"{name}_branch")
        return GradientResidual(
            branch,
            name=name,
            dtype=dtype,
            skip_first=candidate.call.inputs[1] is skip.branch.end,
            **arguments,
        )

    def _path(self, path: Path, name: str) -> keras.Model:
        """A path as a model."""
        fork = path.fork
        x = keras.Input(batch_shape=fork.shape, dtype=fork.dtype, name=f"{name}_input")
        tensors = {id(fork): x}
        self._replay(path.calls, tensors)
        return keras.Model(x, tensors[id(path.end)], name=name)

    def _free_name(self, candidate: Candidate) -> str:
        """The name of the sum.

        An `Add` layer may be called several times in a model. From the second call on
        the name gets a number.
        """
        names = self._names.setdefault(id(candidate.calls), set())
        wanted = name = candidate.call.layer.name
        number = 0
        while name in names:
            number += 1
            name = f"{wanted}_{number}"
        names.add(name)
        return name


def _frozen_as(old: keras.Model, new: keras.Model) -> keras.Model:
    if not old.trainable:
        new.trainable = False
    return new
