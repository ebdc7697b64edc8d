"""The detector of the examples: its matching, its losses, and GAL on its boxes."""

import keras
import numpy as np
import pytest
from gal_cases import QUICK
from helpers import importable, require_extra
from keras import ops

from keras_gradres.optimizers import GAL

importable("examples")
require_extra("examples", "scipy")

import detector  # noqa: E402
import matching  # noqa: E402
from scipy.optimize import linear_sum_assignment  # noqa: E402


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((7, 1, 1), "normal"),
        ((9, 3, 6), "normal"),
        ((20, 5, 5), "ties"),
        ((4, 12, 30), "normal"),
        ((3, 6, 8), "equal"),
    ],
)
def test_assignment_is_that_of_scipy(shape, kind):
    rng = np.random.default_rng(0)
    costs = rng.normal(size=shape).astype("float32")
    if kind == "ties":
        costs = np.round(costs)
    if kind == "equal":  # Two rows the same, and one of padding.
        costs[:, 1], costs[:, 2] = costs[:, 0], 0
    found = ops.convert_to_numpy(matching.assignment(ops.convert_to_tensor(costs)))
    for cost, pairs in zip(costs, found, strict=True):
        assert set(np.unique(pairs)) <= {0, 1}
        assert pairs.sum(1).tolist() == [1] * shape[1]
        assert pairs.sum(0).max() == 1
        least = cost[linear_sum_assignment(cost)].sum()
        assert (cost * pairs).sum() == pytest.approx(least, abs=1e-5)


def test_more_boxes_than_queries():
    with pytest.raises(ValueError, match="at most as many rows as columns"):
        matching.assignment(ops.zeros((2, 4, 3)))


def test_generalized_iou_by_hand():
    # Two squares of side 2, one moved by 1: both 2, either 6, and a hull of 6: 1 / 3.
    # Moved by 4: both 0, either 8, a hull of 12: -4 / 12. Inside of twice the side:
    # both 4, either 16, and a hull of 16: 1 / 4.
    a = np.array([[1.0, 1, 2, 2], [1, 1, 2, 2], [2, 2, 2, 2]], "float32")
    b = np.array([[2.0, 1, 2, 2], [5, 1, 2, 2], [2, 2, 4, 4]], "float32")
    found = ops.convert_to_numpy(detector.generalized_iou(*map(ops.array, (a, b))))
    np.testing.assert_allclose(found, [1 / 3, -1 / 3, 1 / 4], atol=1e-6)
    # 5 (1 + 0 + 0 + 0) + 2 (1 - 1 / 3), 5 * 4 + 2 (1 + 1 / 3), 5 (2 + 2) + 2 * 3 / 4.
    losses = detector.BoxLoss(reduction="none")(a, b)
    expected = [5 + 4 / 3, 20 + 8 / 3, 20 + 1.5]
    np.testing.assert_allclose(ops.convert_to_numpy(losses), expected, rtol=1e-5)


def test_matched_targets_by_hand():
    y = {
        "boxes": np.array([[[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]], "float32"),
        "classes": np.array([[1, -1]], "int32"),
    }
    near, far = [0.25, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]
    outputs = {
        "boxes": ops.array([[far, near, far]], "float32"),
        "classes": ops.zeros((1, 3, 3)),
    }
    y = {name: ops.array(value) for name, value in y.items()}
    targets, weights = detector.matched(y, outputs)
    targets, weights = (
        {k: ops.convert_to_numpy(v) for k, v in part.items()}
        for part in (targets, weights)
    )
    # The second box is padding; class 2 of the logits is the background.
    np.testing.assert_allclose(targets["boxes"][0, 1], [0.2, 0.2, 0.2, 0.2])
    assert targets["classes"].tolist() == [[2, 1, 2]]
    assert weights["boxes"].tolist() == [[0, 1, 0]]
    np.testing.assert_allclose(weights["classes"], [[0.1, 1, 0.1]])


def make(gal=None):
    """A detector, with momentum: AdamW would make steps of what is rounding noise."""
    keras.utils.set_random_seed(0)
    model = detector.make_detector(
        16, 2, queries=4, width=8, heads=2, encoders=0, decoders=1, filters=(4, 8)
    )
    losses = {"boxes": detector.BoxLoss(), "classes": detector.ClassLoss()}
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    if gal:
        optimizer = GAL(optimizer, hidden_units=(8,), seed=0, **gal)
        losses["boxes"] = optimizer.loss(losses["boxes"])
    model.compile(optimizer, losses, **QUICK)
    return model


def make_data(count=8):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 16, 16, 3)).astype("float32")
    classes = rng.integers(0, 2, (count, 2)).astype("int32")
    classes[::2, 1] = -1
    boxes = rng.uniform(0.3, 0.6, (count, 2, 4)).astype("float32")
    return x, {"boxes": boxes, "classes": classes}


def test_loss_is_that_of_scipys_matching():
    model, (x, y) = make(), make_data()
    outputs = model.predict(x, verbose=0)
    logits = outputs["classes"]
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses, logs, weights = [], [], []
    for boxes, classes, found, likely in zip(
        y["boxes"], y["classes"], outputs["boxes"], probability, strict=True
    ):
        known = classes >= 0
        cost = np.array(
            [[_box_loss(a, b) for b in found] for a in boxes[known]]
        ) - np.stack([likely[:, c] for c in classes[known]])
        rows, columns = linear_sum_assignment(cost)
        labels, weight = np.full(4, 2), np.full(4, 0.1)
        labels[columns], weight[columns] = classes[known][rows], 1
        pairs = zip(boxes[known][rows], found[columns], strict=True)
        losses += [_box_loss(a, b) for a, b in pairs]
        logs += [-np.log(likely[np.arange(4), labels])]
        weights += [weight]
    logs, weights = np.array(logs), np.array(weights)
    expected = np.mean(losses), (weights * logs).sum() / weights.sum()
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    measured = found["boxes_loss"], found["classes_loss"]
    np.testing.assert_allclose(measured, expected, rtol=1e-4)


def _box_loss(a, b):
    low_a, high_a = a[:2] - a[2:] / 2, a[:2] + a[2:] / 2
    low_b, high_b = b[:2] - b[2:] / 2, b[:2] + b[2:] / 2
    sides = np.minimum(high_a, high_b) - np.maximum(low_a, low_b)
    both = np.prod(np.maximum(sides, 0))
    either = np.prod(a[2:]) + np.prod(b[2:]) - both
    hull = np.prod(np.maximum(high_a, high_b) - np.minimum(low_a, low_b))
    overlap = both / either - (hull - either) / hull
    return 5 * np.abs(a - b).sum() + 2 * (1 - overlap)


@pytest.mark.slow
def test_gal_without_adjustment_is_its_optimizer():
    (x, y), weights = make_data(), []
    for gal in (None, {"alpha": 0.0}, {"alpha": 0.5, "policy": "always"}):
        model = make(gal)
        history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False)
        assert np.isfinite(history.history["loss"]).all()
        weights.append([v.numpy() for v in model.trainable_variables])
    plain, zero, adjusted = weights
    for a, b in zip(plain, zero, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert any(abs(a - b).max() > 1e-3 for a, b in zip(plain, adjusted, strict=True))
    assert model.optimizer.diagnostics["accepted"] == 1


def test_sample_weights_are_refused():
    model, (x, y) = make(), make_data()
    with pytest.raises(ValueError, match="`sample_weight` must be None"):
        model.fit(x, y, sample_weight=np.ones(len(x)), verbose=0)


def test_file_of_a_detector(tmp_path):
    model, (x, y) = make({"alpha": 0.5}), make_data()
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "detector.keras")
    again = keras.models.load_model(tmp_path / "detector.keras")
    for m in (model, again):
        m.fit(x, y, batch_size=4, verbose=0, shuffle=False)
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)
