"""What `theory` proves, as functions, and the experiments that it is held against.

An experiment is a function of a run, and returns its result.
"""

import keras
import numpy as np
from keras import ops
from scipy import special

from benchmarks import data
from benchmarks.seeds import compiled
from keras_gradres.layers import GradientResidual
from keras_gradres.optimizers.gal import formulas

SKIPS = {
    "identity": {"residual": "identity"},
    "gain": {"residual": "gain", "second_order": True},
}
GRID = np.linspace(-1, 1, 2001, dtype="float32")[:, None]
DISTANCES = np.arange(0, 0.2501, 0.0125)
DELTA = 0.05
# The alpha of each direction g; the networks train with that in the middle.
DIRECTIONS = {"gradient alone": 0.0, "GAL, alpha 0.1": 0.1, "GAL, alpha 1": 1.0}


def cosine_of_sine(distance, frequency):
    """The mean of sign f'(x) f'(x + d) over a period of sin(2 pi f x)."""
    periods = distance * frequency
    return 1 - 4 * np.abs(periods - np.round(periods))


def cosines(vectors):
    """The mean cosine at each distance, of rows on `GRID`; from points in [-1, 0)."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = vectors / np.maximum(length, 1e-12)
    shifts = np.round(DISTANCES / (GRID[1, 0] - GRID[0, 0])).astype(int)
    starts = len(units) // 2
    return [np.mean(np.sum(units[:starts] * units[s : s + starts], -1)) for s in shifts]


def directions(wave, outputs, model):
    """The mean cosines of the sine's, the network's and its blocks' gradients."""
    found = {
        "sine": cosines(np.gradient(wave(GRID), axis=0)),
        "network": cosines(np.gradient(outputs, axis=0)),
    }
    blocks = [m for m in model.layers if isinstance(m, GradientResidual)]
    for i, block in enumerate(blocks, 1):
        found[f"block {i}"] = cosines(_gradient(model, block))
    return found


def _gradient(model, block):
    """The unit gradient of a block by its input: (F + g) - F."""
    x = keras.Model(model.input, block.input)(GRID)
    with_gradient = GradientResidual(block.branch, residual="gradient")(x)
    return ops.convert_to_numpy(with_gradient - block.branch(x))


def cross_entropy(z, y):
    """Of logits: the loss, its gradient, and the function from v to H v."""
    p = special.softmax(z, -1)
    loss = special.logsumexp(z, -1) - np.sum(z * y, -1)
    return loss, p - y, lambda v: p * (v - np.sum(p * v, -1, keepdims=True))


def mean_squared_error(z, y):
    size = z.shape[-1]
    return np.mean((z - y) ** 2, -1), 2 / size * (z - y), lambda v: 2 / size * v


# The loss, Keras's name of it, L for 10 outputs, and the learning rate.
LOSSES = {
    "cross-entropy": (cross_entropy, keras.losses.CategoricalCrossentropy, 0.5, 0.1),
    "mean squared error": (mean_squared_error, keras.losses.MeanSquaredError, 0.2, 0.5),
}


def remainders(loss, z, y, g, step=1.0):
    """|r|, and the largest |cos gamma| on the way, in units of |step g|^2."""
    before, gradient, _ = loss(z, y)
    after, *_ = loss(z - step * g, y)
    r = after - before + step * np.sum(gradient * g, -1)
    length = np.linalg.norm(g, axis=-1)
    largest = np.zeros(len(z))
    for t in np.linspace(0, 1, 65):
        *_, hessian = loss(z - t * step * g, y)
        bent = hessian(g)
        product = length * np.linalg.norm(bent, axis=-1)
        cosine = np.abs(np.sum(bent * g, -1)) / np.maximum(product, 1e-30)
        largest = np.maximum(largest, cosine)
    return np.abs(r) / (step * length) ** 2, largest


def gal(run):
    """Trains a classifier of digits with GAL, and looks at its remainders."""
    x, labels = data.digits()
    x, y = x.astype("float32"), np.eye(10, dtype="float32")[labels]
    function, keras_loss, _, rate = LOSSES[run["variant"]]
    keras.utils.set_random_seed(run["seed"])
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, "gelu"), keras.layers.Dense(10)]
    )
    logits = {"from_logits": True} if function is cross_entropy else {}
    sgd = keras.optimizers.SGD(rate)
    compiled(model, sgd, keras_loss(**logits), run["seed"], {"alpha": 0.1})
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    found = {name: {"ratio": [], "cosine": []} for name in DIRECTIONS}
    done = 0
    for epoch in run["epochs"]:
        if epoch > done:
            model.fit(x[300:], y[300:], 32, epoch - done, verbose=0)
            done = epoch
        z = ops.convert_to_tensor(model.predict(x[:300], verbose=0))
        v = optimizer.networks[0](z)
        z = ops.convert_to_numpy(z).astype("float64")
        _, dl_dz, _ = function(z, y[:300])
        for name, alpha in DIRECTIONS.items():
            adjustment = formulas.adjustment(ops.cast(dl_dz, v.dtype), v, alpha, (1,))
            g = dl_dz + ops.convert_to_numpy(adjustment)
            ratio, cosine = remainders(function, z, y[:300], g)
            found[name]["ratio"] += list(ratio)
            found[name]["cosine"] += list(cosine)
    return found


def bound(hypotheses, samples, delta=DELTA):
    return np.sqrt(np.log(hypotheses / delta) / (2 * samples))


def finite(run):
    """How far risks are above their means over samples; errors of 0 and 1.

    The hypotheses are classifiers by the nearest of ten centers, each of a few digits
    of the first half. The samples are drawn with replacement from the second half, so
    that the risks are known.
    """
    rng = np.random.default_rng(run["seed"])
    x, y = data.digits()
    half = len(x) // 2
    errors = []
    for _ in range(run["hypotheses"]):
        few = [rng.choice(np.flatnonzero(y[:half] == c), 3) for c in range(10)]
        centers = x[np.array(few)].mean(1)
        distances = (centers**2).sum(-1) - 2 * x[half:] @ centers.T  # - |x|^2
        errors.append(distances.argmin(-1) != y[half:])
    errors = np.array(errors, "float64")
    each = np.full(len(x) - half, 1 / (len(x) - half))
    counts = rng.multinomial(run["samples"], each, size=run["trials"])
    above = errors.mean(-1) - counts @ errors.T / run["samples"]
    worst = above.max(-1)
    return {
        "quantile": np.quantile(worst, 1 - DELTA),
        "exceeded": np.mean(worst > bound(run["hypotheses"], run["samples"])),
    }
