"""From a model with skip connections to one with gradient residuals, in one call.

Usage:

    model = keras.applications.ResNet50()
    converted = keras_gradres.convert(model)
    converted.compile("adam", "sparse_categorical_crossentropy")
"""

from typing import Any

import keras

from keras_gradres.conversion.analysis import Analysis, Candidate
from keras_gradres.conversion.report import Selection, names_in, selected
from keras_gradres.conversion.rewriting import Rewriting
from keras_gradres.layers.residuals import RESIDUALS
from keras_gradres.pullbacks.recording import is_recordable, is_sequential
from keras_gradres.traversal import layers_in

# The arguments of `GradientResidual` that come from the model.
_FROM_MODEL = (
    *("branch", "shortcut", "activation", "skip_first"),
    *("name", "dtype", "activity_regularizer"),
)


def convert(
    model: keras.Model,
    residual: str = "gain",
    second_order: bool = True,
    layers: Selection = None,
    **arguments: Any,
) -> keras.Model:
    """Makes each skip connection of a model a gradient residual.

    A skip connection is a sum of a tensor and of something computed from it: an `Add`
    layer, or a sum written with `+`. It becomes a `GradientResidual` of the same name
    around the layers between the fork and the sum, its branch. Where the fork reaches
    the sum through a projection (layers without an activation, one of which may have a
    matrix, such as a convolution and its normalization), that is the shortcut. What
    follows the sum, such as an activation, stays.

    **The layers of the new model are those of the old one**, so their weights are
    shared: training the new model trains the old one. To keep it apart, clone it:

        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        converted = keras_gradres.convert(copy)

    What the new model computes before it is trained on depends on `residual`:

    - with `"gain"` and `"identity"` exactly what the old one does, in training and in
      inference: outputs, statistics of normalizations, and what dropout drops;
    - with `"scaled"` the same as long as its `scale` is 1, as it is at first;
    - with `"convex"` something else. The skip is then `(1 - s) x + s g`, by default
      halfway between the input and the unit vector of the gradient. So a trained model
      has to be trained on. `alpha=-5.0` starts at 0.7 % gradient;
    - the other residuals of `GradientResidual` compute something else, too.

    Models in the model are converted as well. The weights of the new model are those of
    the old one and, with `"gain"`, one `gamma` for each skip connection, zero at first.
    The result is not compiled. It is a plain `keras.Model`, or a `keras.Sequential` if
    that is what the model is.

    Args:
        model: A functional model or a `keras.Sequential`. A model whose `call` is code
            cannot be converted. Convert the functional models that it holds.
        residual: What the skip becomes, see `GradientResidual`.
        second_order: Whether gradients flow through the gradient of the branch. It
            costs more. With smooth activations only this brings the gain.
        layers: The sums to convert, by default all that can be. It is the name of an
            `Add` layer or operation, a list of names, or a function that takes the
            entry of a sum in `conversion_report` and returns whether to convert it.
            Sums of models in the model have names such as `"encoder/add_1"`. The last
            part of such a name is enough.
        **arguments: Other arguments of `GradientResidual` for all, such as `axis`. By
            default the axis is that of the channels.

    Returns:
        A new model.

    Raises:
        TypeError: if the `call` of the model is code.
        ValueError: if nothing can be converted, or if a sum that is named in `layers`
            cannot be. `conversion_report` says why.

    Example:
    >>> import keras
    >>> import keras_gradres
    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dense(4, activation="tanh")(inputs)
    >>> x = keras.layers.Dense(4)(x)
    >>> model = keras.Model(inputs, keras.layers.Add(name="sum")([inputs, x]))
    >>> converted = keras_gradres.convert(model)
    >>> converted.get_layer("sum").residual
    'gain'
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: model={model} (of type "
            f"{type(model)})"
        )
    if residual not in RESIDUALS:
        raise ValueError(
            f"`residual` must be one of {tuple(RESIDUALS)}. Received: "
            f"residual={residual}"
        )
    refused = [name for name in _FROM_MODEL if name in arguments]
    if refused:
        raise ValueError(
            "Arguments of a gradient residual that come from the model cannot be "
            f"given: {_FROM_MODEL}. Received: {refused}"
        )
    analysis = Analysis(model, RESIDUALS[residual].needs_gradient)
    if not is_recordable(model):
        raise _not_recordable(model)
    chosen = selected(analysis.sums, layers)
    if layers is not None and not callable(layers):
        _check_names(names_in(layers), analysis)
    if not chosen:
        raise _nothing_chosen(model, analysis, layers)
    arguments = {**arguments, "residual": residual, "second_order": second_order}
    return Rewriting(analysis, chosen, arguments).layer(model)


def _check_names(names: list[str], analysis: Analysis) -> None:
    """Raises if a name is not that of a sum that can be converted."""
    for name in names:
        named = [c for c in analysis.sums if name in (c.path, c.call.layer.name)]
        if not named:
            paths = [c.path for c in analysis.sums]
            raise ValueError(
                "`layers` must name sums of the model, `Add` layers or operations. "
                f"Received: layers={names}, with '{name}' not among {paths}"
            )
        for candidate in named:
            if candidate.reason is not None:
                raise ValueError(
                    f"The sum '{candidate.path}' cannot be converted: "
                    f"{candidate.reason}. Leave it out of `layers`; "
                    "`conversion_report(model)` lists what can be converted. "
                    f"Received: layers={names}"
                )


def _nothing_chosen(
    model: keras.Model, analysis: Analysis, layers: Selection
) -> ValueError:
    first_with: dict[str, Candidate] = {}  # By the reason.
    for candidate in analysis.sums:
        if candidate.reason is not None:
            first_with.setdefault(candidate.reason, candidate)
    text = f"No sum of the model can be converted, of {len(analysis.sums)}"
    if layers is not None:
        text = f"No sum of the model is chosen by `layers`, of {len(analysis.sums)}"
    examples = [f"'{c.path}': {reason}" for reason, c in first_with.items()][:3]
    if examples:
        text += f" ({'; '.join(examples)})"
    if analysis.closed and layers is None:
        names = [f"'{x.name}' (of type {type(x).__name__})" for x in analysis.closed]
        text += f". The `call` of {', '.join(names[:3])} is code, and is not seen"
    return ValueError(
        f"{text}. See `conversion_report(model)`. Received: model={model}, "
        f"layers={layers}"
    )


def _not_recordable(model: keras.Model) -> Exception:
    if is_sequential(model):
        return ValueError(
            "`model` must be built. Call it on an input, or give it a `keras.Input`. "
            f"Received: model={model}"
        )
    inside = [x.name for x in layers_in(model) if x is not model and is_recordable(x)]
    advice = "It holds no functional model; use `GradientResidual` in its code."
    if inside:
        advice = (
            f"Convert the models that it holds, {inside}, and replace them before it "
            "is called, as in `model.backbone = convert(model.backbone)`."
        )
    return TypeError(
        "`model` must be a functional model or a `Sequential`: the `call` of "
        f"{type(model).__name__} is code, which cannot be rewritten. {advice} "
        f"Received: model={model}"
    )
