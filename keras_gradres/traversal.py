"""Walks through the layers inside a layer."""

import keras


def layers_in(value, seen=None):
    """All layers reachable through the attributes of a layer, itself included."""
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
