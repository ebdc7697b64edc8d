"""Training the same small network from many seeds.

On JAX all at once: `jax.vmap` over Keras's stateless training step, the same that `fit`
runs, so that thirty seeds cost little more than the operations that they share. On the
other backends one after the other, by `fit`.
"""

import functools
import itertools

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

    Returns:
        The trained models, and for each a dict: the `predictions` for `x_test` at each
        evaluation, the mean `loss` since the one before, and, with a `GAL`, its
        diagnostics then, as `remainder`, `accepted` and so on, all as arrays of
        `evaluations` rows.
    """
    parts = [data(seed) for seed in seeds]
    size = len(parts[0][0][0])
    order = np.stack([_batches(size, steps, batch_size, seed) for seed in seeds])
    models = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        models.append(make(seed))
        models[-1].optimizer.build(models[-1].trainable_variables)
        if rates is not None:
            models[-1].optimizer.learning_rate = rates[len(models) - 1]
    factors = None
    if schedule is not None:
        factors = schedule(np.arange(steps) / steps).astype("float32")
    ends = [steps * i // evaluations for i in range(evaluations + 1)]
    run = _by_vmap if keras.backend.backend() == "jax" else _by_fit
    return models, run(models, parts, order, ends, factors, bar)


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


def _by_fit(models, parts, order, ends, factors, bar):
    results = []
    for model, ((x, y), x_test), batches in zip(models, parts, order, strict=True):
        rows = []
        callbacks = []
        if factors is not None:
            rate = float(model.optimizer.learning_rate)
            callbacks.append(_Scheduled(rate * factors))
        for start, end in itertools.pairwise(ends):
            chosen = batches[start:end]
            history = model.fit(
                x[chosen.ravel()],
                y[chosen.ravel()],
                batch_size=batches.shape[1],
                shuffle=False,
                callbacks=callbacks,
                verbose=0,
            )
            predictions = model.predict(x_test, verbose=0)
            rows.append(_row(model, predictions, history.history["loss"][-1]))
            if bar is not None:
                bar.update(end - start)
        if factors is not None:
            model.optimizer.learning_rate = rate
        results.append(_columns(rows))
    return results


def _by_vmap(models, parts, order, ends, factors, bar):
    import jax
    import jax.numpy as jnp

    model = models[0]
    # The learning rate is a variable of the optimizer: each model has its own.
    rate_at = [v.path for v in model.optimizer.variables].index(
        model.optimizer.learning_rate.path
    )
    factors = np.ones(ends[-1], "float32") if factors is None else factors
    states = [[[v.value for v in part] for part in _variables(m)] for m in models]
    state = jax.tree.map(lambda *values: jnp.stack(values), *states)
    x, y, x_test = (
        jnp.stack(arrays)
        for arrays in zip(*((x, y, x_test) for (x, y), x_test in parts), strict=True)
    )

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
        state, losses = jax.lax.scan(step, [*state[:3], fresh], (batches, factors))
        state[2][rate_at] = rate
        return state, losses[-1]  # Keras's running mean.

    @jax.jit
    @jax.vmap
    def predict(state, x):
        return model.stateless_call(state[0], state[1], x, training=False)[0]

    results = [[] for _ in models]
    for start, end in itertools.pairwise(ends):
        state, losses = segment(state, x, y, order[:, start:end], factors[start:end])
        predictions = np.asarray(predict(state, x_test))
        host = jax.tree.map(np.asarray, state)
        for i, m in enumerate(models):
            for variables, values in zip(_variables(m), host, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value[i])
            results[i].append(_row(m, predictions[i], losses[i]))
        if bar is not None:
            bar.update((end - start) * len(models))
    return [_columns(rows) for rows in results]


def _variables(model):
    """Those of the state of Keras's stateless training step."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def _row(model, predictions, loss):
    diagnostics = getattr(model.optimizer, "diagnostics", {})
    return {"predictions": predictions, "loss": float(loss), **diagnostics}


def _columns(rows):
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
