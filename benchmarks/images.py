"""Images to train on; making them small, and how well they were made large again.

As the field does: reduced by bicubic interpolation with antialiasing, and PSNR and SSIM
taken of the luminance, without `scale` pixels at each edge. scikit-image and Pillow do
the work; `tests/test_study_data.py` compares with Keras's own and with the published
numbers of bicubic interpolation.
"""

import numpy as np
from PIL import Image
from skimage import metrics


def cropped(image, scale):
    """The largest part from the top left whose sides are multiples of `scale`."""
    height, width = (size // scale * scale for size in image.shape[:2])
    return image[:height, :width]


def reduced(image, scale):
    """1 / `scale` of the size; uint8 as is stored in a file."""
    height, width = (size // scale for size in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))


def enlarged(image, scale):
    """Bicubic interpolation to `scale` times the size."""
    height, width = (size * scale for size in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))


def augmented(x, rng):
    """Mirrored and moved by up to 4 pixels, each image in its own way."""
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:3], (1, 2))
    moved = windows[np.arange(len(x)), *rng.integers(0, 9, (2, len(x)))]
    moved = moved.transpose(0, 2, 3, 1)
    mirrored = rng.integers(0, 2, len(x)).astype(bool)[:, None, None, None]
    return np.where(mirrored, moved[:, :, ::-1], moved)


def luminance(rgb):
    """The Y of ITU-R BT.601, in [16, 235], of RGB in [0, 255]."""
    return 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255


def psnr(image, truth, scale):
    """In decibels; of the luminance of two uint8 RGB images."""
    image, truth = _inner(image, scale), _inner(truth, scale)
    return metrics.peak_signal_noise_ratio(truth, image, data_range=255)


def ssim(image, truth, scale):
    """Structural similarity with a Gaussian window of 11 pixels, as its authors do."""
    return metrics.structural_similarity(
        _inner(image, scale),
        _inner(truth, scale),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


def _inner(rgb, scale):
    inner = slice(scale, -scale)
    return luminance(rgb.astype("float64"))[inner, inner]
