"""An adjustment of dl/dz that knows the features, and a network trained with it.

GAL's tentative step z - eta~ g pretends that the outputs z move as g says. A step of
the last layer, with inputs Phi for a batch, moves each sample with all the others: by
-eta K g, K = Phi Phi' + 1. What anticipates that is

    g = (I + K / mu)^-1 dl/dz,      mu = damping * trace(K).

In the last layer alone this is a known preconditioner, that of FOOF (Benzing, 2022),
with the statistics of one batch. Its use below that layer is the question.
"""

import keras
from keras import layers, ops

from keras_gradres import models

PLAIN, OURS = "plain", "adjusted"
# Where the adjustment is used, the label smoothing, and the damping of K-FAC.
METHODS = {
    PLAIN: {},
    "label smoothing": {"smoothing": 0.1},
    OURS: {"last": True, "below": True},
    "adjusted, last layer only (FOOF)": {"last": True},
    "adjusted, below only": {"below": True},
    "K-FAC, last layer, 0.01": {"kfac": 0.01},
    "K-FAC, last layer, 0.001": {"kfac": 0.001},
    "adjusted, label smoothing": {"last": True, "below": True, "smoothing": 0.1},
}

# Networks of the library with identity skips, for the tasks of this name. A last layer
# replaces theirs, a convolution of size 1 in that of images.
PUBLISHED = {
    "resnet20": lambda: models.ResNet(20, residual="identity"),
    "camvid": lambda: models.UNet(11, filters=8, residual="identity"),
}


def adjusted(gradient, features, damping=0.01):
    """(I + K / mu)^-1 dl/dz, with K = Phi Phi' and mu = damping * trace(K).

    As K has the rank of the features, only a system of that many equations is solved:
    g = d - Phi (mu I + Phi' Phi)^-1 Phi' d.

    Args:
        gradient: d = dl/dz, of shape (N, outputs).
        features: Phi, of shape (N, p), with a column of ones for the bias.
        damping: A number.
    """
    mu = damping * ops.sum(features * features)
    gram = ops.matmul(ops.transpose(features), features)
    matrix = gram + mu * ops.eye(features.shape[-1])
    explained = ops.solve(matrix, ops.matmul(ops.transpose(features), gradient))
    return gradient - ops.matmul(features, explained)


def preconditioned(gradient, a, g, damping):
    """K-FAC of a Dense layer, A^-1 dW G^-1 (arXiv 1503.05671), up to a factor.

    Args:
        gradient: dW, of shape (p, outputs).
        a: The mean of the products of the layer's inputs, (p, p).
        g: That of the gradients at its outputs, (outputs, outputs).
        damping: The parts of the traces that are added to the diagonals.
    """
    for factor in (a, g):
        mu = damping * ops.trace(factor)
        matrix = ops.eye(factor.shape[0]) + factor / mu
        gradient = ops.transpose(ops.solve(matrix, gradient))
    return gradient


class Network(keras.Model):
    """A body and a last layer, whose gradients are what the method says.

    Of an image with a class for each pixel, each pixel is a sample.

    Args:
        body: A model that returns the features, (N, p) or (N, height, width, p).
        classes: Their number, or 0 for one output and the squared error.
        last, below: Whether the last layer and the body get the adjusted gradient.
        smoothing: That of the labels.
        kfac: The damping of K-FAC in the last layer, or None.
        ignored: The label of the samples that do not count, or None.
    """

    def __init__(
        self,
        body,
        classes,
        last=False,
        below=False,
        smoothing=0.0,
        kfac=None,
        ignored=None,
    ):
        super().__init__()
        self.body, self.classes, self.smoothing = body, classes, smoothing
        self.ignored = ignored
        self.adjusts_last, self.adjusts_below, self.kfac = last, below, kfac
        self.outputs_count = classes or 1
        self.last = layers.Dense(self.outputs_count)
        size = body.output_shape[-1] + 1
        self.last.build((None, size - 1))
        sizes = (size, self.outputs_count) if kfac else ()
        self.factors = [
            self.add_weight((n, n), initializer="identity", trainable=False)
            for n in sizes
        ]
        self.built = True

    def call(self, x, training=None):
        """The outputs; in training the features beside them, for the loss."""
        features = self.body(x, training=training)
        z = self.last(features)
        return ops.concatenate([z, features], -1) if training else z

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        y_pred = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        if not training:
            y_pred = ops.pad(y_pred, [[0, 0], [0, self.body.output_shape[-1]]])
        z, below = ops.split(y_pred, [self.outputs_count], -1)
        y, counted = self._counted(ops.reshape(y, (-1, 1)), z.dtype)
        loss, gradient = self._loss(y, ops.stop_gradient(z), counted)
        ones = ops.ones_like(below[:, :1])
        features = counted * ops.stop_gradient(ops.concatenate([below, ones], -1))
        better = gradient
        if self.adjusts_last or self.adjusts_below:
            better = adjusted(gradient, features)
        at_last = better if self.adjusts_last else gradient
        weights = ops.matmul(ops.transpose(features), at_last)
        if self.kfac:
            weights = self._preconditioned(weights, features, z, counted)
        kernel = ops.stop_gradient(ops.convert_to_tensor(self.last.kernel))
        at_features = ops.matmul(
            better if self.adjusts_below else gradient, ops.transpose(kernel)
        )
        # Linear in what is trained, with these gradients; and of the value of the loss.
        linear = ops.sum(weights[:-1] * self.last.kernel)
        linear += ops.sum(weights[-1] * self.last.bias) + ops.sum(at_features * below)
        return linear + loss - ops.stop_gradient(linear)

    def _counted(self, y, dtype):
        """The targets, and for each sample 1, or 0 where it does not count, (N, 1)."""
        if self.ignored is None:
            return y, ops.ones_like(y, dtype)
        counts = y != self.ignored
        return ops.where(counts, y, 0), ops.cast(counts, dtype)

    def _loss(self, y, z, counted):
        """The mean loss, and its gradient."""
        count = ops.sum(counted)
        if not self.classes:
            wrong = z - ops.cast(y, z.dtype)
            return ops.mean(wrong**2), 2 * wrong / count
        truth = ops.one_hot(ops.cast(y[:, 0], "int32"), self.classes)
        truth = truth * (1 - self.smoothing) + self.smoothing / self.classes
        loss = -ops.sum(counted * truth * ops.log_softmax(z)) / count
        return loss, counted * (ops.softmax(z) - truth) / count

    def _preconditioned(self, weights, features, z, counted):
        """By K-FAC, with exponential means; at the outputs that of Gauss-Newton."""
        count = ops.sum(counted)
        p = counted * ops.stop_gradient(ops.softmax(z))
        g = ops.ones((1, 1))
        if self.classes:
            g = (ops.diag(ops.sum(p, 0)) - ops.matmul(ops.transpose(p), p)) / count
        new = [ops.matmul(ops.transpose(features), features) / count, g]
        for factor, value in zip(self.factors, new, strict=True):
            factor.assign(0.9 * factor + 0.1 * value)
        return preconditioned(
            weights, *(ops.convert_to_tensor(f) for f in self.factors), self.kfac
        )


def convolved(x, size, filters):
    """A convolution whose stride is its size, as products of matrices.

    Many of them at once are fast on a CPU, and those of `Conv2D` are not.
    """
    _, side, _, channels = x.shape
    side //= size
    x = layers.Reshape((side, size, side, size, channels))(x)
    x = layers.Reshape((side, side, size * size * channels))(
        layers.Permute((1, 3, 2, 4, 5))(x)
    )
    return layers.Dense(filters, activation="relu")(x)


def body(task, shape):
    """What returns the features, from inputs of this shape."""
    if task in PUBLISHED:
        network = PUBLISHED[task]()
        return keras.Model(network.input, network.layers[-1].input)
    inputs = keras.Input(shape)
    x = inputs
    if task == "cifar10":
        x = convolved(x, 4, 64)
        x = convolved(x, 2, 128)
        return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    for _ in range(2):
        x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, x)
