"""Does a gradient residual of second order help to classify, with a smooth activation?

ResNet-20 as in `cifar`, on the same images, with SGD: identity and gain in second
order, each with SiLU and with ReLU everywhere in the network. "longer" is the control
at the same time: identity, trained for as many more epochs as a step of gain takes more
time.

Before the verdict the report says what the study can see: the smallest difference that
the paired t-test finds with a probability of 80 %, given how far the differences of
single seeds are apart here.

    python -m benchmarks.cifar_smooth --budget cpu --data FOLDER
"""

from benchmarks.activations import EachActivation, with_each_activation
from benchmarks.cifar import IDENTITY, Cifar, train
from benchmarks.study import Study
from benchmarks.tables import Compared

GAIN = {"residual": "gain", "second_order": True}
SKIPS = {"identity": IDENTITY, "gain": GAIN, "identity, longer": IDENTITY}


class CifarSmooth(EachActivation, Cifar):
    variants = with_each_activation(SKIPS)
    budgets = {
        "smoke": Cifar.budgets["smoke"]
        | {"variants": ["identity, SiLU", "gain, SiLU"]},
        # What five rows of five seeds allow in 90 minutes of two cores.
        "cpu": Cifar.budgets["cpu"]
        | {"seeds": 5, "train": 6000}
        | {"variants": [name for name in variants if name != "identity, longer, ReLU"]},
        "gpu": Cifar.budgets["gpu"],
    }
    # What a step of gain takes, in steps of identity: the median of eight interleaved
    # pairs of five steps with PyTorch, in seconds of the processor. The same with ReLU.
    longer = 1.94
    columns = (Compared("error, %", "error", corrected=True, power=True),)
    note = "Gain is of second order."

    def train(self, run, bar):
        return train(run, bar, self.parts, self.variants[run["variant"]])

    def style(self, variant, i):
        return {"linestyle": "--" if "ReLU" in variant else "-"}

    check = Study.check


if __name__ == "__main__":
    CifarSmooth.main()
