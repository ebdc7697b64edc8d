"""Lists what `convert` does to each sum of a model, and what that costs.

Usage:

    print(keras_gradres.conversion_report(model))
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import keras

from keras_gradres.conversion import cost
from keras_gradres.conversion.analysis import Analysis, Candidate
from keras_gradres.conversion.calls import Path
from keras_gradres.pullbacks.recording import is_recordable

Selection = str | Iterable[str] | Callable[["Sum"], bool] | None


@dataclasses.dataclass(frozen=True)
class Sum:
    """One sum of a model.

    Attributes:
        name: The name of the `Add` layer or of the operation. Where the sum is in a
            model inside the model, the name of that model and a slash come first.
        converted: Whether `convert` makes a gradient residual of it.
        reason: Why not, or `None`.
        fork: The name of the layer, or of the model's input, where branch and skip
            part. `None` where the sum is no skip connection.
        branch: The names of the layers and operations of the branch.
        shortcut: The names of those of the shortcut, if there is one.
        flops: The number of operations of one pullback of the branch, for one sample.
            `None` if the sum is not converted, or a size is not known.
    """

    name: str
    converted: bool
    reason: str | None
    fork: str | None
    branch: tuple[str, ...]
    shortcut: tuple[str, ...]
    flops: int | None

    def extra_flops(self, second_order: bool = True) -> int | None:
        """Operations that conversion adds to a training step, for one sample."""
        times = cost.SECOND_ORDER if second_order else cost.FIRST_ORDER
        return None if self.flops is None else times * self.flops


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """The sums of a model, in order.

    Attributes:
        sums: The tuple of `Sum`.
        closed: The names and types of layers that hold other layers and whose `call` is
            code. Sums in that code are not seen.
        step_flops: The number of operations of a training step of the model without
            conversion, for one sample. `None` if a size is not known.
    """

    sums: tuple[Sum, ...]
    closed: tuple[str, ...]
    step_flops: int | None

    @property
    def converted(self) -> tuple[Sum, ...]:
        """The sums that are converted."""
        return tuple(s for s in self.sums if s.converted)

    def extra_flops(self, second_order: bool = True) -> int | None:
        """Operations that conversion adds to a training step, for one sample."""
        extra = [s.extra_flops(second_order) for s in self.converted]
        known = [n for n in extra if n is not None]
        return sum(known) if len(known) == len(extra) else None

    def __len__(self) -> int:
        return len(self.sums)

    def __iter__(self) -> Iterator[Sum]:
        return iter(self.sums)

    def __getitem__(self, name: str) -> Sum:
        """The sum of this name."""
        for entry in self.sums:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("sum", "fork", "branch", "shortcut", "1st order", "2nd order")
        ]
        for s in self.converted:
            costs = [_number(s.extra_flops(second)) for second in (False, True)]
            shortcut = ", ".join(s.shortcut) or "-"
            rows.append((s.name, s.fork or "", _short(s.branch), shortcut, *costs))
        lines = [f"{len(self.converted)} of {len(self.sums)} sums are converted."]
        if self.converted:
            lines += ["Cost: extra operations of a step, for one sample.", ""]
            lines += [*_table(rows), "", self._total()]
        others = [s for s in self.sums if not s.converted]
        if others:
            lines += ["", "Not converted:"]
            lines += [f"  {s.name}: {s.reason}" for s in others]
        if self.closed:
            lines += ["", "Sums in these layers are not seen, since they are code:"]
            lines += [f"  {name}" for name in self.closed]
        return "\n".join(lines)

    def _total(self) -> str:
        totals = [self.extra_flops(second) for second in (False, True)]
        text = "In all {} in first order, {} in second".format(*map(_number, totals))
        if self.step_flops and None not in totals:
            parts = [f"{n / self.step_flops:+.0%}" for n in totals if n is not None]
            text += f" ({' and '.join(parts)} of a step, {_number(self.step_flops)})"
        return text + "."


def conversion_report(model: keras.Model, layers: Selection = None) -> ConversionReport:
    """Lists the sums of a model: which `convert` converts, why not, what it costs.

    The model stays as it is.

    Args:
        model: A model; see `convert`.
        layers: The sums that are to be converted, as in `convert`.

    Returns:
        A `ConversionReport`, whose text is a table. Its entries are of class `Sum`.

    Example:
    >>> import keras
    >>> import keras_gradres
    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dense(4, activation="tanh")(inputs)
    >>> x = keras.layers.Dense(4)(x)
    >>> model = keras.Model(inputs, keras.layers.Add(name="sum")([inputs, x]))
    >>> report = keras_gradres.conversion_report(model)
    >>> [(s.name, s.converted, s.flops) for s in report]
    [('sum', True, 32)]
    """
    analysis = Analysis(model)
    chosen = selected(analysis.sums, layers)
    entries = [
        described(candidate, any(candidate is c for c in chosen))
        for candidate in analysis.sums
    ]
    closed = [f"{x.name} (of type {type(x).__name__})" for x in analysis.closed]
    return ConversionReport(tuple(entries), tuple(closed), _step_flops(model))


def selected(candidates: list[Candidate], layers: Selection) -> list[Candidate]:
    """The sums that can be converted and are chosen."""
    convertible = [c for c in candidates if c.reason is None]
    if layers is None:
        return convertible
    if callable(layers):
        return [c for c in convertible if layers(described(c, True))]
    names = names_in(layers)
    return [c for c in convertible if c.path in names or c.call.layer.name in names]


def names_in(layers: str | Iterable[str]) -> list[str]:
    """The names in the argument `layers`, one or several."""
    return [layers] if isinstance(layers, str) else list(layers)


def described(candidate: Candidate, converted: bool) -> Sum:
    """The entry of a report for a sum.

    Args:
        candidate: The sum.
        converted: Whether it can be converted and is chosen.
    """
    skip, calls = candidate.skip, candidate.calls
    reason = None
    if not converted:
        reason = candidate.reason or "it is not chosen by `layers`"
    fork = None if skip is None else calls.name_of(skip.fork)
    branch = () if skip is None else _names(skip.branch)
    shortcut = () if skip is None or skip.shortcut is None else _names(skip.shortcut)
    flops = candidate.flops if converted else None
    return Sum(candidate.path, converted, reason, fork, branch, shortcut, flops)


def _step_flops(model: keras.Model) -> int | None:
    if not is_recordable(model):
        return None
    forward = cost.of_model(model)
    return None if forward is None else cost.TRAINING_STEP * forward


def _names(path: Path) -> tuple[str, ...]:
    return tuple(call.layer.name for call in path.calls)


def _short(names: tuple[str, ...]) -> str:
    if len(names) < 4:
        return ", ".join(names)
    return f"{names[0]}, ..., {names[-1]} ({len(names)})"


def _number(n: int | None) -> str:
    if n is None:
        return "unknown"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], tuple("-" * width for width in widths), *rows[1:]]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
