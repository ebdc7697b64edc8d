"""GAL, the optimizer that learns to adjust the gradient at a model's outputs.

For a step of any Keras trainer, with z the model's output:

    loss = gal.loss(...)(y, z)          tells GAL of the call, hooks into the gradient
    loss = gal.scale_loss(loss)         takes the call, and reads theta and eta
    gradients = ...                     the hook runs Algorithm 1: it replaces dl/dz by
                                        g, and keeps d|r|/dtheta
    gal.apply(gradients)                the inner optimizer trains the model, and a copy
                                        of it trains the adjustment network
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
from keras_gradres.typing import ActivationLike, Config, Shape, Tensor


@keras.saving.register_keras_serializable("keras_gradres")
class GAL(WrapperOptimizer):
    """Gradient adjustment learning around any optimizer.

    GAL corrects the gradient of each loss that `loss` makes, at the output z. The
    correction comes from an adjustment network h(z). It is used where a tentative step
    along it does not raise the loss (Algorithm 1 of arXiv 2201.09193). h is trained to
    make the remainder of the first-order Taylor step small, and is used in training
    only.

    The outputs move along -h(z), which is unstable where h has eigenvalues of negative
    real part. The plain MLP of the paper (`skip=False`) starts as a random map, of
    whose eigenvalues half are such, and training changes it very little. So it diverges
    with an `alpha` of 0.1 and above. The default h(z) = z + MLP(z) rarely has such
    eigenvalues: at 0.3 one of 30 seeds had one, and failed (the benchmark
    `gal_mechanism`). At 0.001, the paper's value, both are the same within noise.

    Args:
        inner_optimizer: The optimizer of the model, or its name. For mixed_float16 give
            `keras.optimizers.LossScaleOptimizer(inner)`, and compile with
            `auto_scale_loss=False`.
        alpha: The norm of the adjustment in units of that of the gradient, in [0, 1].
        beta: The tentative step size in units of the learning rate, positive.
        hidden_units: The widths of the hidden layers of the MLP in h, on the last axis
            of z. By default (100, 32, 16).
        network: A Keras layer instead of z + MLP(z). It maps z to v of the same shape
            and of floating-point dtype. For several losses, a list of layers. A network
            that is built keeps its weights. It is called with `training=True`.
        activation: The activation of the hidden layers; by default none, as in the
            authors' code.
        skip: Whether h(z) = z + MLP(z), or the paper's MLP(z).
        use_bias: Whether the layers of the MLP have biases. In the authors' code they
            have. The numbers of parameters in the paper are those without biases.
        granularity: `"sample"`: remainder, acceptance and gradient are those of each
            entry of the unreduced loss. `"batch"`: those of the mean loss of the batch.
            `"reference"`: as `"batch"`, but with the first-order term of the authors'
            code, which is divided by the number of samples once more.
        policy: When the adjustment is used, see `formulas.accepts`: `"less_equal"`,
            `"less"`, `"always"`, `"never"` or `"improve"`.
        normalize: Whether v is divided by its norm (Eq. 4). If not, v itself is scaled
            by `alpha` times the norm of the gradient.
        adjustment_optimizer: The optimizer of h. By default a copy of the inner one,
            or of what a `LossScaleOptimizer` wraps, that follows its learning rate.
        seed: The seed of the initial MLP.
        output_shapes: The shape of the model's output at each loss, with None for the
            batch, `[(None, 10)]`. The first step finds them by itself, except in a
            stateless loop of your own.
        name: The name of the optimizer.

    Attributes:
        networks: The adjustment networks, one for each loss, once they are built.
        diagnostics: A dict for the last step. `remainder`: the mean |r|. `accepted`:
            the fraction of samples whose adjustment was used. `cosine`: the mean cosine
            between dl/dz and the adjustment. `drift`: the norm of the mean adjustment
            in units of the mean norm; it nears 1 where an unstable h moves all outputs
            the same way. `dropped`: the number of steps so far in which a value was not
            finite, so that h was not trained. With several losses, `remainder_0`,
            `remainder_1` and so on.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> from keras_gradres.optimizers import GAL
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> gal = GAL(keras.optimizers.SGD(0.1), alpha=1e-3)
    >>> model.compile(gal, loss=gal.loss("mse"))
    >>> x, y = np.ones((8, 4), "float32"), np.zeros((8, 3), "float32")
    >>> _ = model.fit(x, y, verbose=0)
    >>> sorted(gal.diagnostics)
    ['accepted', 'cosine', 'drift', 'dropped', 'remainder']
    """

    _NESTED = ("inner_optimizer", "network", "adjustment_optimizer")

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str | dict = "sgd",
        alpha: float = 1e-3,
        beta: float = 1.0,
        hidden_units: Sequence[int] | None = None,
        network: keras.Layer | Sequence[keras.Layer] | None = None,
        activation: ActivationLike = None,
        skip: bool = True,
        use_bias: bool = True,
        granularity: str = "sample",
        policy: str = "less_equal",
        normalize: bool = True,
        adjustment_optimizer: keras.optimizers.Optimizer | str | dict | None = None,
        seed: int | None = None,
        output_shapes: Sequence[Sequence[int | None]] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        arguments.check_inner_optimizer(inner_optimizer, kwargs)
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

        A classifier should return logits, with `from_logits=True` in the loss. Behind a
        softmax GAL would adjust the gradient at the probabilities, where Keras uses the
        logits by itself.

        Args:
            loss: What `compile` takes as a loss: a name, a `keras.losses.Loss`, or a
                function of `(y_true, y_pred)`, of one tensor each, to the unreduced
                losses. Or a list or dict of them, one for each output of the model.
            name: The name of the loss; by default that of `loss`.

        Returns:
            An `AdjustedLoss`, or a list or dict of them. In a `compute_loss` or a loop
            of your own, call it as a function of `(y_true, y_pred)`, and make one for
            each term of the total loss.
        """
        return adjusted(loss, self, name)

    # --- building ---

    @property
    def networks(self) -> tuple[keras.Layer, ...]:
        return self._networks.layers

    @property
    def diagnostics(self) -> dict[str, float]:
        return self._networks.diagnostics

    # Networks need the shapes of the outputs, which GAL has when the losses are called.
    # Keras calls the losses, then builds the optimizer if this is still false.
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

    def _build_networks(self, given: Iterable[Sequence[int | None]]) -> None:
        shapes: list[Shape] = [(None, *shape[1:]) for shape in given]
        self._networks.build(shapes)
        self.output_shapes = shapes
        self._set_waiting_weights_of_networks()

    @property
    def variables(self) -> list[keras.Variable]:
        # The networks come last, and Keras asks for variables before they are there.
        networks = getattr(self, "_networks", None)
        return [*super().variables, *(networks.variables if networks else ())]

    def set_weights(self, weights: Sequence[Any]) -> None:
        super().set_weights(weights)
        self._set_waiting_weights_of_networks()

    def _set_waiting_weights_of_networks(self) -> None:
        """Sets those of the networks, which the first step uses before `build`."""
        count, waiting = len(self._networks.variables), self._waiting or []
        if self.networks and len(waiting) > count:
            self._networks.set_weights(waiting[-count:])

    # --- the step ---

    def scale_loss(self, loss: Tensor) -> Tensor:
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
        # Read here, because the hooks cannot read variables on every backend.
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

    def get_config(self) -> Config:
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
