"""GAL, the optimizer that learns to adjust the gradient at a model's outputs.

For a step of any Keras trainer, with z the model's output:

    loss = AdjustedLoss(...)(y, z)      leaves a record, hooks into the gradient at z
    loss = gal.scale_loss(loss)         claims the record, and reads theta and eta
    gradients = ...                     the hook runs Algorithm 1: dl/dz becomes g, and
                                        d|r|/dtheta is kept
    gal.apply(gradients)                the inner optimizer trains the model, a copy of
                                        it the adjustment network

Usage:

    gal = GAL("sgd", alpha=1e-3, beta=1.0, hidden_units=(100, 32, 16))
    model.compile(optimizer=gal, loss=AdjustedLoss("mse"))
    model.fit(x, y)
"""

import copy
import functools
import gc
import weakref

import keras
import numpy as np
from keras import ops

from keras_gradres import backend
from keras_gradres.losses import adjusted_loss
from keras_gradres.optimizers import networks
from keras_gradres.optimizers.algorithm import Algorithm1, Settings
from keras_gradres.optimizers.wrapper import WrapperOptimizer

MEASURES = ("remainder", "accepted", "cosine", "drift", "dropped")

_ONE_MORE_DROPPED = np.array([0, 0, 0, 0, 1], "float32")

# Which optimizer adjusts a loss: one at most.
_owners: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class _Step:
    """What a step hands from `scale_loss` by way of the hooks to `apply`."""

    def __init__(self, learning_rate, records):
        self.learning_rate = learning_rate
        self.records = records
        self.results = {}


@keras.saving.register_keras_serializable("keras_gradres")
class GAL(WrapperOptimizer):
    """Gradient adjustment learning around any optimizer.

    At each `AdjustedLoss` of the model, an adjustment network h turns the output z into
    a correction of the loss gradient there, which is used where a tentative step along
    it does not raise the loss (Algorithm 1 of arXiv 2201.09193). h is trained to make
    the remainder of the first-order Taylor step small, and is used in training only.

    Large `alpha` drifts: the adjustment has a direction that all samples share, which
    the acceptance of a sample cannot see, and which a softmax loss does not oppose. In
    a probe (digits, `"sample"`) `alpha` of 0.01 and below changed nothing beyond noise,
    and 0.1 and above diverged with nearly every sample accepted. `policy="improve"`
    with `center=True` was stable at 0.1. `diagnostics` reports the drift.

    Args:
        inner_optimizer: The optimizer of the model, or its name. For mixed_float16 give
            `keras.optimizers.LossScaleOptimizer(inner)`, and compile with
            `auto_scale_loss=False`.
        alpha: The length of the adjustment in units of the gradient's, in [0, 1].
        beta: The tentative step in units of the learning rate, positive.
        hidden_units: The widths of the hidden layers of h, an MLP on the last axis of
            z. By default (100, 32, 16).
        network: A Keras layer instead of the MLP, from z to v of the same shape, of
            floating-point dtype; a list of them for several adjusted losses. A network
            that is built keeps its weights. It is called with `training=True`.
        activation: The activation of the hidden layers; by default none, as in the
            authors' code.
        granularity: `"sample"`: remainder, acceptance and gradient are those of each
            entry of the unreduced loss. `"batch"`: those of the mean loss of the batch.
            `"reference"`: as `"batch"`, but with the first-order term of the authors'
            code, which is divided by the number of samples once more.
        policy: When the adjustment is used, see `adjustment.accepts`: `"less_equal"`,
            `"less"`, `"always"`, `"never"` or `"improve"`.
        center: Whether the batch mean of the accepted adjustments is taken out of them.
        normalize: Whether v is divided by its norm (Eq. 4). If not, v itself is scaled
            by `alpha` times the norm of the gradient.
        adjustment_optimizer: The optimizer of h. By default a copy of the inner one (of
            what it wraps, under a `LossScaleOptimizer`), which follows its learning
            rate.
        seed: The seed of the initial MLP.
        output_shapes: The shape of the model's output at each adjusted loss, with None
            for the batch, `[(None, 10)]`. Found without help in the first step, but not
            in a stateless loop of one's own, nor where state is to be loaded before the
            first step, as by `BackupAndRestore`.
        name: The name of the optimizer.

    Attributes:
        networks: The adjustment networks, one for each adjusted loss, once they are
            built.
        diagnostics: Of the last step: the mean `remainder` |r|, the fraction
            `accepted`, the mean `cosine` between dl/dz and the adjustment, and the
            `drift`, the length of the mean adjustment in units of the mean length; and
            `dropped`, the number of steps so far whose adjustment was not finite. With
            several adjusted losses, `remainder_0`, `remainder_1` and so on.
    """

    def __init__(
        self,
        inner_optimizer="sgd",
        alpha=1e-3,
        beta=1.0,
        hidden_units=None,
        network=None,
        activation=None,
        granularity="sample",
        policy="less_equal",
        center=False,
        normalize=True,
        adjustment_optimizer=None,
        seed=None,
        output_shapes=None,
        name=None,
    ):
        super().__init__(inner_optimizer, name=name)
        if isinstance(self.inner_optimizer, GAL):
            raise ValueError(
                "`inner_optimizer` must not be a `GAL` itself. "
                f"Received: inner_optimizer={self.inner_optimizer}"
            )
        networks.check(network, hidden_units, output_shapes)
        self.alpha, self.beta = alpha, beta
        self.hidden_units = hidden_units
        self.network = network
        self.activation = keras.activations.get(activation)
        self.granularity, self.policy = granularity, policy
        self.center, self.normalize = center, normalize
        self._settings()  # Raises where they are wrong.
        self.adjustment_optimizer = adjustment_optimizer and keras.optimizers.get(
            adjustment_optimizer
        )
        self.seed = seed
        self.output_shapes = output_shapes
        self._network_optimizer = networks.optimizer(self)
        self.networks: tuple[keras.Layer, ...] = ()
        self._losses: tuple[weakref.ref, ...] = ()
        self._step: _Step | None = None

    def _settings(self):
        return Settings(
            self.alpha,
            self.beta,
            self.granularity,
            self.policy,
            self.center,
            self.normalize,
        )

    # --- the networks ---

    def _build_state(self):
        if self.networks:
            return
        if self.output_shapes is None:
            # A trainer that builds its parts symbolically has just done so.
            records = adjusted_loss.latest_records()
            last = records[-1].scope if records else None
            records = [r for r in records if r.scope == last]
            records = _without_owner(records)
            if records and last is not None:
                self._own(records)
                self._build_networks([r.shape for r in records])
        else:
            self._build_networks(self.output_shapes)

    def _build_networks(self, shapes):
        self.output_shapes = [(None, *shape[1:]) for shape in shapes]
        self.networks = networks.build(self)
        self._network_optimizer.build(self._thetas())
        self._measures = [
            self.add_variable((len(MEASURES),), name=f"measures_{i}")
            for i in range(len(shapes))
        ]

    def _thetas(self):
        return [v for network in self.networks for v in network.trainable_variables]

    @property
    def variables(self):
        return [
            *super().variables,
            *self._network_optimizer.variables,
            *(v for network in self.networks for v in network.variables),
        ]

    def load_own_variables(self, store):
        if self.built and not self.networks and len(store) > len(self.variables):
            raise ValueError(
                "The state to load has adjustment networks, and this GAL has none "
                "before its first step. Give `output_shapes`, as [(None, 10)]."
            )
        super().load_own_variables(store)

    # --- the step ---

    def scale_loss(self, loss):
        self._claim()
        return super().scale_loss(loss)

    @backend.uncompiled
    def _claim(self):
        records = self._claimable()
        if not self.networks and self.output_shapes:
            self._build_networks(self.output_shapes)
        if not self.networks:
            if _in_stateless_scope():
                raise ValueError(
                    "GAL does not know the shapes of the outputs that it adjusts, and "
                    "cannot make its networks inside a stateless step. Give "
                    f"`output_shapes={[(None, *r.shape[1:]) for r in records]}`."
                )
            self._build_networks([r.shape for r in records])
        # Read here: inside the hooks, variables are not to be had on each backend.
        rate = _read(self.inner_optimizer.learning_rate)
        self._step = _Step(rate, records)
        for record in records:
            network = self.networks[self._index(record)]
            record.adjust = functools.partial(
                self._adjust,
                self._step,
                self._index(record),
                [_read(v) for v in network.trainable_variables],
                [_read(v) for v in network.non_trainable_variables],
            )

    def _claimable(self):
        records = [r for r in adjusted_loss.latest_records() if r.is_pending()]
        now = adjusted_loss.end_generation()
        mine = [r for r in records if _owner(r) is self]
        records = [r for r in records if r.generation == now]
        free = [r for r in records if _owner(r) is None]
        known = len(self.networks) or len(self.output_shapes or ())
        if (mine and free) or (known and len(free) > known):
            raise ValueError(
                f"GAL was built for {known} adjusted losses, and would leave the "
                f"others as they are. Received: {len(mine) + len(free)} adjusted "
                "losses in this step. Make a new GAL for these."
            )
        if mine:
            return mine
        free = free or _without_owner(records)
        if free:
            self._own(free)
            return free
        if records:
            raise ValueError(
                f"The `AdjustedLoss` '{records[0].loss().name}' belongs to the GAL "
                f"'{_owner(records[0]).name}'. Make an `AdjustedLoss` for each GAL."
            )
        raise ValueError(
            "GAL found no `AdjustedLoss` in this step, and would train as its inner "
            "optimizer alone. Write `model.compile(optimizer=gal, "
            "loss=keras_gradres.losses.AdjustedLoss(loss))`; in a loop of your own, "
            "call that loss before `gal.scale_loss`, in the same thread, where "
            "gradients are recorded."
        )

    def _own(self, records):
        self._losses = tuple(record.loss for record in records)
        for record in records:
            _owners[record.loss()] = weakref.ref(self)

    def _index(self, record):
        return self._losses.index(record.loss)

    def _adjust(self, step, index, theta, state, loss, z, losses, weights, gradient):
        """The hook at z: Algorithm 1, in float32 at least."""
        dtype = keras.backend.result_type(z.dtype, "float32")
        tensors = (z, losses, weights, gradient)
        z, losses, weights, gradient = (ops.cast(t, dtype) for t in tensors)
        algorithm = Algorithm1(
            self._settings(), step.learning_rate, loss, z, losses, weights, gradient
        )

        def objective(theta):
            v, new_state, penalty = networks.call(self.networks[index], z, theta, state)
            remainder, dv, after = algorithm.remainder(v)
            return remainder + penalty, (remainder, dv, after, new_state)

        _, extra, dtheta = backend.value_and_grad(objective, theta)
        remainder, dv, after, new_state = extra
        adjusted, measures = algorithm.outcome(dv, after)
        # All that was computed went into the remainder.
        entries = [ops.reshape(t, (-1,)) for t in (remainder, *dtheta)]
        finite = ops.all(ops.isfinite(ops.concatenate(entries)))
        measures = ops.concatenate([entries[0], measures])
        step.results[index] = (finite, theta, dtheta, new_state, measures)
        return ops.where(finite, adjusted, gradient)

    @backend.uncompiled
    def _before_step(self):
        step, self._step = self._step, None
        if step is None or len(step.results) < len(step.records):
            raise RuntimeError(
                "GAL was given gradients that it did not adjust: its `scale_loss` was "
                "not called, or the gradient not taken of what it returned. In a loop "
                "of your own, take the gradient of `gal.scale_loss(loss)`. "
                "GAL must be the outer optimizer: for mixed_float16, "
                "`GAL(LossScaleOptimizer(inner))` with "
                "`model.compile(..., auto_scale_loss=False)`."
            )
        for record in step.records:
            record.adjust = None  # What it holds is of this step.
        return step

    @backend.uncompiled
    def _after_step(self, step):
        """Algorithm 1, lines 12 to 16, but for networks whose step is not finite."""
        if self.adjustment_optimizer is None:
            networks.follow(self._network_optimizer, step.learning_rate)
        gradients, variables, restored = [], [], []
        for index, (finite, theta, dtheta, state, found) in step.results.items():
            network = self.networks[index]
            for v, old, g in zip(
                network.trainable_variables, theta, dtheta, strict=True
            ):
                gradients.append(ops.where(finite, g, 0))
                variables.append(v)
                restored.append((finite, v, old))
            for v, new in zip(network.non_trainable_variables, state, strict=True):
                v.assign(ops.where(finite, new, v.value))
            measures = self._measures[index]
            found = ops.cast(found, measures.dtype)
            found = ops.concatenate([found, measures[-1:]])
            measures.assign(ops.where(finite, found, measures + _ONE_MORE_DROPPED))
        if variables:
            self._network_optimizer.apply(gradients, variables)
        for finite, v, old in restored:
            v.assign(ops.where(finite, v.value, old))

    @property
    def diagnostics(self):
        if not self.networks:
            return {}
        rows = [ops.convert_to_numpy(measures) for measures in self._measures]
        if len(rows) == 1:
            return dict(zip(MEASURES, rows[0].tolist(), strict=True))
        return {
            f"{name}_{i}": float(value)
            for i, row in enumerate(rows)
            for name, value in zip(MEASURES, row, strict=True)
        }

    # --- configuration ---

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        network = self.network
        if isinstance(network, (list, tuple)):
            network = [serialize(n) for n in network]
        elif network is not None:
            network = serialize(network)
        optimizer = self.adjustment_optimizer
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "hidden_units": self.hidden_units and list(self.hidden_units),
            "network": network,
            "activation": keras.activations.serialize(self.activation),
            "granularity": self.granularity,
            "policy": self.policy,
            "center": self.center,
            "normalize": self.normalize,
            "adjustment_optimizer": optimizer and serialize(optimizer),
            "seed": self.seed,
            "output_shapes": self.output_shapes
            and [list(shape) for shape in self.output_shapes],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = copy.deepcopy(config)  # Deserialization changes what it is given.
        for name in ("network", "adjustment_optimizer"):
            if config.get(name) is not None:
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return super().from_config(config, custom_objects)


def _owner(record):
    owner = _owners.get(record.loss())
    return owner and owner()


def _without_owner(records):
    if any(_owner(record) for record in records):
        gc.collect()  # An optimizer that nobody can use may still wait for this.
        records = [record for record in records if record.loss() is not None]
    return [record for record in records if _owner(record) is None]


def _read(value):
    """The value of a variable now, as a tensor that later assignments leave alone."""
    return ops.copy(value.value if isinstance(value, keras.Variable) else value)


def _in_stateless_scope():
    with keras.StatelessScope() as scope:
        return scope.original_scope is not None
