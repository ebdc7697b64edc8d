"""The calls of a model made again, with gradient residuals in the place of sums.

    for each call that is in no branch or shortcut:
        a chosen sum     -> GradientResidual(branch, shortcut)(fork)
        a model          -> the converted model
        anything else    -> itself

A branch is a model of the same layers, made in the same way, so that sums inside of it
become gradient residuals, too.

Usage:

    converted = Rewriting(analysis, chosen, arguments).layer(model)
"""

from typing import Any

import keras

from keras_gradres.conversion import obstacles
from keras_gradres.conversion.analysis import Analysis, Found
from keras_gradres.conversion.calls import Call, Path
from keras_gradres.layers.gradient_residual import GradientResidual
from keras_gradres.pullbacks.recording import is_functional, is_sequential

_POLICIES = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


class Rewriting:
    """Makes models again.

    Args:
        analysis: What was found in the outermost model.
        chosen: The sums that become gradient residuals.
        arguments: Arguments of these.
    """

    def __init__(
        self, analysis: Analysis, chosen: list[Found], arguments: dict[str, Any]
    ):
        self._analysis = analysis
        self._arguments = arguments
        self._chosen = {id(found.call): found for found in chosen}
        self._made: dict[int, Any] = {}
        self._names: dict[int, set[str]] = {}

    def layer(self, layer: Any) -> Any:
        """The layer itself, or what stands in its place; made once for each."""
        if id(layer) not in self._made:
            made = layer
            if is_functional(layer):
                made = self._functional(layer)
            elif is_sequential(layer):
                made = self._sequential(layer)
            self._made[id(layer)] = made
        return self._made[id(layer)]

    def _functional(self, model):
        calls = self._analysis.calls_of(model)
        kept = all(
            id(call) not in self._chosen and self.layer(call.layer) is call.layer
            for call in calls.calls
        )
        if kept:
            return model
        # The tensors that the calls were found with stand for those of the model.
        tensors = {
            id(t): new for t, new in zip(calls.inputs, model.inputs, strict=True)
        }
        self._replay(calls.calls, tensors)
        outputs = keras.tree.pack_sequence_as(
            model.output, [tensors[id(t)] for t in calls.outputs]
        )
        return _frozen_as(model, keras.Model(model.input, outputs, name=model.name))

    def _sequential(self, model):
        layers = [self.layer(layer) for layer in model.layers]
        pairs = zip(layers, model.layers, strict=True)
        if all(new is old for new, old in pairs):
            return model
        if model.built:
            (x,) = model.inputs
            layers = [keras.Input(batch_shape=x.shape, dtype=x.dtype), *layers]
        return _frozen_as(model, keras.Sequential(layers, name=model.name))

    def _replay(self, calls: list[Call], tensors: dict[int, Any]) -> None:
        """Makes the calls; adds what they give to `tensors`, by the old ones."""
        chosen = [self._chosen[id(c)] for c in calls if id(c) in self._chosen]
        paths = [path for found in chosen for path in found.skip.paths]
        hidden = {id(call) for path in paths for call in path.calls}
        for call in calls:
            if id(call) in hidden:
                continue
            if id(call) in self._chosen:
                found = self._chosen[id(call)]
                output = self._residual(found)(tensors[id(found.skip.fork)])
            else:
                output = self._again(call, tensors)
            outputs = keras.tree.flatten(output)
            pairs = zip(call.outputs, outputs, strict=True)
            tensors.update((id(old), new) for old, new in pairs)

    def _again(self, call, tensors):
        def new(value):
            return tensors[id(value)] if isinstance(value, keras.KerasTensor) else value

        args, kwargs = keras.tree.map_structure(new, (call.args, call.kwargs))
        return self.layer(call.layer)(*args, **kwargs)

    def _residual(self, found: Found) -> GradientResidual:
        skip, layer = found.skip, found.call.layer
        name = self._free_name(found)
        arguments = {"axis": obstacles.feature_axis(skip), **self._arguments}
        if skip.shortcut is not None and arguments["residual"] != "none":
            arguments["shortcut"] = self._path(skip.shortcut, f"{name}_shortcut")
        if isinstance(layer, keras.Layer):
            dtype = layer.dtype_policy
            arguments["activity_regularizer"] = layer.activity_regularizer
        else:
            dtype = found.call.outputs[0].dtype
            dtype = _POLICIES.get(dtype, dtype)
        branch = self._path(skip.branch, f"{name}_branch")
        return GradientResidual(
            branch,
            name=name,
            dtype=dtype,
            skip_first=found.call.inputs[1] is skip.branch.end,
            **arguments,
        )

    def _path(self, path: Path, name: str) -> keras.Model:
        fork = path.fork
        x = keras.Input(batch_shape=fork.shape, dtype=fork.dtype, name=f"{name}_input")
        tensors = {id(fork): x}
        self._replay(path.calls, tensors)
        return keras.Model(x, tensors[id(path.end)], name=name)

    def _free_name(self, found):
        """The name of the sum; with a number where an `Add` layer is called again."""
        names = self._names.setdefault(id(found.calls), set())
        wanted = name = found.call.layer.name
        number = 0
        while name in names:
            number += 1
            name = f"{wanted}_{number}"
        names.add(name)
        return name


def _frozen_as(old, new):
    if not old.trainable:
        new.trainable = False
    return new
