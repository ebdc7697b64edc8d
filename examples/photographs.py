"""Photographs with boxes: reading them, batches of them, and average precision.

    FOLDER/raccoon/labels.csv, FOLDER/raccoon/images/...     as datitran/raccoon_dataset
    FOLDER/annotations/instances_SPLIT.json, FOLDER/SPLIT/... as COCO

Both become a list of `Photograph`s. Boxes are (left, top, width, height) in pixels
there, as in COCO, and (center x, center y, width, height) in units of the image's sides
in what a detector is given and returns.
"""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib

import keras
import numpy as np
from PIL import Image


@dataclasses.dataclass
class Photograph:
    """A photograph, its boxes `(n, 4)`, and their classes, from 0 on.

    COCO marks the boxes of whole crowds: they are not trained with, and what is found
    in one is neither right nor wrong.
    """

    path: pathlib.Path
    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray
    crowds: np.ndarray


def raccoon(folder):
    """The photographs of FOLDER/raccoon, and the names of the classes."""
    root = pathlib.Path(folder) / "raccoon"
    with _existing(root / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["class"] for row in rows})
    of = {}
    for row in rows:
        of.setdefault(row["filename"], []).append(row)
    photographs = []
    for filename, boxes in sorted(of.items()):
        edges = [[float(b[k]) for k in ("xmin", "ymin", "xmax", "ymax")] for b in boxes]
        left, top, right, bottom = np.array(edges).T
        photographs.append(
            Photograph(
                root / "images" / filename,
                int(boxes[0]["width"]),
                int(boxes[0]["height"]),
                np.stack([left, top, right - left, bottom - top], axis=1),
                np.array([names.index(b["class"]) for b in boxes]),
                np.zeros(len(boxes), bool),
            )
        )
    return photographs, names


def coco(folder, split):
    """The photographs of a split, as `"val2017"`, and the names of the classes."""
    root = pathlib.Path(folder)
    path = _existing(root / "annotations" / f"instances_{split}.json")
    content = json.loads(path.read_text())
    categories = sorted(content["categories"], key=lambda c: c["id"])
    # The numbers of COCO have gaps: 80 classes up to 90.
    number = {category["id"]: i for i, category in enumerate(categories)}
    of = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of[annotation["image_id"]].append(annotation)
    photographs = [
        Photograph(
            root / split / image["file_name"],
            image["width"],
            image["height"],
            np.array([a["bbox"] for a in of[image["id"]]], float).reshape(-1, 4),
            np.array([number[a["category_id"]] for a in of[image["id"]]], int),
            np.array([bool(a.get("iscrowd")) for a in of[image["id"]]], bool),
        )
        for image in content["images"]
    ]
    return photographs, [category["name"] for category in categories]


def _existing(path):
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}.")
    return path


def resized(image, window, size):
    """The window (left, top, right, bottom) of an image, in [-1, 1]; black outside."""
    part = image.crop(tuple(round(edge) for edge in window))
    part = part.resize((size, size), Image.BILINEAR)
    return np.asarray(part, "float32") / 127.5 - 1


def targets(photograph, window, mirrored, most):
    """`boxes` (most, 4) and `classes` (most,) of a window, padded with the class -1.

    A box of which less than a third is in the window is left out.
    """
    boxes, classes = np.zeros((most, 4), "float32"), np.full(most, -1, "int32")
    x, y, right, bottom = window
    width, height = right - x, bottom - y
    kept = 0
    for i, (left, top, w, h) in enumerate(photograph.boxes):
        a, b = np.clip([left, left + w], x, right), np.clip([top, top + h], y, bottom)
        area = (a[1] - a[0]) * (b[1] - b[0])
        if photograph.crowds[i] or area <= 0 or area < w * h / 3:
            continue
        center = (a.mean() - x) / width
        boxes[kept] = (
            1 - center if mirrored else center,
            (b.mean() - y) / height,
            (a[1] - a[0]) / width,
            (b[1] - b[0]) / height,
        )
        classes[kept] = photograph.classes[i]
        kept += 1
    return boxes, classes


class Batches(keras.utils.PyDataset):
    """Full batches of photographs and targets, for `fit`, in an order of the seed.

    Each photograph is mirrored or not, and a window of 0.6 to 1.2 times its sides is
    taken at random. All depends on the seed, the epoch and the batch alone.
    """

    def __init__(self, photographs, size, batch_size, seed, keep=True):
        super().__init__()
        self.photographs, self.size, self.batch_size = photographs, size, batch_size
        self.seed, self.epoch = seed, 0
        self.most = max(1, *(len(p.boxes) for p in photographs))
        self.kept = {} if keep else None  # Reduced ones, if the memory holds all.

    def __len__(self):
        return len(self.photographs) // self.batch_size

    def on_epoch_end(self):
        self.epoch += 1

    def __getitem__(self, index):
        order = np.random.default_rng([self.seed, self.epoch])
        order = order.permutation(len(self.photographs))
        rng = np.random.default_rng([self.seed, self.epoch, index])
        part = order[index * self.batch_size :][: self.batch_size]
        images, boxes, classes = zip(*(self.one(i, rng) for i in part), strict=True)
        y = {"boxes": np.stack(boxes), "classes": np.stack(classes)}
        return np.stack(images), y

    def one(self, i, rng):
        photograph = self.photographs[i]
        sides = np.array([photograph.width, photograph.height])
        taken = sides * rng.uniform(0.6, 1.2) * rng.uniform(0.9, 1.1, 2)
        corner = (sides - taken) * rng.uniform(0, 1, 2)
        window = np.array([*corner, *(corner + taken)])
        image = self.opened(i)
        scale = image.width / photograph.width
        image = resized(image, scale * window, self.size)
        mirrored = rng.integers(2)
        if mirrored:
            image = image[:, ::-1]
        return image, *targets(photograph, window, mirrored, self.most)

    def opened(self, i):
        if self.kept is None:
            return opened(self.photographs[i])
        if i not in self.kept:
            image = opened(self.photographs[i])
            image.thumbnail((2 * self.size, 2 * self.size), Image.BILINEAR)
            self.kept[i] = image
        return self.kept[i]


def opened(photograph):
    with Image.open(photograph.path) as image:
        return image.convert("RGB")


def detect(model, photographs, size, batch_size=50):
    """For each photograph the boxes in pixels, the classes and the scores found."""
    found = []
    for start in range(0, len(photographs), batch_size):
        part = photographs[start : start + batch_size]
        whole = [resized(opened(p), (0, 0, p.width, p.height), size) for p in part]
        outputs = model.predict(np.stack(whole), verbose=0, batch_size=batch_size)
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(outputs["classes"]))
        scores = scores[..., :-1]
        for p, boxes, score in zip(part, outputs["boxes"], scores, strict=True):
            sides = np.array([p.width, p.height])
            corner = boxes[:, :2] - boxes[:, 2:] / 2
            pixels = np.concatenate([corner * sides, boxes[:, 2:] * sides], axis=1)
            found.append((pixels, score.argmax(-1), score.max(-1)))
    return found


def average_precision(photographs, found, names):
    """AP, AP50 and AP75 in percent, by COCO's own evaluation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = [
        {
            "image_id": i,
            "category_id": int(category),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(crowd),
        }
        for i, p in enumerate(photographs)
        for box, category, crowd in zip(p.boxes, p.classes, p.crowds, strict=True)
    ]
    results = [
        {
            "image_id": i,
            "category_id": int(category),
            "bbox": box.tolist(),
            "score": float(score),
        }
        for i, parts in enumerate(found)
        for box, category, score in zip(*parts, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(photographs))],
            "categories": [{"id": i, "name": n} for i, n in enumerate(names)],
            # From 1 on: COCOeval takes a match with number 0 for none.
            "annotations": [{"id": 1 + i, **a} for i, a in enumerate(truth)],
        }
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75"), 100 * evaluation.stats[:3], strict=True))
