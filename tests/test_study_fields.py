"""The networks of the studies of images as functions of coordinates."""

import keras
import numpy as np
import pytest
from helpers import require_studies

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from benchmarks import coordinates, fields  # noqa: E402
from keras_gradres.layers import GradientResidual  # noqa: E402


@pytest.mark.parametrize("finer", [False, True])
def test_sine_layers(finer):
    # u = 0.5: sin(2 * 0.5), and sin(2 * 1.5 * 0.5) with FINER; the slopes are
    # 2 cos(1), and 2 (2 * 0.5 + 1) cos(1.5).
    phase, slope = (1.5, 4) if finer else (1, 2)
    layer = coordinates.Sine(2.0, finer)
    skip = GradientResidual([layer], residual="additive", normalize=False)
    found = skip(np.full((1, 1), 0.5, "float32"))
    expected = np.sin(phase) + 0.5 + slope * np.cos(phase)
    assert float(found[0, 0]) == pytest.approx(expected, rel=1e-5)
    again = coordinates.Sine.from_config(layer.get_config())
    assert (again.omega, again.finer) == (2.0, finer)


@pytest.mark.parametrize("finer", [False, True])
def test_siren_keeps_its_spread(finer):
    """Section 3.2 of SIREN: the phases of hidden layers have variance 1 about."""
    keras.utils.set_random_seed(0)
    make = coordinates.finer if finer else coordinates.siren
    assert make(1, 1, 16, 4).count_params() == 1137
    x = np.linspace(-1, 1, 512, dtype="float32")[:, None]
    for i, layer in enumerate(make(1, 1, 256, 3).layers[1:-1]):
        x = keras.ops.convert_to_numpy(layer(x))
        if i in (2, 4, 6):
            assert 0.7 < np.std(30 * x) < (2.5 if finer else 1.5)


def test_fourier_features_by_hand():
    layer = coordinates.FourierFeatures(2)
    layer.build((None, 1))
    layer.set_weights([np.array([[0.5, 1.0]])])
    found = layer(np.array([[0.25]], "float32"))
    # 2 pi B x is pi / 4 and pi / 2.
    half = np.sqrt(0.5)
    found = keras.ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, [[half, 0, half, 1]], atol=1e-6)


def test_half_of_the_pixels_is_held_out():
    learned, hidden = fields.halves(6, seed=0)
    assert len(learned) == len(hidden) == 18
    assert {*learned, *hidden} == set(range(36))
    # Row by row, as the colors of an image are.
    grid = fields.coordinates(3)
    assert grid[[0, 1, 3]].tolist() == [[-1, -1], [-1, 0], [0, -1]]


@pytest.mark.parametrize("name", fields.VARIANTS)
def test_networks_of_images_have_as_many_parameters(name):
    # A first layer of 2 x 8 + 8, none after Fourier features; blocks of 8 x 8 + 8; a
    # last one of 8 x 3 + 3; and alpha or gamma for each block.
    group, skip, more = fields.VARIANTS[name]
    expected = 24 * (group != "Fourier features") + (2 + more) * 72 + 27
    expected += {"convex": 2, "gain": 2 * 8}.get(skip, 0)
    model = fields.network(name, units=8, blocks=2, seed=0)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == expected
