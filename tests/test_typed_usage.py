"""What mypy checks of a program that uses the library is also true when it runs."""

import numpy as np
import typed_usage


def test_layers_and_optimizers():
    x = np.ones((4, 8, 8, 4), "float32")
    diagnostics = typed_usage.train(typed_usage.network(4), x, x[:, 0, 0])
    assert diagnostics["dropped"] == 0
    assert 0 <= diagnostics["accepted"] <= 1


def test_conversion():
    converted, names = typed_usage.convert(typed_usage.plain())
    assert names == ["sum"]
    assert converted.get_layer("sum").residual == "gain"
