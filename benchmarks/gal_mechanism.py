"""What does GAL's objective ask for, what does h learn of it, and when does it diverge?

Trains a small perceptron on half of scikit-learn's digits with SGD, alone and inside
GAL with several h. In samples that it is trained with, it follows the adjustment v*
that the objective asks for, which has a closed form (`gal_optimum.py`):

    v*          its cosine with -d; with h(z); with the best linear function of z and
                softmax(z), fitted to other samples; and what it leaves of d' H d
    theta       the distance from its start, in units of its norm there
    eigenvalue  the lowest real part of those of the Jacobian of h at the start: outputs
                move along -h(z), which grows where it is negative
    failed      how many seeds end with an error above 10 %; chance is 90

The networks are linear, as in the authors' code, so that one Jacobian says it all.

    KERAS_BACKEND=jax python -m benchmarks.gal_mechanism --budget cpu
"""

import keras
import numpy as np
from keras import layers, ops

from benchmarks.curves import Panel, curve, pyplot
from benchmarks.gal_optimum import ALPHAS, followed, tables
from benchmarks.perceptron import ALONE, Digits
from benchmarks.tables import Value, last, mean_of

FAILED = 10
PROBE = 200
# The h of each name, as arguments of GAL.
NETWORKS = {
    "z + MLP(z)": dict,
    "MLP(z)": lambda: {"skip": False},
    "MLP(z), trained by Adam 0.01": lambda: {
        "skip": False,
        "adjustment_optimizer": keras.optimizers.Adam(0.01),
    },
    "random linear": lambda: {"skip": False, "hidden_units": ()},
    "z": lambda: {"network": layers.Rescaling(1.0)},
    "-z": lambda: {"network": layers.Rescaling(-1.0)},
}
FOLLOWED = ("MLP(z), alpha 0.001", "MLP(z), trained by Adam 0.01, alpha 0.001")


class Mechanism(Digits):
    # The network and alpha.
    variants = {ALONE: None} | {
        f"{name}, alpha {alpha}": (name, alpha)
        for alpha, names in (
            (0.001, list(NETWORKS)[:3]),
            (0.1, ["z + MLP(z)", "MLP(z)", "random linear"]),
            (0.3, list(NETWORKS)),
        )
        for name in names
    }
    budgets = {
        "smoke": {"seeds": 1, "steps": 60, "evaluations": 3}
        | {"variants": [ALONE, FOLLOWED[0]]},
        "cpu": {"seeds": 30, "steps": 800, "evaluations": 10},
    }
    columns = (
        Value("error, %", last("errors")),
        Value("worst", last("errors"), reduce=np.max),
        Value("failed", lambda r: r["errors"][-1] > FAILED, 0, reduce=np.sum),
        Value("eigenvalue", mean_of("eigenvalue")),
        Value("drift", mean_of("drift")),
        Value("theta", mean_of("theta"), 0, "e"),
    )

    def load(self):
        self.starts = {}  # For each seed the weights of h, and its Jacobian.
        return super().load()

    def arguments_of(self, variant, seed):
        name, alpha = self.variants[variant]
        return {"alpha": alpha, **NETWORKS[name]()}

    def make(self, run, seed):
        model = super().make(run, seed)
        if run["variant"] != ALONE:
            model.optimizer.build(model.trainable_variables)
            (network,) = model.optimizer.networks
            self.starts[seed] = network.get_weights(), jacobian(network)
        return model

    def data(self, run, seed):
        (x, y), x_test = super().data(run, seed)
        return (x, y), np.concatenate([x_test, x[:PROBE]])

    def measure(self, run, found, model):
        tested, probe = np.split(found["predictions"], [-PROBE], axis=1)
        result = super().measure(run, {"predictions": tested}, model)
        network = None
        if run["variant"] != ALONE:
            (network,) = model.optimizer.networks
            theta, slope = self.starts[run["seed"]]
            result |= {
                "drift": np.mean(found["drift"][-len(probe) // 4 :]),
                "eigenvalue": np.linalg.eigvals(slope).real.min(),
                "theta": distance(network.get_weights(), theta),
            }
        if run["variant"] in FOLLOWED:
            (_, y), _ = self.split(run, run["seed"])
            each = [followed(z, y[:PROBE], network) for z in probe]
            result |= {m: [now[m] for now in each] for m in each[0]}
        return result

    def remark(self, group):
        return tables(self, self.followed())

    def footnote(self):
        return (
            f"failed: seeds with an error above {FAILED} %. The last table has medians "
            "over samples and seeds, of g = dl/dz."
        )

    def followed(self):
        return [v for v in FOLLOWED if v in self.variants_of({})]

    def draw(self):
        figure, axes = pyplot().subplots(1, 3, figsize=(18, 5), layout="constrained")
        first, *_ = followed = self.followed()
        at = ALPHAS.index(0.1)
        cosines = [("-d", first, lambda r: np.array(r["toward_minus_d"])[:, at])]
        cosines += [("the best of z", first, "said_by_z")]
        cosines += [(f"h = {v}", v, "said_by_h") for v in followed]
        for label, variant, measure in cosines:
            panel = Panel("", measure, band="error")
            curve(axes[0], self, panel, variant, {}, label=label)
        axes[0].axhline(0, color="grey", linewidth=0.5)
        axes[0].set(title="cosine with v* at alpha 0.1", xlabel="steps")
        for variant in self.variants_of({})[1:]:
            name, alpha = self.variants[variant]
            style = {
                "color": f"C{list(NETWORKS).index(name)}",
                "marker": {0.001: "+", 0.1: "x", 0.3: "o"}[alpha],
                "label": variant,
            }
            values = self.of("eigenvalue", variant=variant)
            axes[1].scatter(values, self.of(last("errors"), variant=variant), **style)
            moved = self.of("theta", variant=variant)
            if np.isfinite(moved).all():
                axes[2].scatter(np.full(len(moved), alpha), moved, **style)
        axes[1].set(xlabel="lowest real part of the eigenvalues of h", yscale="log")
        axes[1].set(title="at the end", ylabel="error, %")
        axes[2].set(title="how far theta moves, in units of its norm", xlabel="alpha")
        axes[2].set(xscale="log", yscale="log")
        for axis in axes:
            axis.legend(fontsize=8)
        self.save(figure)

    def check(self):
        """That at the paper's alpha both learn, and that v* is what it should be."""
        for _, result in self.results:
            assert result["errors"][-1] < 60, result
            if "theta" in result:
                assert result["theta"] < 0.01, result
                assert np.min(result["toward_minus_d"]) > 0.3, result
                assert np.max(result["remainder_left"]) < 1, result


def jacobian(network, size=10):
    """That of a linear network, `(size, size)`."""
    at = network(np.vstack([np.eye(size), np.zeros((1, size))]).astype("float32"))
    at = ops.convert_to_numpy(at)
    return (at[:-1] - at[-1]).T


def distance(weights, start):
    if not start:
        return np.nan
    a, b = (np.concatenate([w.ravel() for w in ws]) for ws in (weights, start))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


if __name__ == "__main__":
    Mechanism.main()
