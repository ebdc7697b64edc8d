"""Names for types that stand in many signatures.

The frameworks have no tensor class in common, and Keras carries no types. So the names
of this module are mostly for readers: they say what an argument is, and mypy checks
the structure around it (tuples, lists, functions, `None`).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

# A tensor of the active framework. `Any`, since each framework has a class of its own,
# and a module that named one could not be imported without that framework.
Tensor: TypeAlias = Any
# A `keras.KerasTensor`: a shape and a dtype, without values.
SymbolicTensor: TypeAlias = Any
# A tensor, or a tuple, list or dict of tensors, nested to any depth.
Structure: TypeAlias = Any
# The Keras mask of a tensor, which is `True` where an entry counts, or no mask.
Mask: TypeAlias = Tensor | None

# The name of a dtype, such as "float32".
Dtype: TypeAlias = str
# A shape as it is known before a call. `None` stands for a size that is not known.
Shape: TypeAlias = tuple[int | None, ...]
# A shape as `keras.ops.shape` gives it. In a graph a size may be a scalar tensor.
Sizes: TypeAlias = Sequence[Any]

# Axes in no order, counted from 0.
Axes: TypeAlias = frozenset[int]
# From axes of an output to axes of an input.
AxesFunction: TypeAlias = Callable[[Axes], Axes]
# The argument `axis` of a layer: one axis, several, or `None` for a default.
Axis: TypeAlias = int | Sequence[int] | None

# From a tensor to a tensor, such as an activation, or the pullback of a layer that has
# one input and one output.
TensorFunction: TypeAlias = Callable[[Tensor], Tensor]
# From the cotangents of several outputs, `None` for zero, to those of several inputs.
ListPullback: TypeAlias = Callable[[Sequence[Tensor | None]], list[Tensor]]
# One of these two, or a mixture: several cotangents are a list, a single one is none.
PullbackFunction: TypeAlias = Callable[[Any], Any]

# The argument `activation` of a layer, as `keras.activations.get` takes it.
ActivationLike: TypeAlias = Callable[..., Any] | str | dict[str, Any] | None
# An initializer, as `keras.initializers.get` takes it.
InitializerLike: TypeAlias = Callable[..., Any] | str | dict[str, Any]
# What `get_config` returns, and what `from_config` takes.
Config: TypeAlias = dict[str, Any]
# A regularizer, as `keras.regularizers.get` takes it.
RegularizerLike: TypeAlias = Callable[..., Any] | str | dict[str, Any] | None
