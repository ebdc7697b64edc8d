"""The kinds of residual: what is added to the branch, one entry of a table each.

For a branch F with input x, p = J_F(x)^T 1 and its unit vector g = r p:

    none        0                        scaled      scale x
    identity    x                        gain        x + gamma g
    convex      (1 - s) x + s g          gradient    g
    additive    x + g                    magnitude   |p|

Adding a kind is adding an entry.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_gradres.layers import skip


@dataclasses.dataclass(frozen=True)
class Gradient:
    """p, and how it is brought to unit norm.

    Attributes:
        p: The gradient, in float32 at least.
        axes: The axes of the norm.
        epsilon: Norms below it are not brought to 1.
        normalize: Whether g is p / |p|, or p itself.
    """

    p: Any
    axes: tuple[int, ...]
    epsilon: float
    normalize: bool

    @property
    def r(self) -> Any:
        """What p is multiplied by to give g."""
        if not self.normalize:
            return 1.0
        return skip.inverse_norm(self.p, self.axes, self.epsilon)

    def norm(self) -> Any:
        """|p|, of the shape of p."""
        return skip.norm(self.p, self.axes, self.epsilon)


@dataclasses.dataclass(frozen=True)
class Residual:
    """A kind of residual.

    Attributes:
        formula: From x, the `Gradient` and the weight to the skip, of the shape of x.
        by_input: From the weight to the derivative of the skip by x, g being constant.
        needs_gradient: Whether it is to be given the gradient.
        weight: The name of its weight, or `None`.
        per_feature: Whether the weight has an entry for each feature, or one in all.
        initializer: That of the weight, where the layer has no argument for it.
    """

    formula: Callable[[Any, Any, Any], Any]
    by_input: Callable[[Any], Any]
    needs_gradient: bool = True
    weight: str | None = None
    per_feature: bool = False
    initializer: str | None = None


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
