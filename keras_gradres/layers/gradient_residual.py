"""The gradient residual connection, as a wrapper around any branch.

For a branch F with input x (arXiv 2602.09190):

    p = J_F(x)^T 1                              gradient of sum_i F_i(x)
    g = p / max(|p|_2, epsilon)                 over the feature axis
    y = F(x) + (1 - s) x + s g,  s = sigmoid(alpha)                   (Eq. 2)

Usage:

    x = keras.Input((48, 48, 64))
    conv = lambda: keras.layers.Conv2D(64, 3, padding="same")
    y = GradientResidual([conv(), keras.layers.ReLU(), conv()])(x)
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import activations, initializers, ops

from keras_gradres import backend
from keras_gradres.layers import arguments, inner, skip
from keras_gradres.layers.split import split

_WITH_GRADIENT = ("convex", "gradient", "additive", "magnitude")
_RESIDUALS = (*_WITH_GRADIENT, "identity", "scaled", "none")
_SMALLEST_NORMAL = 1.1754944e-38
# The branch of subclasses that make it from the shape of the input.
MADE_IN_BUILD: Any = object()


@keras.saving.register_keras_serializable(package="keras_gradres")
class GradientResidual(keras.Layer):
    """A residual connection whose skip carries the gradient of its branch.

    With `p` the gradient of the sum of the branch's outputs with respect to the
    input, and `g` its unit vector, the output is `activation(F(x) + S(skip))`:

    | `residual`    | skip                                                       |
    |---------------|------------------------------------------------------------|
    | `"convex"`    | `(1 - s) x + s g`, `s = sigmoid(alpha)` (Eq. 2, the paper)  |
    | `"gradient"`  | `g`                                                        |
    | `"additive"`  | `x + g`                                                    |
    | `"magnitude"` | the norm of `p` over `axis`, the same for all its entries  |
    | `"identity"`  | `x`                                                        |
    | `"scaled"`    | `scale * x`, with a trainable scalar that starts at 1      |
    | `"none"`      | nothing                                                    |

    Where the branch ends in a normalization or a softmax, `p` is taken of the sum of
    the outputs *before* it, because the sum after it does not depend on the input.
    Trailing layers that are affine (convolutions and dense layers without activation,
    average pooling, reshapes) are differentiated once, at batch size 1. Neither
    changes the numbers beyond rounding; `parts` shows what was found. Both see the
    layers of a list, of a `Sequential` and of a functional model, not what is inside
    a layer or model of your own.

    Args:
        branch: The branch F: a layer, a list of layers, or a model with one input and
            one output.
        residual: One of the names above.
        alpha: Initial value of the trainable mix, a number or an initializer. Used
            by `"convex"` only: 0 starts halfway between the input and the gradient,
            -3 at 5 % gradient.
        trainable_alpha: Whether alpha is trained.
        normalize: Whether the gradient is brought to unit norm. If `False`, `g = p`.
            The magnitude is never normalized.
        axis: The axis or axes of the norm, the batch not among them; `None` stands for
            all axes but the batch. It should be the feature axis: the default -1, or 1
            for `"channels_first"` data.
        epsilon: Norms below it are not brought to 1.
        second_order: Whether gradients flow through `p`, so that the gradient term
            itself trains the branch. Costs about one more backward pass.
        shortcut: A layer S applied to the skip, needed where the branch changes the
            shape.
        activation: Activation function applied to the sum.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Floating-point tensor of shape `(batch, ..., features)`.
        training: Passed to the branch and the shortcut.
        mask: Passed to the branch where it takes one. Masked outputs of the branch
            are left out of the sum that `p` is the gradient of, so that results do
            not depend on padding. The output has the mask of the skip.

    Raises:
        ValueError: if an argument is out of its range, or if the shapes of branch and
            skip differ.
        TypeError: if `branch` or `shortcut` is no layer, or the input is not
            floating-point.

    Attributes:
        branch: The branch as one layer; a list has become a `keras.Sequential`.
        alpha: The trainable variable (`"convex"` only, after `build`).
        scale: The trainable variable (`"scaled"` only, after `build`).

    Example:
    >>> dense = keras.layers.Dense
    >>> layer = GradientResidual([dense(8, activation="tanh"), dense(4)])
    >>> layer(np.ones((2, 4), "float32")).shape
    (2, 4)
    >>> layer.mix
    0.5
    """

    def __init__(
        self,
        branch: keras.Layer | Sequence[keras.Layer],
        residual: str = "convex",
        alpha: float | Callable | str | dict = 0.0,
        trainable_alpha: bool = True,
        normalize: bool = True,
        axis: int | Sequence[int] | None = -1,
        epsilon: float = 1e-12,
        second_order: bool = False,
        shortcut: keras.Layer | None = None,
        activation: Callable | str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if residual not in _RESIDUALS:
            raise ValueError(
                f"`residual` must be one of {_RESIDUALS}. Received: residual={residual}"
            )
        if not _SMALLEST_NORMAL <= epsilon < math.inf:
            raise ValueError(
                "`epsilon` must be a positive number, not below the smallest normal "
                f"float32 ({_SMALLEST_NORMAL}). Received: epsilon={epsilon}"
            )
        if shortcut is not None and not isinstance(shortcut, keras.Layer):
            raise TypeError(
                f"`shortcut` must be a Keras layer. Received: shortcut={shortcut} "
                f"(of type {type(shortcut)})"
            )
        if shortcut is not None and residual == "none":
            raise ValueError(
                "`shortcut` cannot be used with residual='none', which has no skip. "
                f"Received: shortcut={shortcut}"
            )
        self.branch: Any = (
            None if branch is MADE_IN_BUILD else arguments.as_layer(branch)
        )
        self.residual = residual
        self.alpha_initializer = arguments.as_initializer(alpha)
        self.alpha: Any = None
        self.scale: Any = None
        self.trainable_alpha = trainable_alpha
        self.normalize = normalize
        self.axis = arguments.standardize_axis(axis)
        self.epsilon = epsilon
        self.second_order = second_order
        self.shortcut = shortcut
        self.activation = activations.get(activation)
        self.supports_masking = True
        self._parts: Any = None

    def build(self, input_shape):
        self._norm_axes = arguments.resolve_axes(self.axis, len(input_shape))
        shape = (None, *input_shape[1:])
        output_shape = inner.build(self.branch, "branch", shape, self.compute_dtype)
        skip_shape = shape
        if self.shortcut is not None:
            skip_shape = inner.build(
                self.shortcut, "shortcut", shape, self.compute_dtype
            )
        if self.residual != "none" and not arguments.may_be_equal(
            output_shape, skip_shape
        ):
            raise ValueError(
                "The output of `branch` and the skip must have the same shape. Give a "
                "`shortcut`, a layer that maps the input to the shape of the branch's "
                f"output. Received: the branch's output of shape {output_shape}, and "
                f"the skip of shape {skip_shape} (shortcut={self.shortcut})"
            )
        if self.residual in _WITH_GRADIENT:
            self._parts = split(self.branch)
            self._build_parts(shape)
        # Not cast to the compute dtype: the skip is mixed in float32 at least.
        if self.residual == "convex":
            self.alpha = self.add_weight(
                shape=(),
                initializer=self.alpha_initializer,
                trainable=self.trainable_alpha,
                autocast=False,
                name="alpha",
            )
        if self.residual == "scaled":
            self.scale = self.add_weight(
                shape=(), initializer="ones", autocast=False, name="scale"
            )

    def _build_parts(self, shape):
        """Builds what `split` has joined from layers that are built already."""
        for part in (self._parts.head, self._parts.tail):
            if part is not None:
                shape = inner.build(part, "branch", shape, self.compute_dtype)

    def call(self, inputs, training=None, mask=None):
        self._check_dtype(inputs)
        if self.residual in _WITH_GRADIENT:
            outputs, p = self._value_and_gradient(inputs, training, mask)
        else:
            outputs = self.branch(
                inputs, **inner.call_arguments(self.branch, training, mask)
            )
            p = None
        # A branch may have a dtype policy of its own.
        outputs = ops.cast(outputs, self.compute_dtype)
        if self.residual != "none":
            x = ops.cast(self._skip(inputs, p), self.compute_dtype)
            if self.shortcut is not None:
                x = self.shortcut(
                    x, **inner.call_arguments(self.shortcut, training, mask)
                )
                x = ops.cast(x, self.compute_dtype)
            outputs = outputs + x
        return self.activation(outputs)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        # TensorFlow rematerializes only functions without keyword arguments.
        def call(*args, **kwargs):
            bound = functools.partial(layer_call, **kwargs)
            return super(GradientResidual, self).rematerialized_call(bound, *args)(
                *args
            )

        return call

    def _value_and_gradient(self, inputs, training, mask):
        """F(x) and p, with one call of each of the branch's layers."""
        head, tail, last = self._parts.head, self._parts.tail, self._parts.last
        if head is None:
            outputs, head_mask = inputs, mask
            cotangent = self._cotangent(inputs, inputs, mask)
            p = ops.broadcast_to(cotangent, ops.shape(inputs))
        else:
            head_mask = inner.mask_after(head, inputs, mask)
            outputs, p = backend.vjp(
                head,
                inputs,
                lambda y: self._cotangent(y, inputs, head_mask),
                second_order=self.second_order,
                **inner.call_arguments(head, training, mask),
            )
        mask = head_mask
        for layer in last if tail is None else (tail, *last):
            inputs = outputs
            outputs = layer(inputs, **inner.call_arguments(layer, training, mask))
            mask = inner.mask_after(layer, inputs, mask)
        return outputs, p

    def _cotangent(self, outputs, inputs, mask):
        """J_T^T 1: the cotangent of the head's `outputs`, which `mask` masks.

        For one sample, or for each one where the mask takes positions out of the sum.
        """
        cotangent = ops.ones((1, *ops.shape(outputs)[1:]), dtype=outputs.dtype)
        tail = self._parts.tail
        if tail is not None:
            # Affine: the derivative is the same everywhere, so also at 1.
            _, cotangent = backend.vjp(
                tail, cotangent, ops.ones_like, second_order=self.second_order
            )
            # The tail layers that keep a mask do not mix positions.
            mask = mask if inner.mask_after(tail, inputs, mask) is not None else None
        if mask is not None:
            for _ in range(len(outputs.shape) - len(mask.shape)):
                mask = ops.expand_dims(mask, -1)
            cotangent = cotangent * ops.cast(mask, cotangent.dtype)
        return cotangent

    def _skip(self, x, p):
        if self.residual == "identity":
            return x
        # In half precision squares overflow, and so do sums for a scalar's gradient.
        dtype = keras.backend.result_type(x.dtype, "float32")
        x = ops.cast(x, dtype)
        if self.residual == "scaled":
            return ops.cast(self.scale, dtype) * x
        p = ops.cast(p, dtype)
        if self.residual == "magnitude":
            return skip.norm(p, self._norm_axes, self.epsilon)
        r = 1.0
        if self.normalize:
            r = skip.inverse_norm(p, self._norm_axes, self.epsilon)
        if self.residual == "gradient":
            return r * p
        if self.residual == "additive":
            return x + r * p
        return skip.convex(x, p, r, ops.cast(self.alpha, dtype))

    @property
    def mix(self) -> float | None:
        """The current `sigmoid(alpha)`, a float; `None` unless residual="convex"."""
        if self.residual != "convex":
            return None
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' has no `mix` before it is built. Call it on an "
                "input first."
            )
        return float(ops.convert_to_numpy(ops.sigmoid(self.alpha)))

    @property
    def parts(self) -> dict[str, list[str]] | None:
        """What the gradient is taken of: a dict of the names of the branch's layers.

        `"head"` is differentiated, `"affine_tail"` is differentiated at batch size 1,
        and `"trailing"` is left out of the gradient. `None` before `build`, and where
        `residual` needs no gradient.
        """
        return None if self._parts is None else self._parts.summary()

    def compute_output_shape(self, input_shape):
        spec = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        return tuple(self.branch.compute_output_spec(spec).shape)

    def compute_output_spec(self, inputs, training=None, mask=None):
        self._check_dtype(inputs)
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def compute_mask(self, inputs, previous_mask):
        layer = self.branch if self.residual == "none" else self.shortcut
        if layer is None:
            return previous_mask
        return inner.mask_after(layer, inputs, previous_mask)

    def get_config(self):
        return {
            **super().get_config(),
            "branch": keras.saving.serialize_keras_object(self.branch),
            "residual": self.residual,
            "alpha": initializers.serialize(self.alpha_initializer),
            "trainable_alpha": self.trainable_alpha,
            "normalize": self.normalize,
            "axis": self.axis,
            "epsilon": self.epsilon,
            "second_order": self.second_order,
            "shortcut": keras.saving.serialize_keras_object(self.shortcut),
            "activation": activations.serialize(self.activation),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("branch", "shortcut"):
            if isinstance(config.get(name), dict):
                # A copy: deserialization may empty what it is given.
                serialized = copy.deepcopy(config[name])
                config[name] = keras.saving.deserialize_keras_object(serialized)
        return cls(**config)

    def _check_dtype(self, inputs):
        if not keras.backend.is_float_dtype(inputs.dtype):
            raise TypeError(
                "The inputs must be floating-point: there is no gradient with respect "
                f"to other types. Received: inputs of dtype {inputs.dtype}"
            )
