"""The adjustment that GAL's objective asks for, in closed form, and what it does.

To second order the remainder of a sample is eta~^2 g' H g / 2, with d = dl/dz, H the
second derivative, and g = d + v. Among the v of length alpha |d| it is least at

    v* = -(H + mu)^-1 H d,      mu >= 0 such that |v*| = alpha |d|,

a damped Newton step back along d. So g is shorter than d, and does not descend better:
for squared errors, where H is a multiple of I, g = (1 - alpha) d.
"""

import numpy as np
from keras import ops

from benchmarks.tables import table

ALPHAS = (0.01, 0.1, 0.3, 0.6)
# eta~: with the paper's beta and eta of 0.001; with beta = 1 and the rate of the study.
STEPS = (1e-6, 0.05)


def derivatives(z, y):
    """d, of shape (N, c), and H, (N, c, c), of the cross-entropy; in float64."""
    z = z.astype("float64")
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    h = np.einsum("ni,ij->nij", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None]
    return p - np.eye(p.shape[1])[y], h


def optimum(d, h, alpha):
    """v* of each sample, of shape (N, c), for d and H as of `derivatives`."""
    values, vectors = np.linalg.eigh(h)
    values = np.maximum(values, 0)
    along = np.einsum("nij,ni->nj", vectors, d)
    wanted = alpha * np.linalg.norm(d, axis=-1)
    low, high = np.full(len(d), -40.0), np.full(len(d), 20.0)
    for _ in range(60):  # |v*| falls with mu, here by its logarithm.
        middle = (low + high) / 2
        v = -along * values / (values + np.exp(middle)[:, None])
        longer = np.linalg.norm(v, axis=-1) > wanted
        low, high = np.where(longer, middle, low), np.where(longer, high, middle)
    return np.einsum("nij,nj->ni", vectors, v)


def cosine(a, b):
    """The mean cosine of the rows."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.mean(np.sum(a * b, -1) / np.maximum(lengths, 1e-300))


def fitted(z, v):
    """What a linear function of z and softmax(z), fitted to one half, says of v."""
    p = np.exp(z - z.max(-1, keepdims=True))
    inputs = np.hstack([z, p / p.sum(-1, keepdims=True), np.ones((len(z), 1))])
    half = len(z) // 2
    gram = inputs[:half].T @ inputs[:half]
    gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, inputs[:half].T @ v[:half])
    return inputs[half:] @ weights, v[half:]


def followed(z, y, network):
    """The measures of v* for the outputs of a probe at one time."""
    d, h = derivatives(z, y)
    seen = np.linalg.norm(d, axis=-1) > 1e-8
    z, d, h = z[seen].astype("float64"), d[seen], h[seen]
    found = {"toward_minus_d": [], "remainder_left": [], "length_left": []}
    for alpha in ALPHAS:
        v = optimum(d, h, alpha)
        g = d + v
        curved = [np.einsum("ni,nij,nj->n", a, h, a) for a in (g, d)]
        found["toward_minus_d"].append(cosine(v, -d))
        found["remainder_left"].append(np.sum(curved[0]) / np.sum(curved[1]))
        found["length_left"].append(
            np.mean(np.linalg.norm(g, axis=-1) / np.linalg.norm(d, axis=-1))
        )
    v = optimum(d, h, 0.1)
    # Directions only: each sample counts as much as another.
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    found["said_by_z"] = cosine(*fitted(z, v))
    found["said_by_h"] = np.nan
    if network is not None:
        said = ops.convert_to_numpy(network(z.astype("float32")))
        found["said_by_h"] = cosine(said, v)
    found["noise"] = [noise(z, y[seen], d, h, step) for step in STEPS]
    return found


def noise(z, y, d, h, step):
    """The median of |r|, computed in float32, in units of what it is; for g = d."""
    curved = step**2 / 2 * np.einsum("ni,nij,nj->n", d, h, d)
    z, d, step = z.astype("float32"), d.astype("float32"), np.float32(step)

    def loss(z):
        z = z - z.max(-1, keepdims=True)
        return np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), y]

    r = loss(z - step * d) - loss(z) + step * (d * d).sum(-1)
    return np.median(np.abs(r) / curved)


def tables(study, variants):
    """What `followed` returned for these, at the first evaluation and at the last."""
    steps, evaluations = study.settings["steps"], study.settings["evaluations"]
    times = {steps // evaluations: 0, steps: -1}

    def mean(measure, variant=variants[0]):
        return study.of(measure, variant=variant).mean(0)

    def part(header, rows, shown=".2f"):
        """Of the cells of each row at all evaluations."""
        lines = [
            [f"{name}, after {at} steps", *(f"{x:{shown}}" for x in cells[t])]
            for name, cells in rows.items()
            for at, t in times.items()
        ]
        return table(header, lines)

    names = ("toward_minus_d", "length_left", "remainder_left")
    left = np.stack([mean(name) for name in names], -1)
    left = {f"alpha {alpha}": left[:, i] for i, alpha in enumerate(ALPHAS)}
    said = {v: np.stack([mean(f"said_by_{x}", v) for x in "zh"], -1) for v in variants}
    noise = np.median(study.of("noise", variant=variants[0]), 0)
    noise = {f"eta~ = {step:g}": noise[:, [i]] for i, step in enumerate(STEPS)}
    parts = (
        part(["v*", "cosine with -d", "length of g / of d", "g'Hg / d'Hd"], left),
        part(["cosine with v*, alpha 0.1", "the best of z", "h, at the end"], said),
        part(["rounding", "r in float32 / what it is"], noise, ".0e"),
    )
    return "\n\n".join(parts)
