"""The kinds of residual: what is added to the branch, one entry of a table each.

For a branch F with input x, p = J_F(x)^T 1 and its unit vector g = r p:

    none        0                        scaled      scale x
    identity    x                        gain        x + gamma g
    convex      (1 - s) x + s g          gradient    g
    additive    x + g                    magnitude   |p|

To add a kind, add an entry.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gradres import precision
from keras_gradres.layers import skip
from keras_gradres.typing import Dtype, Tensor


@dataclasses.dataclass(frozen=True)
class Gradient:
    """p, and how it is brought to unit norm.

    Attributes:
        p: The gradient, in float32 at least.
        axes: The axes of the norm.
        epsilon: Where the norm is below it, p is divided by `epsilon` instead.
        normalize: Whether g is p / |p|, or p itself.
    """

    p: Tensor
    axes: tuple[int, ...]
    epsilon: float
    normalize: bool

    @property
    def r(self) -> Tensor:
        """The factor r in g = r p."""
        if not self.normalize:
            return 1.0
        return skip.inverse_norm(self.p, self.axes, self.epsilon)

    def norm(self) -> Tensor:
        """|p|, of the shape of p."""
        return skip.norm(self.p, self.axes, self.epsilon)


@dataclasses.dataclass(frozen=True)
class Residual:
    """A kind of residual.

    Attributes:
        formula: From x, the `Gradient` and the weight to the skip, of the shape of x.
        by_input: From the weight to the derivative of the skip by x, g being constant.
        needs_gradient: Whether the formula uses the gradient.
        weight: The name of its weight, or `None`.
        per_feature: Whether the weight has an entry for each feature, or is a scalar.
        initializer: That of the weight, where the layer has no argument for it.
    """

    formula: Callable[[Tensor, Any, Tensor], Tensor]
    by_input: Callable[[Tensor], Tensor]
    needs_gradient: bool = True
    weight: str | None = None
    per_feature: bool = False
    initializer: str | None = None

    def skip(
        self,
        x: Tensor,
        gradient: Gradient | None,
        weight: keras.Variable | None,
        feature_axis: int,
    ) -> Tensor:
        """The skip, of the shape and dtype of x.

        In half precision squares overflow, and so do the sums in the derivative of a
        scalar weight. So the formula is computed in float32 at least.

        Args:
            x: The input.
            gradient: The gradient, if `needs_gradient`.
            weight: The variable, if `weight` is a name.
            feature_axis: The axis of x along which a weight per feature has entries.
        """
        if gradient is None and weight is None:  # Nothing is computed.
            return self.formula(x, None, None)
        dtype = precision.wide(x.dtype)
        if weight is not None:
            weight = ops.cast(weight, dtype)
        if self.per_feature:
            shape = [1] * len(x.shape)
            shape[feature_axis] = -1
            weight = ops.reshape(weight, shape)
        value = self.formula(ops.cast(x, dtype), gradient, weight)
        return ops.cast(value, x.dtype)


def default_epsilon(dtype: Dtype) -> float:
    """The smallest norm that is brought to 1, above the rounding noise of a zero p.

    Sums of products are made in float32 whatever is summed, and round by some tens of
    units; in half precision the result is rounded once more.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    units = 4 if dtype in ("float16", "bfloat16") else 64
    return units * precision.spacing(dtype)


RESIDUALS = {
    "convex": Residual(
        lambda x, g, alpha: skip.convex(x, g.p, g.r, alpha),
        lambda alpha: 1 - ops.sigmoid(alpha),
        weight="alpha",
    ),
    "gradient": Residual(lambda x, g, _: g.r * g.p, lambda _: 0),
    "additive": Residual(lambda x, g, _: x + g.r * g.p, lambda _: 1),
    "magnitude": Residual(lambda x, g, _: g.norm(), lambda _: 0),
    "gain": Residual(
        lambda x, g, gamma: skip.gain(x, g.p, g.r, gamma),
        lambda gamma: 1,
        weight="gamma",
        per_feature=True,
        initializer="zeros",
    ),
    "identity": Residual(lambda x, g, _: x, lambda _: 1, needs_gradient=False),
    "scaled": Residual(
        lambda x, g, scale: scale * x,
        lambda scale: scale,
        needs_gradient=False,
        weight="scale",
        initializer="ones",
    ),
    "none": Residual(lambda x, g, _: None, lambda _: 0, needs_gradient=False),
}
