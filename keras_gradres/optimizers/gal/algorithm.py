"""Algorithm 1 of GAL for one output: from dl/dz to the gradient to propagate."""

import dataclasses
import math
from typing import Any

from keras import ops

from keras_gradres import checks
from keras_gradres.optimizers.gal import formulas
from keras_gradres.typing import Tensor, TensorFunction

GRANULARITIES = ("sample", "batch", "reference")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `GAL` that Algorithm 1 needs, checked."""

    alpha: float
    beta: float
    granularity: str
    policy: str
    normalize: bool

    def __post_init__(self) -> None:
        self._check("alpha", "in [0, 1]", _is_number(self.alpha) and self.alpha <= 1)
        self._check("beta", "positive", _is_number(self.beta) and self.beta > 0)
        policies = formulas.POLICIES
        self._check("policy", f"one of {policies}", self.policy in policies)
        known = self.granularity in GRANULARITIES
        self._check("granularity", f"one of {GRANULARITIES}", known)

    def _check(self, name: str, expected: str, valid: bool) -> None:
        if not valid:
            value = getattr(self, name)
            raise ValueError(f"`{name}` must be {expected}. Received: {name}={value}")


class Algorithm1:
    """One step of Algorithm 1.

    A *sample* is an entry of the unreduced loss. With z of shape (N, Q, 4) and a loss
    for each box, of shape (N, Q), a sample is a box.

    `weights` are the derivative of the total loss by each unreduced loss: sample and
    loss weights, masks, 1 / N, loss scale. dl/dz of a sample is its gradient without
    them. The gradient that is propagated has them.

    Args:
        settings: The `Settings`.
        learning_rate: The current rate of the optimizer, a scalar.
        unreduced_loss: The function from z to the unreduced losses.
        z: The output of the model.
        losses: The unreduced losses at z, of the shape of the first axes of z, or, if
            `granularity` is not `"sample"`, of any shape.
        weights: The derivative of the total loss by `losses`.
        gradient: The derivative of the total loss by z.
    """

    def __init__(
        self,
        settings: Settings,
        learning_rate: Tensor,
        unreduced_loss: TensorFunction,
        z: Tensor,
        losses: Tensor,
        weights: Tensor,
        gradient: Tensor,
    ) -> None:
        self.settings = settings
        self.unreduced_loss = unreduced_loss
        self.z, self.losses, self.gradient = z, losses, gradient
        self.step_size = settings.beta * ops.cast(learning_rate, z.dtype)
        self.per_sample = settings.granularity == "sample"
        rank, samples = len(z.shape), len(losses.shape)
        if not samples or not checks.may_be_equal(losses.shape, z.shape[:samples]):
            if self.per_sample:
                raise ValueError(
                    "`granularity='sample'` needs an unreduced loss, of the shape of "
                    "the first axes of the output. Use `granularity='batch'` for this "
                    f"one. Received: losses of shape {tuple(losses.shape)} for an "
                    f"output of shape {tuple(z.shape)}"
                )
            samples = 0
        separate = samples > 0
        samples = max(samples, 1)
        self.sample_axes = tuple(range(samples))
        self.features = tuple(range(samples, rank))
        # With one entry for each sample v / |v| is a sign, whose derivative is zero: h
        # could never learn. So the norm is over the batch.
        sizes = z.shape[samples:]
        single_entry = None not in sizes and math.prod(sizes) == 1
        self.axes = tuple(range(rank)) if single_entry else self.features
        # Samples of weight 0 must not count in a norm over the batch.
        self.absent = self._over(weights) == 0 if single_entry and separate else None
        total = ops.sum(weights)
        self.weights = _divide(weights, total)  # Their sum is 1.
        # The gradient of the loss of a sample, or of the mean loss of the batch.
        self.scale = self._over(weights) if self.per_sample else total
        self.dl_dz = _divide(gradient, self.scale)
        self.before = self._loss_of(losses)

    def remainder(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean of |r| (Eq. 7), v~, and the loss after the tentative step."""
        settings = self.settings
        if self.absent is not None:
            v = ops.where(self.absent, 0, v)
        dv = formulas.adjustment(
            self.dl_dz, v, settings.alpha, self.axes, settings.normalize
        )
        g = self.dl_dz + dv
        after = self._loss_of(self.unreduced_loss(self.z - self.step_size * g))
        r = formulas.remainder(after, self.before, self._decrease(g), self.step_size)
        r = ops.abs(r)
        return (ops.sum(self.weights * r) if self.per_sample else r), dv, after

    def outcome(self, dv: Tensor, after: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The gradient to propagate, and the diagnostics [accepted, cosine, drift]."""
        accepted = formulas.accepts(
            self.settings.policy, after, self.before, self._after_vanilla_step
        )
        used = ops.cast(accepted, dv.dtype)  # 1 or 0.
        length = formulas.norm(dv, self.features)
        if self.per_sample:
            rate = ops.sum(self.weights * used)
            weights = self._over(self.weights)
            used = self._over(used)
        else:
            rate, weights = used, 1 / self._samples()
        aligned = self.dl_dz * dv / formulas.norm(self.dl_dz, self.axes)
        if self.axes == self.features:
            cosine = ops.sum(weights * aligned / length)
        else:  # The norms are over the batch, so there is one cosine.
            cosine = ops.sum(aligned / formulas.norm(dv, self.axes))
        weights = weights * used
        common = ops.sum(weights * dv, axis=self.sample_axes, keepdims=True)
        drift = _divide(ops.sqrt(ops.sum(common * common)), ops.sum(weights * length))
        return self.gradient + used * self.scale * dv, [rate, cosine, drift]

    def _after_vanilla_step(self) -> Tensor:
        """The loss after a step along dl/dz."""
        z = self.z - self.step_size * self.dl_dz
        return self._loss_of(self.unreduced_loss(z))

    def _loss_of(self, losses: Tensor) -> Tensor:
        """One loss for each sample, or the mean loss of the batch."""
        return losses if self.per_sample else ops.sum(self.weights * losses)

    def _decrease(self, g: Tensor) -> Tensor:
        """<dl/dz, g>, for each sample or for the batch."""
        if self.per_sample:
            return ops.sum(self.dl_dz * g, axis=self.features)
        products = ops.sum(self.dl_dz * g)
        if self.settings.granularity == "reference":
            # The authors' code takes the mean over the samples, although dl/dz has been
            # divided by their number already.
            return products / self._samples()
        return products

    def _samples(self) -> Tensor:
        """The number of samples."""
        shape = ops.shape(self.z)
        count = ops.prod(
            ops.convert_to_tensor([shape[i] for i in self.sample_axes], "int32")
        )
        return ops.cast(count, self.z.dtype)

    def _over(self, values: Tensor) -> Tensor:
        """One value for each sample, broadcast over its entries of z."""
        return values[(..., *(None for _ in self.features))]


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """`a / b`, and `a` where `b` is zero."""
    return a / (b + ops.cast(b == 0, b.dtype))


def _is_number(value: Any) -> bool:
    """Whether `value` is a finite number that is not negative."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
