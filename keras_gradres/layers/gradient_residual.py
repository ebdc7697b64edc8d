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

from keras_gradres import precision
from keras_gradres.layers import arguments, inner, vanishing
from keras_gradres.layers.residuals import RESIDUALS, Gradient
from keras_gradres.pullbacks import Graph

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
    | `"gain"`      | `x + gamma g`, `gamma` trained, one entry for each feature  |
    | `"identity"`  | `x`                                                        |
    | `"scaled"`    | `scale * x`, with a trainable scalar that starts at 1      |
    | `"none"`      | nothing                                                    |

    `"gain"` is ours: `gamma` starts at zero, so that the layer starts exactly as an
    identity residual.

    The defaults are the paper's, so that the layer without arguments is the method by
    its name. What gains most in our studies is `residual="gain"` with
    `second_order=True` and smooth activations.

    The gradient is an ordinary computation: each layer of the branch is called once,
    and its pullback, the function from the cotangent of its output to that of its
    input, is written with `keras.ops` (`keras_gradres.pullbacks`). A layer for which
    there is no rule is differentiated automatically, that layer alone; `parts` shows
    which layers those are.

    Where the branch ends in a normalization or a softmax, `p` is taken of the sum of
    what goes into it, because the sum of what comes out does not depend on the input.
    Where the gradient of the branch would vanish otherwise, the layer raises.

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
        epsilon: Norms below it are not brought to 1. By default some tens of the
            units in which the compute dtype rounds, 7.6e-6 in float32, so that the
            rounding noise of a gradient that is zero stays small.
        second_order: Whether gradients flow through `p`, so that the gradient term
            itself trains the branch. With smooth activations the gain is only there.
            If `False`, `p` is a constant for every derivative: that of the loss by the
            weights, and also that of the output by the input, which then leaves out
            the term of `p`. Who differentiates a network by its input, as in a
            differential equation, needs `True`.
        shortcut: A layer S applied to the skip, needed where the branch changes the
            shape.
        activation: Activation function applied to the sum.
        skip_first: Whether the skip is the first summand, as in `x + F(x)`, and not the
            second. The numbers are the same; on PyTorch the sum has the memory layout
            of the first, on which the rounding of what follows may depend.
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
        gamma: The trainable variable (`"gain"` only, after `build`).
        scale: The trainable variable (`"scaled"` only, after `build`).

    Example:
    >>> dense = keras.layers.Dense
    >>> layer = GradientResidual([dense(8, activation="tanh"), dense(4)])
    >>> y = layer(np.ones((2, 4), "float32"))
    >>> tuple(y.shape)
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
        epsilon: float | None = None,
        second_order: bool = False,
        shortcut: keras.Layer | None = None,
        activation: Callable | str | dict | None = None,
        skip_first: bool = False,
        **kwargs: Any,
    ) -> None:
        # The layers of the branch have dtypes of their own; `call` casts the inputs.
        super().__init__(autocast=False, **kwargs)
        if residual not in RESIDUALS:
            raise ValueError(
                f"`residual` must be one of {tuple(RESIDUALS)}. "
                f"Received: residual={residual}"
            )
        if epsilon is not None and not _SMALLEST_NORMAL <= epsilon < math.inf:
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
        self.gamma: Any = None
        self.scale: Any = None
        self.trainable_alpha = trainable_alpha
        self.normalize = normalize
        self.axis = arguments.standardize_axis(axis)
        self.epsilon = epsilon
        self.second_order = second_order
        self.shortcut = shortcut
        self.activation = activations.get(activation)
        self.skip_first = skip_first
        self.supports_masking = True
        self.kind = RESIDUALS[residual]
        self.graph: Any = None  # The calls of the branch, once it is built.
        self.shortcut_graph: Any = None
        self._measured = vanishing.Measured()

    def build(self, input_shape):
        arguments.resolve_axes(self.axis, len(input_shape))
        shape = self._built_shape = (None, *input_shape[1:])
        output_shape = inner.build(self.branch, "branch", shape, self.compute_dtype)
        skip_shape = shape
        if self.shortcut is not None:
            skip_shape = inner.build(
                self.shortcut, "shortcut", shape, self.compute_dtype
            )
            self.shortcut_graph = Graph(self.shortcut)
        if self.residual != "none" and not arguments.may_be_equal(
            output_shape, skip_shape
        ):
            raise ValueError(
                "The output of `branch` and the skip must have the same shape. Give a "
                "`shortcut`, a layer that maps the input to the shape of the branch's "
                f"output. Received: the branch's output of shape {output_shape}, and "
                f"the skip of shape {skip_shape} (shortcut={self.shortcut})"
            )
        self.graph = Graph(self.branch)
        if self.kind.needs_gradient:
            arguments.check_data_format(self.axis, self.graph.layers, len(shape))
            if not self.graph.is_certain:
                # Training depends on what is frozen, which may change.
                self._measure(shape, training=True)
                vanishing.refuse(self._measure(shape, training=False))
        if self.kind.weight is not None:
            self._add_weight(self.kind.weight, shape)

    def _add_weight(self, name, shape):
        """The weight of the skip; not cast, since it is mixed in float32 at least."""
        kind = self.kind
        weight = self.add_weight(
            shape=(self._features(shape),) if kind.per_feature else (),
            initializer=kind.initializer or self.alpha_initializer,
            trainable=self.trainable_alpha if name == "alpha" else True,
            autocast=False,
            name=name,
        )
        setattr(self, name, weight)

    def _feature_axis(self, rank):
        """The axis along which `gamma` has entries: the last one of the norm."""
        if self.axis is None:
            return rank - 1
        return arguments.resolve_axes(self.axis, rank)[-1]

    def _features(self, shape):
        axis = self._feature_axis(len(shape))
        if shape[axis] is None:
            raise ValueError(
                f"The size of axis {axis} of the inputs must be known with "
                f"residual='{self.residual}', which has a weight for each entry. "
                f"Received: inputs of shape {shape}"
            )
        return shape[axis]

    def call(self, inputs, training=None, mask=None):
        inputs = self.checked(inputs)
        run = self.graph.run(
            inputs,
            training,
            mask,
            second_order=self.second_order,
            differentiate=self.kind.needs_gradient,
        )
        skip = self.skip(inputs, run, training)
        if skip is not None and self.shortcut is not None:
            skip = self.shortcut_graph.run(
                skip, training, mask, differentiate=False
            ).output
        return self.activation(self.sum(run, skip))

    def sum(self, run, skip):
        # A branch may have a dtype policy of its own.
        outputs = ops.cast(run.output, self.compute_dtype)
        if skip is None:
            return outputs
        skip = ops.cast(skip, self.compute_dtype)
        return skip + outputs if self.skip_first else outputs + skip

    def rematerialized_call(self, layer_call, *args, **kwargs):
        # TensorFlow rematerializes only functions without keyword arguments.
        def call(*args, **kwargs):
            bound = functools.partial(layer_call, **kwargs)
            return super(GradientResidual, self).rematerialized_call(bound, *args)(
                *args
            )

        return call

    def skip(self, x, run, training):
        kind = self.kind
        if self.residual in ("identity", "none"):
            return kind.formula(x, None, None)
        # In half precision squares overflow, and so do sums for a scalar's gradient.
        dtype = precision.wide(x.dtype)
        rank = len(x.shape)
        gradient = None
        if kind.needs_gradient:
            gradient = Gradient(
                ops.cast(self._gradient(run, x.shape, training), dtype),
                arguments.resolve_axes(self.axis, rank),
                self._epsilon(x.dtype),
                self.normalize,
            )
        weight = None
        if kind.weight is not None:
            weight = ops.cast(getattr(self, kind.weight), dtype)
        if kind.per_feature:
            places = [1] * rank
            places[self._feature_axis(rank)] = -1
            weight = ops.reshape(weight, places)
        x = kind.formula(ops.cast(x, dtype), gradient, weight)
        return ops.cast(x, self.compute_dtype)

    def _gradient(self, run, shape, training):
        p = run.gradient()
        if not run.is_certain:
            vanishing.refuse(self._measure(shape, bool(training)))
        return p if self.second_order else ops.stop_gradient(p)

    def _measure(self, shape, training):
        return self._measured.reason(
            self.graph, self.branch, shape, self.compute_dtype, training
        )

    def _epsilon(self, dtype):
        if self.epsilon is not None:
            return self.epsilon
        dtype = keras.backend.standardize_dtype(dtype)
        # Sums of products are made in float32 whatever is summed, and round by some
        # tens of units; in half precision the result is rounded once more.
        units = 4 if dtype in ("float16", "bfloat16") else 64
        return units * precision.spacing(dtype)

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
        """What becomes of the layers of the branch, a dict of lists of their names.

        - `"closed_form"`: the pullback is an ordinary computation;
        - `"affine_tail"`: so it is, and it is computed for one sample, for all;
        - `"trailing"`: the sum is taken of what goes into it;
        - `"automatic_differentiation"`: there is no rule, and the layer is
          differentiated automatically.

        `None` before `build`, and where `residual` needs no gradient.
        """
        if self.graph is None or not self.kind.needs_gradient:
            return None
        return self.graph.parts(self._built_shape, self.compute_dtype)

    @property
    def layers(self) -> list[keras.Layer]:
        """The branch and the shortcut, for `summary(expand_nested=True)`."""
        return [layer for layer in (self.branch, self.shortcut) if layer is not None]

    def compute_output_shape(self, input_shape):
        spec = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        if self.residual == "none":
            return tuple(self.branch.compute_output_spec(spec).shape)
        if self.shortcut is not None:
            return tuple(self.shortcut.compute_output_spec(spec).shape)
        return tuple(input_shape)

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
            "skip_first": self.skip_first,
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

    def checked(self, inputs):
        self._check_dtype(inputs)
        arguments.resolve_axes(self.axis, len(inputs.shape))
        return ops.cast(inputs, self.compute_dtype)

    def _check_dtype(self, inputs):
        if not keras.backend.is_float_dtype(inputs.dtype):
            raise TypeError(
                "The inputs must be floating-point: there is no gradient with respect "
                f"to other types. Received: inputs of dtype {inputs.dtype}"
            )
