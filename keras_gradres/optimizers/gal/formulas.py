"""The mathematics of gradient adjustment learning, as functions of tensors.

Eq. 4, 5, 7 and Algorithm 1 of "Learning to Minimize the Remainder in Supervised
Learning" (arXiv 2201.09193), for a model output z with loss l(z), an adjustment
v = h(z; theta) and a learning rate eta:

    v~ = alpha |dl/dz| v / |v|                              (4)
    g  = dl/dz + v~                                         (5)
    l+ = l(z - eta~ g),  eta~ = beta eta                    the tentative step
    accept v~ if l+ <= l(z)                                 (Algorithm 1, line 7)
    r  = l+ - l(z) + eta~ <dl/dz, g>                        (7)

The network h is trained to make |r| small; the model gets g where v~ is accepted, and
dl/dz elsewhere.

Usage, for one loss for each row of z:

    dv = adjustment(dl_dz, h(z), alpha=0.001, axes=(1,))
    g = dl_dz + dv
    after = loss(z - step_size * g)
    r = remainder(after, loss(z), ops.sum(dl_dz * g, axis=1), step_size)
"""

from collections.abc import Callable

from keras import ops

from keras_gradres.typing import Tensor

POLICIES = ("less_equal", "less", "always", "never", "improve")

# A vector whose norm is not above this has no direction.
_EPSILON = 1e-12


def adjustment(
    gradient: Tensor,
    v: Tensor,
    alpha: float,
    axes: tuple[int, ...],
    normalize: bool = True,
) -> Tensor:
    """v~ of Eq. 4: the direction of `v`, with `alpha` times the norm of the gradient.

    Args:
        gradient: dl/dz, of any shape, a constant.
        v: The output of the adjustment network, of the same shape.
        alpha: The norm of v~ in units of that of the gradient.
        axes: The axes of the norms.
        normalize: Whether `v` is divided by its norm.

    Returns:
        A tensor of the shape of `v`. It and its derivative are zero where the norm of
        `v` is 1e-12 or less.
    """
    if normalize:
        length = norm(v, axes)
        v = v / length * ops.cast(length > 2 * _EPSILON, v.dtype)
    # Not `norm`, since this must be exactly zero where the gradient is. Its derivative
    # at zero would be infinite, but it is not differentiated.
    size = ops.sqrt(ops.sum(gradient * gradient, axis=axes, keepdims=True))
    return alpha * size * v


def norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """|x| over `axes`, which are kept: sqrt(x^2 + 1e-24), so that it can divide."""
    # Not `skip.norm`, which scales against overflow. That takes time in each eager
    # step, and here an overflow only means that the step is not adjusted.
    return ops.sqrt(ops.sum(x * x, axis=axes, keepdims=True) + _EPSILON**2)


def remainder(
    after: Tensor, before: Tensor, decrease: Tensor, step_size: Tensor
) -> Tensor:
    """The remainder r of Eq. 7: the change of the loss without its first-order term.

    Args:
        after: l(z - eta~ g), one number for each sample, or for the batch.
        before: l(z).
        decrease: <dl/dz, g>.
        step_size: eta~.
    """
    return after - before + step_size * decrease


def accepts(
    policy: str, after: Tensor, before: Tensor, vanilla: Callable[[], Tensor]
) -> Tensor:
    """Where the adjustment is used: Algorithm 1, lines 7 to 10.

    Args:
        policy: `"less_equal"` (line 7): where the tentative step does not raise the
            loss; `"less"`: where it lowers the loss; `"always"` (line 8); `"never"`
            (line 10); `"improve"` (ours): where the loss after it is lower than after
            the step along dl/dz.
        after: l(z - eta~ g).
        before: l(z).
        vanilla: A function that returns l(z - eta~ dl/dz).

    Returns:
        Booleans of the shape of `after`.
    """
    if policy == "less_equal":
        return after <= before
    if policy == "less":
        return after < before
    if policy == "improve":
        return after < vanilla()
    return ops.full_like(after, policy == "always", dtype="bool")
