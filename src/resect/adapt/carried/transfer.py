"""Weights into a changed architecture: one layer more or less does not shift the rest."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras

from resect.adapt.carried.alignment import Alignment, alignment_of, nearest
from resect.adapt.carried.weight_files import WeightFile, load_into, own_file
from resect.aligning import Pairing, Unit, pair
from resect.errors import EditError, NoMatchError, ShapeError
from resect.keras_graph.reading import has_graph
from resect.keras_graph.units import all_layers, give, independent_copy, units_of


class Transfer(NamedTuple):
    """What `transfer` returns.

    Attributes:
        model: The model with the weights.
        report: What was matched, how, and what was not.
    """

    model: Any
    report: Alignment


@dataclass(frozen=True, eq=False)
class _Sides:
    """A source and a target that have been compared.

    Attributes:
        source: Name of the source.
        pairing: What stands for what.
        files: The target's own weights file and the source, if the source is one.
    """

    source: str
    pairing: Pairing
    files: tuple[WeightFile, WeightFile] | None = None


def align(
    source: Any,
    target: Any,
    *,
    rename: Mapping[str, str] | None = None,
    by: Sequence[str] = ("name", "position"),
) -> Alignment:
    """Which layers of two models stand for each other: what `transfer` would do.

    Args:
        source: As in `transfer`.
        target: As in `transfer`.
        rename: As in `transfer`.
        by: As in `transfer`.

    Returns:
        The report. Print it.

    Raises:
        SurgeryError: As in `transfer`.

    Example:

    >>> import keras, resect
    >>> from keras import layers
    >>> def model(*middle):
    ...     ends = layers.Dense(8, name="first"), layers.Dense(2, name="last")
    ...     return keras.Sequential([keras.Input((4,)), ends[0], *middle, ends[1]], name="net")
    >>> print(resect.adapt.align(model(), model(layers.Dense(8, name="more"))))
    From net to net
    <BLANKLINE>
          source  target  class  variables
    name  first   first   Dense  kernel 4x8, bias 8
    left          more    Dense  kernel 8x8, bias 8
    name  last    last    Dense  kernel 8x2, bias 2
    <BLANKLINE>
    2 matched, 1 of the target left, 0 of the source left
    left: more: nothing has its class and shapes
    """
    with _compared(source, target, rename, by) as sides:
        return _report(sides, target)


def transfer(
    source: Any,
    target: Any,
    *,
    rename: Mapping[str, str] | None = None,
    by: Sequence[str] = ("name", "position"),
    strict: bool = False,
) -> Transfer:
    """A model with the weights of another, wherever a layer of the one stands for one of the other.

    Two layers may stand for each other if their class and the names and shapes of their variables
    agree. Of those, names that someone chose decide first (`dense_1` is Keras's, and decides
    nothing), also where a model is nested in one and opened in the other. The rest is aligned in
    order, as `diff` does it: a layer that was put in or taken out shifts nothing. What could be
    aligned in several ways is ambiguous: it is left, and the report says so.

    Preserved: every value that is carried, bit by bit, but for the dtype of the target; the
    architecture, flags and compile state of the target, and the values of what is left.
    Not preserved: what is not a weight, such as a vocabulary, is not carried: the notes list it. A
    target that was trained keeps its optimizer's slots: compile it anew.

    Args:
        source: A built Keras model, or the path of a `.keras` or `.weights.h5` file.
        target: A built Keras model of any kind. It is not changed.
        rename: Paths of layers of the source (`"block_1"`, `"base/conv"`; their parts come along),
            and their paths in the target.
        by: `"name"`, `"position"` or both. Alone, names count whoever chose them, and the order
            is taken for granted.
        strict: Whether it is an error that something is left, in either model.

    Returns:
        The new model and the report; print it. A weights file does not say in which order the
        layers of several classes or branches stood: position counts less there.

    Raises:
        NoMatchError: Nothing matches, or a name in `rename` means nothing.
        ShapeError: A layer that `rename` names has other variables.
        EditError: With `strict`, what is left; a file that cannot be read.
        UnbuiltError: A model without variables yet.

    Example:

    >>> import keras, resect
    >>> from keras import layers
    >>> def model(classes):
    ...     stack = [keras.Input((4,)), layers.Dense(8, name="body"), layers.Dense(classes)]
    ...     return keras.Sequential(stack)
    >>> old = model(2)
    >>> new, report = resect.adapt.transfer(old, model(3))
    >>> bool((new.get_layer("body").kernel.numpy() == old.get_layer("body").kernel.numpy()).all())
    True
    >>> [left.path for left in report.fresh]  # doctest: +ELLIPSIS
    ['dense...']
    """
    with _compared(source, target, rename, by) as sides:
        report = _report(sides, target)
        if strict:
            report.raise_if_incomplete()
        if not report.matches:
            raise NoMatchError(
                f"Nothing in {report.source} stands for anything in {report.target}.",
                "Compare the two with resect.adapt.align, and say rename= where names differ.",
            )
        new = independent_copy(target)
        pairs = [(j, i) for j, (i, _) in sorted(sides.pairing.pairs.items())]
        ones, others = sides.pairing.target, sides.pairing.source
        if sides.files is not None:
            places = [(ones[j].handle, others[i].handle) for j, i in pairs]
            load_into(new, *sides.files, places)
        else:
            made = units_of(new)
            for j, i in pairs:
                give(others[i].handle, made[j].handle)
    return Transfer(new, report)


@contextlib.contextmanager
def _compared(
    source: Any, target: Any, rename: Mapping[str, str] | None, by: Sequence[str]
) -> Iterator[_Sides]:
    by = (by,) if isinstance(by, str) else tuple(by)
    if not by or not set(by) <= {"name", "position"}:
        raise ValueError(f'by must be "name", "position" or both, not {by!r}.')
    all_layers(target)  # raises where it is no built model
    if not isinstance(source, (str, Path)):
        yield _Sides(source.name, _models(source, target, rename, by))
        return
    path = Path(source)
    if path.name.endswith(".weights.h5"):
        with tempfile.TemporaryDirectory() as folder:
            files = own_file(target, folder), WeightFile(path)
            yield _Sides(path.name, _files(*files, rename, by), files)
        return
    yield _Sides(path.name, _models(_loaded(path), target, rename, by))


def _models(source: Any, target: Any, rename: Mapping[str, str] | None, by: Any) -> Pairing:
    ones, others = units_of(source), units_of(target)
    same_order = has_graph(source) == has_graph(target)
    same_order &= has_graph(source) or type(source) is type(target)
    in_order = same_order or "name" not in by
    return pair(ones, others, by, _pinned(rename, ones, others), in_order=in_order)


def _files(own: WeightFile, source: WeightFile, rename: Mapping[str, str] | None, by: Any) -> Any:
    """Files know the order of layers of one class only, and so nothing of branches."""
    in_order = own.groups == source.groups or "name" not in by
    pinned = _pinned(rename, source.units, own.units)
    return pair(source.units, own.units, by, pinned, in_order=in_order)


def _loaded(path: Path) -> Any:
    if path.suffix != ".keras":
        raise EditError(
            f"'{path}' is neither a .keras nor a .weights.h5 file.",
            "Load it with Keras into the model that it was saved from, and give that model.",
        )
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever a layer's own code may raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise EditError(
            f"'{path}' cannot be loaded: {type(error).__name__}: {reason}",
            "Load it yourself, with custom_objects= or safe_mode=, and give the model.",
        ) from error


def _pinned(
    rename: Mapping[str, str] | None, source: Sequence[Unit], target: Sequence[Unit]
) -> dict[int, tuple[str, ...]]:
    """The paths that units of the source have in the target, as `rename` says."""
    there = {unit.path: unit for unit in target}
    found: dict[int, tuple[str, ...]] = {}
    for old, new in (rename or {}).items():
        names, others = tuple(old.split("/")), tuple(new.split("/"))
        inside = [i for i, unit in enumerate(source) if unit.path[: len(names)] == names]
        if not inside:
            raise NoMatchError(
                f"rename={{'{old}': …}}: the source has no '{old}' with weights.",
                nearest(old, source),
            )
        for i in inside:
            path = (*others, *source[i].path[len(names) :])
            _check_renamed(source[i], there.get(path), "/".join(path), target)
            found[i] = path
    twice = [path for path in found.values() if list(found.values()).count(path) > 1]
    if twice:
        raise EditError(f"rename= gives '{'/'.join(twice[0])}' to several layers of the source.")
    return found


def _check_renamed(one: Unit, other: Unit | None, path: str, target: Sequence[Unit]) -> None:
    if other is None:
        raise NoMatchError(
            f"'{one.name}' was renamed, and the target has no '{path}' with weights.",
            nearest(path, target),
        )
    if one.layout != other.layout:
        raise ShapeError(
            f"'{one.name}' ({one.shapes}) does not fit '{path}' ({other.shapes}).",
            "Take it out of rename=.",
            one.name,
        )


def _report(sides: _Sides, target: Any) -> Alignment:
    return alignment_of(sides.pairing, sides.source, target.name, tuple(_notes(target)))


def _notes(target: Any) -> Iterator[str]:
    """What the target has that is not a weight, and that is therefore not carried."""
    for path, _, layer in all_layers(target):
        spelled = f"'{'/'.join(path)}' ({type(layer).__name__})"
        if hasattr(layer, "save_assets"):
            yield f"{spelled} keeps its own vocabulary or bins: they are not weights"
        elif getattr(layer, "input_mean", None) is not None:
            yield f"{spelled} keeps its own mean and variance: they are in its configuration"
