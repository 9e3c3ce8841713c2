"""Weight files (`.weights.h5`): what lies in them, and a model that takes some of it over.

Keras stores layers by their class and their place among those of their class, and their names
beside that. A model is compared with a file through a file of its own, so both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

from resect.aligning import Unit
from resect.errors import EditError
from resect.graph import VariableSpec
from resect.keras_graph.units import all_layers, is_automatic

_NO_LAYERS = {"optimizer", "_loss_tracker", "_metrics", "_compile_metrics", "_compile_loss"}


class WeightFile:
    """A weights file that is read.

    Args:
        path: Path of a file that `model.save_weights` has written.

    Attributes:
        groups: Every layer in it, also those without weights, by its place in the file.
        units: Those with weights; their handle is the place in the file.

    Raises:
        EditError: Not a weights file of Keras 3.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                found = _layers(file)
                beside = _by_owner(found)
                units = (_unit(file, place, found, beside) for place in found)
                self.units = tuple(unit for unit in units if unit is not None)
        except OSError as error:
            raise EditError(f"'{self.path}' cannot be read: {error}.", "Check the path.") from error
        self.groups = frozenset(found)
        if not self.units:
            raise EditError(
                f"'{self.path}' holds no weights in the format of Keras 3.",
                "Load it into the model that it was saved from, and give that model as the source.",
            )


def _layers(file: Any) -> dict[str, str]:
    """The places of all layers and parts of layers, sorted, with their names."""
    found: dict[str, str] = {}

    def visit(place: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and place.rpartition("/")[2] == "vars":
            owner = place.rpartition("/")[0]
            if owner.split("/")[0] not in _NO_LAYERS:
                found[owner] = str(item.attrs.get("name", owner.rpartition("/")[2]))

    file.visititems(visit)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(place: str) -> list[tuple[str, int]]:
    """A key that sorts `dense_10` behind `dense_9`."""
    found = [re.fullmatch(r"(.*?)(?:_(\d+))?", part) for part in place.split("/")]
    return [(match[1], int(match[2] or -1)) for match in found if match is not None]


def _by_owner(named: dict[str, str]) -> dict[str, set[str]]:
    """The names of what lies in each place."""
    found: dict[str, set[str]] = {}
    for place, name in named.items():
        found.setdefault(place.rpartition("/")[0], set()).add(name)
    return found


def _unit(file: Any, place: str, named: dict[str, str], beside: dict[str, set[str]]) -> Unit | None:
    stored = file[_stored(place)]
    last = place.rpartition("/")[2]
    if not len(stored) or last == "seed_generator":
        return None
    variables = tuple(
        VariableSpec("", tuple(stored[key].shape), _dtype(stored[key]))
        for key in sorted(stored, key=_natural)
    )
    path, given = _names(place, named, beside)
    return Unit(path, given, re.sub(r"_\d+$", "", last), variables, place)


def _stored(place: str) -> str:
    return f"{place}/vars" if place else "vars"


def _dtype(dataset: Any) -> str:
    return str(dataset.attrs.get("dtype", dataset.dtype))


def _names(
    place: str, named: dict[str, str], beside: dict[str, set[str]]
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The names that lead to a layer: in a list its own, elsewhere that of the attribute."""
    parts = place.split("/")
    path: list[str] = []
    given: list[bool] = []
    for n in range(1, len(parts) + 1):
        here, owner = "/".join(parts[:n]), "/".join(parts[: n - 1])
        if not place or here not in named:
            continue
        listed = owner not in named
        name = named[here] if listed else parts[n - 1]
        base = re.sub(r"_\d+$", "", parts[n - 1])
        path.append(name)
        given.append(not listed or not is_automatic(name, base, beside[owner]))
    return tuple(path), tuple(given)


def own_file(model: Any, folder: str) -> WeightFile:
    """The weights file of a model.

    Raises:
        EditError: The model has LoRA weights, which a weights file does not hold as they are.
    """
    layers = [layer for _, _, layer in all_layers(model)]
    adapted = [layer.name for layer in layers if getattr(layer, "lora_enabled", False)]
    if adapted:
        raise EditError(
            f"'{adapted[0]}' of the target has LoRA weights, which weights files do not hold.",
            "Give a model or a .keras file as the source, or enable LoRA afterwards.",
            adapted[0],
        )
    path = Path(folder) / "own.weights.h5"
    model.save_weights(path)
    return WeightFile(path)


def load_into(model: Any, own: WeightFile, source: WeightFile, pairs: Iterable[Any]) -> None:
    """Gives a model weights from a file.

    Args:
        model: The model.
        own: Its own weights file, in a folder that may be written to.
        source: The file.
        pairs: Places in `own`, each with the place in `source` that it takes its weights from.
    """
    with h5py.File(own.path, "r+") as mine, h5py.File(source.path, "r") as theirs:
        for place, origin in pairs:
            here: Any = mine[_stored(place)]
            there: Any = theirs[_stored(origin)]
            for key in list(here):
                del here[key]
            for key in there:
                theirs.copy(there[key], here, key)
    model.load_weights(own.path)
