"""Training the same small network from many seeds.

On JAX all at once: `jax.vmap` over Keras's stateless training step, the same that `fit`
runs, so that thirty seeds cost little more than the operations that they share. On the
other backends one after the other, by `fit`.
"""

import functools
import itertools
import time

import keras
import numpy as np


def train(
    make,
    seeds,
    data,
    *,
    steps,
    batch_size,
    evaluations,
    bar=None,
    rates=None,
    schedule=None,
    keep=True,
):
    """Trains a network from each seed.

    Args:
        make: A function of a seed that returns a compiled model. A `GAL` in it needs
            `output_shapes`.
        seeds: The seeds. With `rates` a seed may occur several times.
        data: A function of a seed that returns `(x, y), x_test`; of equal shapes.
        steps: Training steps.
        batch_size: Samples in each.
        evaluations: How many times, evenly over the steps, the networks are looked at.
        bar: A progress bar, moved by the steps of each seed.
        rates: A learning rate for each seed; by default that of the models.
        schedule: A function of the share of the training that is done, an array, that
            returns what the rates are multiplied by. By default they are constant.
        keep: Whether the trained models and diagnostics are wanted. If not, on JAX a
            model is made once for each seed, whatever its rates: half of the time of
            short trainings.

    Returns:
        The trained models, or None, and for each a dict: the `predictions` for `x_test`
        at each evaluation, the mean `loss` since the one before, and, with a `GAL`, its
        diagnostics then, as `remainder`, `accepted` and so on, all as arrays of
        `evaluations` rows.
    """
    shared = at_once() and not keep
    models, parts, order = _start(make, seeds, data, steps, batch_size, rates, shared)
    factors = None
    if schedule is not None:
        factors = schedule(np.arange(steps) / steps).astype("float32")
    ends = [steps * i // evaluations for i in range(evaluations + 1)]
    if at_once():
        trained = _Vmapped(models, parts, rates)
        found = _by_vmap(trained, order, ends, factors, bar, keep)
    else:
        found = _by_fit(models, parts, order, ends, factors, bar)
    return models if keep else None, found


def at_once():
    """Whether the seeds train at once on this backend."""
    return keras.backend.backend() == "jax"


def cosine(share):
    """A schedule that falls from 1 to 0."""
    return 0.5 + 0.5 * np.cos(np.pi * share)


def seconds(makes, seeds, data, *, steps, batch_size, rounds):
    """Times training steps of several networks, in turn, in one process.

    Args:
        makes: For each name a function as `make` of `train`.
        seeds: Those that are trained at once, or one after the other.
        data: As for `train`.
        steps: The steps between two looks at the clock.
        batch_size: Samples in each.
        rounds: How often each has its turn. The ratio of two in the same round does not
            depend on how fast the machine is at that time.

    Returns:
        For each name an array: the seconds for a step of one seed in each round, of
        the processor's time, so that others who use the cores do not count.
    """
    actions = {}
    for name, make in makes.items():
        models, parts, order = _start(make, seeds, data, steps, batch_size)
        if at_once():
            actions[name] = functools.partial(_Vmapped(models, parts).run, order)
        else:
            actions[name] = functools.partial(_fit_all, models, parts, order)
        actions[name]()  # Compiles.
    times = {name: [] for name in makes}
    for round_ in range(rounds):
        for name in list(makes)[:: -1 if round_ % 2 else 1]:
            start = time.process_time()
            actions[name]()
            times[name].append(time.process_time() - start)
    each = steps * len(seeds)
    return {name: np.array(values) / each for name, values in times.items()}


def _start(make, seeds, data, steps, batch_size, rates=None, shared=False):
    """The models, the data of each, and the indices of their batches."""
    parts = [data(seed) for seed in seeds]
    size = len(parts[0][0][0])
    order = np.stack([_batches(size, steps, batch_size, seed) for seed in seeds])
    models = []
    for i, seed in enumerate(seeds):
        if shared and seed in seeds[:i]:
            models.append(models[seeds.index(seed)])
            continue
        keras.utils.set_random_seed(seed)
        model = make(seed)
        model.optimizer.build(model.trainable_variables)
        if rates is not None:
            model.optimizer.learning_rate = rates[i]
        models.append(model)
    return models, parts, order


def _batches(size, steps, batch_size, seed):
    """Indices of each batch, `(steps, batch_size)`: every epoch in another order."""
    rng = np.random.default_rng(seed)
    each = size // batch_size
    epochs = [
        rng.permutation(size)[: each * batch_size].reshape(each, batch_size)
        for _ in range(-(-steps // each))
    ]
    return np.concatenate(epochs)[:steps]


class _Scheduled(keras.callbacks.Callback):
    """Sets the learning rate before each step."""

    def __init__(self, rates):
        super().__init__()
        self.rates = iter(rates)

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = next(self.rates)


def _by_fit(models, parts, order, ends, factors=None, bar=None):
    results = []
    for model, ((x, y), x_test), batches in zip(models, parts, order, strict=True):
        rows = []
        callbacks = []
        if factors is not None:
            rate = float(model.optimizer.learning_rate)
            callbacks.append(_Scheduled(rate * factors))
        for start, end in itertools.pairwise(ends):
            loss = _fit(model, x, y, batches[start:end], callbacks)
            predictions = model.predict(x_test, verbose=0)
            rows.append(_row(model, predictions, loss))
            if bar is not None:
                bar.update(end - start)
        if factors is not None:
            model.optimizer.learning_rate = rate
        results.append(_columns(rows))
    return results


def _fit(model, x, y, batches, callbacks=()):
    """Trains on batches `(steps, samples)`; returns the mean loss."""
    order = batches.ravel()
    history = model.fit(
        x[order],
        y[order],
        batch_size=batches.shape[1],
        shuffle=False,
        callbacks=list(callbacks),
        verbose=0,
    )
    return history.history["loss"][-1]


def _fit_all(models, parts, order):
    for model, ((x, y), _), batches in zip(models, parts, order, strict=True):
        _fit(model, x, y, batches)


def _by_vmap(trained, order, ends, factors, bar, keep):
    models = trained.models
    results = [[] for _ in models]
    for start, end in itertools.pairwise(ends):
        part = None if factors is None else factors[start:end]
        losses = trained.run(order[:, start:end], part)
        if keep:
            trained.give()
        predictions = trained.predict()
        for row, *values in zip(results, models, predictions, losses, strict=True):
            row.append(_row(*values, keep))
        if bar is not None:
            bar.update((end - start) * len(models))
    return [_columns(rows) for rows in results]


class _Vmapped:
    """Models of one architecture on JAX, each variable stacked along a new axis."""

    def __init__(self, models, parts, rates=None):
        import jax
        import jax.numpy as jnp

        self.models = models
        model = models[0]
        states = [[[v.value for v in part] for part in _variables(m)] for m in models]
        self.state = jax.tree.map(lambda *values: jnp.stack(values), *states)
        self.x, self.y, self.x_test = (
            jnp.stack(arrays)
            for arrays in zip(*((x, y, test) for (x, y), test in parts), strict=True)
        )
        # The learning rate is a variable of the optimizer: each model has its own.
        rate_at = [v.path for v in model.optimizer.variables].index(
            model.optimizer.learning_rate.path
        )
        if rates is not None:
            self.state[2][rate_at] = jnp.asarray(rates, "float32")

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
        def segment(state, x, y, batches, factors):
            rate = state[2][rate_at]

            def step(state, now):
                batch, factor = now
                state[2][rate_at] = rate * factor
                logs, state = model.train_step(state, (x[batch], y[batch]))
                return list(state), logs["loss"]

            fresh = [jnp.zeros_like(metric) for metric in state[3]]
            state = [*state[:3], fresh]
            state, losses = jax.lax.scan(step, state, (batches, factors))
            state[2][rate_at] = rate
            return state, losses[-1]  # Keras's running mean.

        @jax.jit
        @jax.vmap
        def predict(state, x):
            return model.stateless_call(state[0], state[1], x, training=False)[0]

        self._segment, self._predict = segment, predict

    def run(self, batches, factors=None):
        """Trains on batches `(models, steps, samples)`; returns the mean losses."""
        if factors is None:
            factors = np.ones(batches.shape[1], "float32")
        self.state, losses = self._segment(self.state, self.x, self.y, batches, factors)
        return np.asarray(losses)

    def give(self):
        """Gives the models their weights."""
        host = [[np.asarray(value) for value in part] for part in self.state]
        for i, model in enumerate(self.models):
            for variables, values in zip(_variables(model), host, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value[i])

    def predict(self):
        """What the models predict for the test."""
        return np.asarray(self._predict(self.state, self.x_test))


def _variables(model):
    """Those of the state of Keras's stateless training step."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def _row(model, predictions, loss, keep=True):
    diagnostics = getattr(model.optimizer, "diagnostics", {}) if keep else {}
    return {"predictions": predictions, "loss": float(loss), **diagnostics}


def _columns(rows):
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
