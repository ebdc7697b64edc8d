"""GAL, the optimizer that learns to adjust the gradient at a model's outputs.

For a step of any Keras trainer, with z the model's output:

    loss = gal.loss(...)(y, z)          tells GAL of the call, hooks into the gradient
    loss = gal.scale_loss(loss)         takes the call, and reads theta and eta
    gradients = ...                     the hook runs Algorithm 1: dl/dz becomes g, and
                                        d|r|/dtheta is kept
    gal.apply(gradients)                the inner optimizer trains the model, a copy of
                                        it the adjustment network

Usage:

    gal = GAL("sgd", alpha=1e-3, beta=1.0, hidden_units=(100, 32, 16))
    model.compile(optimizer=gal, loss=gal.loss("mse"))
    model.fit(x, y)
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from keras_gradres import backend
from keras_gradres.optimizers.gal import arguments
from keras_gradres.optimizers.gal.algorithm import Settings
from keras_gradres.optimizers.gal.loss import Calls, adjusted
from keras_gradres.optimizers.gal.networks import Networks, without_shapes
from keras_gradres.optimizers.gal.step import Step, check_state, no_loss, not_adjusted
from keras_gradres.optimizers.gal.twin import twin
from keras_gradres.optimizers.wrapper import WrapperOptimizer


@keras.saving.register_keras_serializable("keras_gradres")
class GAL(WrapperOptimizer):
    """Gradient adjustment learning around any optimizer.

    At the output z of each of its losses, which `loss` makes, an adjustment network h
    turns z into a correction of the loss gradient there. It is used where a tentative
    step along it does not raise the loss (Algorithm 1 of arXiv 2201.09193). h is
    trained to make the remainder of the first-order Taylor step small, and is used in
    training only.

    With the plain MLP of the paper (`skip=False`) an `alpha` of 0.1 and above diverges.
    The outputs move along -h(z), which grows where h has eigenvalues of negative real
    part, and of those of a random map half are such; training changes h next to
    nothing. h(z) = z + MLP(z), the default, hardly ever has one, and trains like the
    inner optimizer: at 0.3 one of 30 seeds had one, and failed (the benchmark
    `gal_mechanism`). At 0.001, the paper's value, both are the same within noise.

    Args:
        inner_optimizer: The optimizer of the model, or its name. For mixed_float16 give
            `keras.optimizers.LossScaleOptimizer(inner)`, and compile with
            `auto_scale_loss=False`.
        alpha: The length of the adjustment in units of the gradient's, in [0, 1].
        beta: The tentative step in units of the learning rate, positive.
        hidden_units: The widths of the hidden layers of the MLP in h, on the last axis
            of z. By default (100, 32, 16).
        network: A Keras layer instead of z + MLP(z), from z to v of the same shape, of
            floating-point dtype; a list of them for several losses. A network that is
            built keeps its weights. It is called with `training=True`.
        activation: The activation of the hidden layers; by default none, as in the
            authors' code.
        skip: Whether h(z) = z + MLP(z), or the paper's MLP(z).
        use_bias: Whether the layers of the MLP have biases. They have in the authors'
            code, and have not by the numbers of parameters in the paper.
        granularity: `"sample"`: remainder, acceptance and gradient are those of each
            entry of the unreduced loss. `"batch"`: those of the mean loss of the batch.
            `"reference"`: as `"batch"`, but with the first-order term of the authors'
            code, which is divided by the number of samples once more.
        policy: When the adjustment is used, see `formulas.accepts`: `"less_equal"`,
            `"less"`, `"always"`, `"never"` or `"improve"`.
        normalize: Whether v is divided by its norm (Eq. 4). If not, v itself is scaled
            by `alpha` times the norm of the gradient.
        adjustment_optimizer: The optimizer of h. By default one like the inner one (or
            what it wraps, under a `LossScaleOptimizer`), which follows its learning
            rate.
        seed: The seed of the initial MLP.
        output_shapes: The shape of the model's output at each loss, with None for the
            batch, `[(None, 10)]`. Found without help in the first step, but not in a
            stateless loop of one's own.
        name: The name of the optimizer.

    Attributes:
        networks: The adjustment networks, one for each loss, once they are built.
        diagnostics: Of the last step: the mean `remainder` |r|, the fraction
            `accepted`, the mean `cosine` between dl/dz and the adjustment, and the
            `drift`, the length of the mean adjustment in units of the mean length,
            which nears 1 where an h with eigenvalues of negative real part drives all
            outputs the same way; and `dropped`, the number of steps so far of which
            something was not finite, and in which h was not trained. With several
            losses, `remainder_0`, `remainder_1` and so on.
    """

    _NESTED = ("inner_optimizer", "network", "adjustment_optimizer")

    def __init__(
        self,
        inner_optimizer: Any = "sgd",
        alpha: float = 1e-3,
        beta: float = 1.0,
        hidden_units: Sequence[int] | None = None,
        network: Any = None,
        activation: Any = None,
        skip: bool = True,
        use_bias: bool = True,
        granularity: str = "sample",
        policy: str = "less_equal",
        normalize: bool = True,
        adjustment_optimizer: Any = None,
        seed: int | None = None,
        output_shapes: Sequence[Sequence[int | None]] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        arguments.check_inner(inner_optimizer, kwargs)
        super().__init__(inner_optimizer, name=name)
        if isinstance(self.inner_optimizer, GAL):
            raise ValueError(
                "`inner_optimizer` must not be a `GAL` itself. "
                f"Received: inner_optimizer={self.inner_optimizer}"
            )
        self._settings = Settings(alpha, beta, granularity, policy, normalize)
        self.alpha, self.beta = alpha, beta
        self.granularity, self.policy = granularity, policy
        self.normalize = normalize
        self.hidden_units = hidden_units
        self.network = network
        self.activation = keras.activations.get(activation)
        self.skip, self.use_bias = skip, use_bias
        self.seed = seed
        self.output_shapes = output_shapes
        arguments.check_networks(self)
        self.adjustment_optimizer = adjustment_optimizer and keras.optimizers.get(
            adjustment_optimizer
        )
        self.calls = Calls()
        self._networks = Networks(
            arguments.networks_maker(self),
            self.adjustment_optimizer
            or twin(self.inner_optimizer, f"{self.name}_adjustment"),
            self.name,
        )
        self._step: Step | None = None

    def loss(self, loss: Any, name: str | None = None) -> Any:
        """A loss whose gradient at the model's output this GAL adjusts.

        Have a classifier return logits, and the loss `from_logits=True`: where Keras
        finds the logits behind a softmax by itself, it does not here, where it is the
        gradient at the probabilities that counts.

        Args:
            loss: What `compile` takes as a loss: a name, a `keras.losses.Loss`, or a
                function of `(y_true, y_pred)`, of one tensor each, to the unreduced
                losses. Or a list or dict of them, one for each output of the model.
            name: The name of the loss; by default that of `loss`.

        Returns:
            An `AdjustedLoss`, or a list or dict of them. In a model with its own
            `compute_loss`, or a loop of one's own, call it as a function of
            `(y_true, y_pred)`; make one for each term that is called in a step.
        """
        return adjusted(loss, self, name)

    # --- building ---

    @property
    def networks(self) -> tuple[keras.Layer, ...]:
        return self._networks.layers

    @property
    def diagnostics(self) -> dict[str, float]:
        return self._networks.diagnostics

    # Not before there are networks. Keras builds what is not built when it has called
    # the losses to find shapes, which is when GAL has heard of theirs.
    @property
    def built(self) -> bool:
        return self._has_inner_state and bool(self.networks)

    @built.setter
    def built(self, value: bool) -> None:
        self._has_inner_state = value

    def build(self, variables: Iterable[keras.Variable]) -> None:
        super().build(variables)
        shapes = self.output_shapes or [call.shape for call in self.calls.all()]
        if shapes and not self.networks:
            self._build_networks(shapes)
        self._set_waiting_weights()

    def _build_networks(self, shapes: Sequence) -> None:
        shapes = [(None, *shape[1:]) for shape in shapes]
        self._networks.build(shapes)
        self.output_shapes = shapes
        self._set_waiting_weights_of_networks()

    @property
    def variables(self) -> list[keras.Variable]:
        # Keras asks for them before the networks are there, which come last.
        networks = getattr(self, "_networks", None)
        return [*super().variables, *(networks.variables if networks else ())]

    def set_weights(self, weights: Sequence[Any]) -> None:
        super().set_weights(weights)
        self._set_waiting_weights_of_networks()

    def _set_waiting_weights_of_networks(self) -> None:
        """Which the first step reads before it builds what belongs to the model."""
        count, waiting = len(self._networks.variables), self._waiting or []
        if self.networks and len(waiting) > count:
            self._networks.set_weights(waiting[-count:])

    # --- the step ---

    def scale_loss(self, loss: Any) -> Any:
        self._begin_step()
        return super().scale_loss(loss)

    @backend.uncompiled
    def _begin_step(self) -> None:
        calls = self.calls.all()
        self.calls.clear()
        if not any(call.is_pending() for call in calls):
            raise no_loss()
        if not self.networks:
            check_state(calls)
            self._build_networks(self.output_shapes or [c.shape for c in calls])
        # Read here: inside the hooks, variables are not to be had on each backend.
        rate = self.inner_optimizer.learning_rate
        rate = ops.copy(rate.value if isinstance(rate, keras.Variable) else rate)
        self._step = Step(self._settings, self._networks, rate, calls)

    @backend.uncompiled
    def _before_step(self, grads: Sequence[Any]) -> Step:
        step, self._step = self._step, None
        if step is None:
            raise not_adjusted()
        step.close(grads)
        return step

    @backend.uncompiled
    def _after_step(self, step: Step) -> None:
        if self.adjustment_optimizer is None:
            self._networks.optimizer.learning_rate = step.learning_rate
        step.train_networks(self._model_variables)

    # --- files ---

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        self._networks.save_shapes(store)

    def load_own_variables(self, store: Any) -> None:
        values, shapes = without_shapes(store)
        if shapes and not self.networks:
            self._build_networks(shapes)
        super().load_own_variables(values)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        shapes = self.output_shapes
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "hidden_units": self.hidden_units and list(self.hidden_units),
            "network": serialize(self.network),
            "activation": keras.activations.serialize(self.activation),
            "skip": self.skip,
            "use_bias": self.use_bias,
            "granularity": self.granularity,
            "policy": self.policy,
            "normalize": self.normalize,
            "adjustment_optimizer": serialize(self.adjustment_optimizer),
            "seed": self.seed,
            "output_shapes": shapes and [list(shape) for shape in shapes],
        }
