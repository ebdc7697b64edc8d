"""A small detector in the manner of DETR (arXiv 2005.12872), as a plain Keras model.

    image -> convolutions -> encoder -> features
    queries, features -> decoder -> for each query a box and the logits of a class

A photograph has fewer boxes than the detector has queries. Which query answers for
which box is the assignment of least cost between both, found anew in each step. It is
made in `Detector.compute_loss`, where Keras hands over the targets and the outputs.
From there on each query has its target, and the losses are ordinary ones:

    model = make_detector(size=96, classes=1)
    gal = GAL(keras.optimizers.AdamW(1e-3), alpha=0.01, hidden_units=(64, 16))
    model.compile(gal, loss={"boxes": gal.loss(BoxLoss()), "classes": ClassLoss()})
    model.fit(images, {"boxes": boxes, "classes": classes})

Boxes are (center x, center y, width, height) in units of the image's sides. `boxes` has
the shape (N, M, 4) and `classes` (N, M), padded to the same M with the class -1.

The assignment is made before the losses and not in them. Algorithm 1 of GAL asks for
the loss at a second point, and there each box has to have the target that it has here.
"""

import keras
from keras import layers, ops
from matching import assignment

L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0  # As in DETR, as is the next.
BACKGROUND_WEIGHT = 0.1


def corners(boxes):
    """Left, top, right and bottom of boxes `(..., 4)`, each `(...)`."""
    x, y, width, height = (boxes[..., i] for i in range(4))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def generalized_iou(a, b):
    """The generalized IoU (arXiv 1902.09630) of boxes `(..., 4)`, in [-1, 1].

    It is |A and B| / |A or B| - |C without (A or B)| / |C|, with C the smallest box
    that holds both. Unlike the IoU it has a gradient where they do not overlap.
    """
    left, top, right, bottom = zip(corners(a), corners(b), strict=True)
    width = ops.minimum(*right) - ops.maximum(*left)
    height = ops.minimum(*bottom) - ops.maximum(*top)
    both = ops.maximum(width, 0) * ops.maximum(height, 0)
    either = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - both
    hull = (ops.maximum(*right) - ops.minimum(*left)) * (
        ops.maximum(*bottom) - ops.minimum(*top)
    )
    epsilon = keras.config.epsilon()
    return both / (either + epsilon) - (hull - either) / (hull + epsilon)


@keras.saving.register_keras_serializable("detector")
class BoxLoss(keras.losses.Loss):
    """5 |b - b'|_1 + 2 (1 - GIoU(b, b')) for each box, in the mean of those matched."""

    def __init__(self, reduction="mean_with_sample_weight", name="box_loss", **kwargs):
        super().__init__(name, reduction, **kwargs)

    def call(self, y_true, y_pred):
        distance = ops.sum(ops.abs(y_true - y_pred), axis=-1)
        overlap = generalized_iou(y_true, y_pred)
        return L1_WEIGHT * distance + GIOU_WEIGHT * (1 - overlap)


def ClassLoss():  # noqa: N802
    """The cross-entropy of each query's class, in the weighted mean."""
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def costs(y, y_pred):
    """What it costs to give box m to query q, `(N, M, Q)`; 0 where m is padding."""
    known = ops.cast(y["classes"] >= 0, "float32")[:, :, None]
    a = ops.cast(y["boxes"], "float32")[:, :, None]
    b = ops.cast(y_pred["boxes"], "float32")[:, None]
    distance = ops.sum(ops.abs(a - b), axis=-1)
    logits = ops.cast(y_pred["classes"], "float32")
    likely = ops.einsum(
        "nqc,nmc->nmq",
        ops.softmax(logits),
        ops.one_hot(ops.maximum(y["classes"], 0), logits.shape[-1], dtype="float32"),
    )
    cost = L1_WEIGHT * distance - GIOU_WEIGHT * generalized_iou(a, b) - likely
    return known * cost


def matched(y, y_pred):
    """Targets and sample weights of each query, dicts as `y` and `y_pred` are."""
    y_pred = {name: ops.stop_gradient(value) for name, value in y_pred.items()}
    known = ops.cast(y["classes"] >= 0, "float32")[:, :, None]
    pairs = known * ops.stop_gradient(assignment(costs(y, y_pred)))
    found = ops.sum(pairs, axis=1)
    background = y_pred["classes"].shape[-1] - 1
    classes = ops.einsum("nmq,nm->nq", pairs, ops.cast(y["classes"], "float32"))
    targets = {
        "boxes": ops.einsum("nmq,nmc->nqc", pairs, ops.cast(y["boxes"], "float32")),
        "classes": ops.cast(classes + background * (1 - found), "int32"),
    }
    return targets, {
        "boxes": found,
        "classes": found + BACKGROUND_WEIGHT * (1 - found),
    }


@keras.saving.register_keras_serializable("detector")
class Detector(keras.Model):
    """A functional model whose losses are those of matched targets."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` must be None: the weights are those of the matching. "
                f"Received: sample_weight={sample_weight}"
            )
        y, weights = matched(y, y_pred)
        return super().compute_loss(x, y, y_pred, weights, training)


@keras.saving.register_keras_serializable("detector")
class Learned(layers.Layer):
    """`count` trained vectors, the same for each sample, as wide as the input."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        self.table = self.add_weight(
            shape=(1, self.count, shape[-1]), initializer="random_normal", name="table"
        )

    def call(self, x):
        return ops.repeat(self.table, ops.shape(x)[0], axis=0)

    def get_config(self):
        return {**super().get_config(), "count": self.count}


def convolutions(images, filters):
    """Features at 1 / 2^n of the image's size, with n filters given."""
    x = images
    for count in filters:
        x = layers.Conv2D(count, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
        y = layers.Conv2D(count, 3, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(x + layers.BatchNormalization()(y))
    return x


def attended(x, queries, keys, values, heads, dropout):
    """X plus attention, normalized."""
    attention = layers.MultiHeadAttention(heads, x.shape[-1] // heads, dropout=dropout)
    y = layers.Dropout(dropout)(attention(queries, values, keys))
    return layers.LayerNormalization()(x + y)


def transformed(x, dropout):
    """X plus a perceptron, normalized."""
    y = layers.Dense(4 * x.shape[-1], activation="relu")(x)
    y = layers.Dense(x.shape[-1])(layers.Dropout(dropout)(y))
    return layers.LayerNormalization()(x + layers.Dropout(dropout)(y))


def make_detector(
    size,
    classes,
    queries=6,
    width=64,
    heads=4,
    encoders=1,
    decoders=2,
    dropout=0.0,
    filters=(16, 32, 48, 64),
    backbone=None,
):
    """A `Detector` of square images of `size` pixels, RGB in [-1, 1].

    Its outputs are the dict of `boxes` (N, queries, 4) in (0, 1), and `classes` (N,
    queries, classes + 1), logits, the last of which is that of the background.
    `backbone` is a function from images to features; else there are two convolutions
    for each of `filters`, the first of which halves the size.
    """
    images = keras.Input((size, size, 3))
    x = convolutions(images, filters) if backbone is None else backbone(images)
    x = layers.Conv2D(width, 1)(x)
    x = layers.Reshape((-1, width))(x)
    place = Learned(x.shape[1])(x)
    for _ in range(encoders):
        x = attended(x, x + place, x + place, x, heads, dropout)
        x = transformed(x, dropout)
    query = Learned(queries)(x)
    y = 0 * query
    for _ in range(decoders):
        y = attended(y, y + query, y + query, y, heads, dropout)
        y = attended(y, y + query, x + place, x, heads, dropout)
        y = transformed(y, dropout)
    hidden = layers.Dense(width, activation="relu")(y)
    hidden = layers.Dense(width, activation="relu")(hidden)
    outputs = {
        "boxes": layers.Dense(4, activation="sigmoid", dtype="float32")(hidden),
        "classes": layers.Dense(classes + 1, dtype="float32")(y),
    }
    return Detector(images, outputs)
