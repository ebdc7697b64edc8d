"""The examples of the docstrings do what they show, on each backend."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import keras_gradres
from keras_gradres import pullbacks

# What an example may use without importing it: what a reader has imported, and the
# public names. Not the private names of the module that it stands in.
PUBLIC = (
    keras_gradres,
    keras_gradres.callbacks,
    keras_gradres.layers,
    keras_gradres.losses,
    keras_gradres.models,
    keras_gradres.optimizers,
    pullbacks,
)
NAMES = {"keras": keras, "np": np, "keras_gradres": keras_gradres} | {
    name: getattr(module, name) for module in PUBLIC for name in module.__all__
}


def modules():
    yield keras_gradres
    for found in pkgutil.walk_packages(keras_gradres.__path__, "keras_gradres."):
        # Each of these imports its framework, and but one is there in tox.
        if not found.name.startswith("keras_gradres.backend."):
            yield importlib.import_module(found.name)


EXAMPLES = [
    example
    for module in modules()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module)
    if example.examples
]


def test_each_public_class_has_one():
    have = {example.name.rpartition(".")[2] for example in EXAMPLES}
    handed_to_rules = {"Call", "Graph", "Pullback"}
    classes = {name for name, value in NAMES.items() if isinstance(value, type)}
    assert classes - have == handed_to_rules


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example):
    example.globs = dict(NAMES)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    output = []
    failed, tried = runner.run(example, out=output.append)
    assert not failed, "".join(output)
    assert tried == len(example.examples)
