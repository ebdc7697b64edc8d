"""Finds the layers inside a layer."""

from collections.abc import Iterator
from typing import Any

import keras


def layers_in(value: Any, seen: set[int] | None = None) -> Iterator[keras.Layer]:
    """All layers reachable through the attributes of a layer, itself included.

    Args:
        value: The layer, or a dict, list or tuple of layers.
        seen: The ids of what was visited, so that nothing is visited twice.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, keras.Layer):
        yield value
        value = vars(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in list(value):
        if isinstance(item, (keras.Layer, dict, list, tuple)):
            yield from layers_in(item, seen)
