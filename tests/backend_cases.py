"""The point at which the tests of the backend differentiate."""

import numpy as np
from keras import ops

X = np.array([[0.5, -1.0], [2.0, 0.25]], "float32")


def tensor(x=X, dtype="float32"):
    return ops.convert_to_tensor(x, dtype=dtype)
