"""The gradient residual connection, as a wrapper around any branch.

For a branch F with input x (arXiv 2602.09190):

    p = J_F(x)^T 1                              gradient of sum_i F_i(x)
    g = p / max(|p|_2, epsilon)                 over the feature axis
    y = F(x) + (1 - s) x + s g,  s = sigmoid(alpha)                   (Eq. 2)
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import activations, initializers, ops

from keras_gradres import checks, precision
from keras_gradres.layers import arguments
from keras_gradres.layers.branch_wrapper import BranchWrapper
from keras_gradres.layers.residuals import RESIDUALS, Gradient, default_epsilon
from keras_gradres.layers.vanishing import Measurements
from keras_gradres.pullbacks.walk import Run
from keras_gradres.typing import (
    ActivationLike,
    Axis,
    Config,
    InitializerLike,
    Mask,
    Shape,
    Tensor,
)


@keras.saving.register_keras_serializable(package="keras_gradres")
class GradientResidual(BranchWrapper):
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

    `"gain"` is ours. Its `gamma` starts at zero, so that the layer starts exactly as an
    identity residual.

    The defaults are those of the paper. What gains most in our studies is
    `residual="gain"` with `second_order=True` and smooth activations.

    Each layer of the branch is called once. Then its pullback, the function from the
    cotangent of its output to that of its input, is computed with `keras.ops`
    (`keras_gradres.pullbacks`). A layer for which there is no rule is differentiated
    automatically; `parts` names those layers.

    The sum of what a normalization or a softmax returns does not depend on its input.
    So, where the branch ends in one, `p` is the gradient of the sum of what goes into
    it. Where the gradient of the branch would still vanish, the layer raises.

    Args:
        branch: The branch F: a layer, a list of layers, or a model with one input and
            one output.
        residual: One of the names above.
        alpha: Initial value of the trainable mix of `"convex"`, a number or an
            initializer: 0 starts halfway between the input and the gradient, -3 at 5 %
            gradient.
        trainable_alpha: Whether alpha is trained.
        normalize: Whether the gradient is brought to unit norm. If `False`, `g = p`.
            The magnitude is never normalized.
        axis: The axis or axes of the norm, the batch not among them; `None` stands for
            all axes but the batch. It should be the feature axis: the default -1, or 1
            for `"channels_first"` data.
        epsilon: Where the norm of `p` is below it, `p` is divided by `epsilon` instead.
            So the rounding noise of a gradient that is zero stays small. By default 64
            times the spacing of the compute dtype at 1, which is 7.6e-6 in float32; 4
            times in half precision.
        second_order: Whether gradients flow through `p`, so that the gradient term
            itself trains the branch. With smooth activations the gain is only there.
            If `False`, `p` is a constant for every derivative, also for that of the
            output by the input. A network that is differentiated by its input, as in a
            differential equation, needs `True`.
        shortcut: A layer S applied to the skip, needed where the branch changes the
            shape.
        activation: Activation function applied to the sum.
        skip_first: Whether the sum is `x + F(x)` instead of `F(x) + x`. The numbers are
            the same. On PyTorch the sum has the memory layout of the first summand, on
            which the rounding of later layers may depend.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Floating-point tensor of shape `(batch, ..., features)`.
        training: Passed to the branch and the shortcut.
        mask: Passed to the branch where it takes one. Results must not depend on
            padding, so masked outputs of the branch are left out of the sum that `p` is
            the gradient of. The output has the mask of the skip.

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
    >>> import keras
    >>> import numpy as np
    >>> from keras_gradres.layers import GradientResidual
    >>> dense = keras.layers.Dense
    >>> layer = GradientResidual([dense(8, activation="tanh"), dense(4)])
    >>> tuple(layer(np.ones((2, 4), "float32")).shape)
    (2, 4)
    >>> layer.mix
    0.5
    """

    def __init__(
        self,
        branch: keras.Layer | Sequence[keras.Layer],
        residual: str = "convex",
        alpha: float | InitializerLike = 0.0,
        trainable_alpha: bool = True,
        normalize: bool = True,
        axis: Axis = -1,
        epsilon: float | None = None,
        second_order: bool = False,
        shortcut: keras.Layer | None = None,
        activation: ActivationLike = None,
        skip_first: bool = False,
        **kwargs: Any,
    ) -> None:
        arguments.check_residual(residual)
        arguments.check_epsilon(epsilon)
        arguments.check_shortcut(shortcut, residual)
        super().__init__(branch, shortcut, has_skip=residual != "none", **kwargs)
        self.residual = residual
        self.alpha_initializer = arguments.as_initializer(alpha)
        self.alpha: keras.Variable | None = None
        self.gamma: keras.Variable | None = None
        self.scale: keras.Variable | None = None
        self.trainable_alpha = trainable_alpha
        self.normalize = normalize
        self.axis = arguments.standardize_axis(axis)
        self.epsilon = epsilon
        self.second_order = second_order
        self.activation: Callable = activations.get(activation)
        self.skip_first = skip_first
        self.kind = RESIDUALS[residual]

    def build(self, input_shape: Shape) -> None:
        arguments.resolve_axes(self.axis, len(input_shape))
        super().build(input_shape)
        if self.kind.needs_gradient:
            arguments.check_data_format(self.axis, self.graph.layers, len(input_shape))
            self._measured = Measurements(self.graph, self.branch, self.compute_dtype)
            if not self.graph.is_certain:
                # For training the result is only kept, and `call` raises by it: layers
                # may still be frozen.
                self._measured.reason(self._built_shape, training=True)
                self._measured.check(self._built_shape, training=False)
        if self.kind.weight is not None:
            self._add_weight(self.kind.weight)

    def _add_weight(self, name: str) -> None:
        """The weight of the skip; not cast, since it is mixed in float32 at least."""
        kind = self.kind
        shape: tuple[int, ...] = ()
        if kind.per_feature:
            reason = (
                f" with residual='{self.residual}', which has a weight for each entry"
            )
            axis = arguments.resolve_axes(self.axis, len(self._built_shape))[-1]
            shape = (checks.known_size(self._built_shape, axis, reason),)
        weight = self.add_weight(
            shape=shape,
            initializer=kind.initializer or self.alpha_initializer,
            trainable=self.trainable_alpha if name == "alpha" else True,
            autocast=False,
            name=name,
        )
        setattr(self, name, weight)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Mask = None
    ) -> Tensor:
        inputs = self.cast_inputs(inputs)
        run = self.graph.run(
            inputs,
            training,
            mask,
            second_order=self.second_order,
            differentiate=self.kind.needs_gradient,
        )
        skip = self.compute_skip(inputs, run, training)
        if skip is not None and self.shortcut is not None:
            skip = self.shortcut_graph.run(
                skip, training, mask, differentiate=False
            ).output
        return self.activation(self.add_skip(run.output, skip))

    def cast_inputs(self, inputs: Tensor) -> Tensor:
        inputs = super().cast_inputs(inputs)
        arguments.resolve_axes(self.axis, len(inputs.shape))
        return inputs

    def compute_skip(self, x: Tensor, run: Run, training: bool | None) -> Tensor:
        """The skip before the shortcut, of the shape of x; `None` if there is none."""
        kind = self.kind
        axes = arguments.resolve_axes(self.axis, len(x.shape))
        gradient = None
        if kind.needs_gradient:
            p = run.gradient()
            if not run.is_certain:
                self._measured.check(x.shape, bool(training))
            gradient = Gradient(
                ops.cast(
                    p if self.second_order else ops.stop_gradient(p),
                    precision.wide(x.dtype),
                ),
                axes,
                default_epsilon(x.dtype) if self.epsilon is None else self.epsilon,
                self.normalize,
            )
        weight = getattr(self, kind.weight) if kind.weight else None
        return kind.skip(x, gradient, weight, axes[-1])

    def add_skip(self, outputs: Tensor, skip: Tensor) -> Tensor:
        """The sum, in the compute dtype, which the branch may not have."""
        outputs = ops.cast(outputs, self.compute_dtype)
        if skip is None:
            return outputs
        skip = ops.cast(skip, self.compute_dtype)
        return skip + outputs if self.skip_first else outputs + skip

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
        """How the gradient is computed, as a dict of lists of the names of layers.

        - `"closed_form"`: by the rule for the layer;
        - `"affine_tail"`: likewise, and for one sample only: at the end of the branch,
          where the layers are affine, the pullback is the same for all samples;
        - `"trailing"`: not at all, since `p` is the gradient of the sum of what goes
          into this layer;
        - `"automatic_differentiation"`: automatically, since there is no rule.

        `None` before `build`, and where `residual` needs no gradient.
        """
        if not self.built or not self.kind.needs_gradient:
            return None
        return self.graph.parts(self._built_shape, self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "residual": self.residual,
            "alpha": initializers.serialize(self.alpha_initializer),
            "trainable_alpha": self.trainable_alpha,
            "normalize": self.normalize,
            "axis": self.axis,
            "epsilon": self.epsilon,
            "second_order": self.second_order,
            "activation": activations.serialize(self.activation),
            "skip_first": self.skip_first,
        }
