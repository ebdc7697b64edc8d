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
    after = loss(z - step * (dl_dz + dv))
    r = remainder(after, loss(z), inner(dl_dz, dl_dz + dv), step)
"""

from collections.abc import Callable
from typing import Any

from keras import ops

POLICIES = ("less_equal", "less", "always", "never", "improve")

# A vector that is no longer has no direction.
_EPSILON = 1e-12


def adjustment(
    gradient: Any, v: Any, alpha: float, axes: tuple[int, ...], normalize: bool = True
) -> Any:
    """v~ of Eq. 4: `v` brought to `alpha` times the length of the gradient.

    Args:
        gradient: dl/dz, of any shape, a constant.
        v: The output of the adjustment network, of the same shape.
        alpha: The length of v~ in units of the gradient's.
        axes: The axes of the norms.
        normalize: Whether `v` is divided by its norm.

    Returns:
        A tensor of the shape of `v`; zero, with a derivative of zero, where the norm of
        `v` is 1e-12 and below.
    """
    if normalize:
        length = norm(v, axes)
        v = v / length * ops.cast(length > 2 * _EPSILON, v.dtype)
    # Exactly zero where the gradient is, unlike `norm`, and differentiated by nobody.
    size = ops.sqrt(ops.sum(gradient * gradient, axis=axes, keepdims=True))
    return alpha * size * v


def norm(x: Any, axes: tuple[int, ...]) -> Any:
    """|x| over `axes`, which are kept: sqrt(x^2 + 1e-24), so that it can divide."""
    # Not `skip.norm`: what scaling against overflow takes is felt in each eager step,
    # and here an overflow drops the adjustment of the step.
    return ops.sqrt(ops.sum(x * x, axis=axes, keepdims=True) + _EPSILON**2)


def remainder(after: Any, before: Any, decrease: Any, step: Any) -> Any:
    """R of Eq. 7: what the loss does that its first-order Taylor step does not say.

    Args:
        after: l(z - eta~ g), one number for each sample, or for the batch.
        before: l(z).
        decrease: <dl/dz, g>.
        step: eta~.
    """
    return after - before + step * decrease


def accepts(policy: str, after: Any, before: Any, vanilla: Callable[[], Any]) -> Any:
    """Where the adjustment is used: Algorithm 1, lines 7 to 10.

    Args:
        policy: `"less_equal"` (line 7): the tentative step does not raise the loss;
            `"less"`: it lowers it; `"always"` (line 8); `"never"` (line 10);
            `"improve"` (ours): it lowers the loss more than the step along dl/dz.
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
