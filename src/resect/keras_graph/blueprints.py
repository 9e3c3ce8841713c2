"""A layer or model as plain data that can be pickled, and the layer made of that data again.

Keras's own file format loses what configurations do not say: functions without a name, state of
random generators, which variables are trainable, settings made after construction. Here the
configuration is only the beginning: whatever it leaves out is carried beside it.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resect.errors import CopyError
from resect.keras_graph import private
from resect.keras_graph.custom_objects import CustomObjects
from resect.keras_graph.state import OF_EVERY_LAYER, differ, is_setting, title
from resect.keras_graph.units import own_variables


@dataclass(frozen=True)
class Blueprint:
    """A layer or model as data.

    Attributes:
        config: The serialised configuration.
        objects: The classes and functions that it names, by name.
        parts: What each layer in it has besides.
    """

    config: Mapping[str, Any]
    objects: Mapping[str, Any]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Part:
    """What a layer has besides its configuration, without the layers in it.

    Attributes:
        kind: The name of its class.
        name: Its name.
        trainable: Its own flag.
        policy: Its dtype policy, which the configuration of a graph does not say.
        settings: Attributes that are numbers, words and such.
        assets: Files that it keeps, as a vocabulary.
        structures: Of a graph, how its inputs and outputs are packed: the numbers of the tensors in
            lists and dicts. Keras 3.10 makes a list of a single one.
        states: States that Keras does not count among the variables.
        variables: Path, value and `trainable` of each.
    """

    kind: str
    name: str
    trainable: bool
    policy: Any
    settings: Mapping[str, Any]
    assets: Mapping[str, bytes]
    structures: tuple[Any, ...]
    states: tuple[np.ndarray, ...]
    variables: tuple[tuple[str, np.ndarray, bool], ...]


def blueprint_of(layer: Any) -> Blueprint:
    """A layer or model as data, without its compile configuration.

    Raises:
        CopyError: It has no configuration that describes it.
    """
    with quiet():
        try:
            config = {
                "module": type(layer).__module__,
                "class_name": type(layer).__name__,
                "config": layer.get_config(),
                "registered_name": keras.saving.get_registered_name(type(layer)),
                "build_config": layer.get_build_config() if layer.built else None,
            }
        except Exception as error:
            raise CopyError(
                f"{title(layer)} has no configuration to make it again from: "
                f"{type(error).__name__}: {error}",
                "Give its class a get_config that describes it.",
                layer.name,
            ) from error
        layers = parts_of(layer)
        custom = CustomObjects([*layers, layer])
        config = custom.named(config)
    pairs = zip(layers, variables_of(layers), strict=True)
    return Blueprint(config, custom.objects, tuple(_part(part, own) for part, own in pairs))


def made(blueprint: Blueprint) -> Any:
    """The layer or model that a blueprint describes.

    Raises:
        CopyError: It comes out as another one.
    """
    with quiet():
        layer: Any = keras.saving.deserialize_keras_object(
            dict(blueprint.config), custom_objects=dict(blueprint.objects), safe_mode=False
        )
    parts = parts_of(layer)
    _require_same([part.kind for part in blueprint.parts], [type(p).__name__ for p in parts])
    for part, new in zip(blueprint.parts, parts, strict=True):
        _furnish(part, new)
    for part, new, own in zip(blueprint.parts, parts, variables_of(parts), strict=True):
        _require_same(sorted(map(_key, part.variables)), sorted((v.name, _shape(v)) for v in own))
        ordered = _in_order(part, own)
        for (path, array, trainable), variable in zip(part.variables, ordered, strict=True):
            variable.assign(array)
            variable.trainable, variable._path = trainable, path
        _sort_variables(new, ordered)
    for new in parts:
        if isinstance(new, keras.layers.Normalization) and new.built:
            new.finalize_state()
    return layer


def variables_of(parts: Sequence[Any]) -> list[list[Any]]:
    """The variables of each layer itself, each variable once."""
    seen: set[int] = set()
    found = []
    for part in parts:
        states = [generator.state for generator in part._seed_generators]
        own = [v for v in [*own_variables(part), *states] if id(v) not in seen]
        seen.update(map(id, own))
        found.append(own)
    return found


def variables_in_order(blueprint: Blueprint, layer: Any) -> list[Any]:
    """The variables of a layer that was made, in the order of the blueprint."""
    pairs = zip(blueprint.parts, variables_of(parts_of(layer)), strict=True)
    return [variable for part, own in pairs for variable in _in_order(part, own)]


def _in_order(part: Part, own: Sequence[Any]) -> list[Any]:
    left, found = list(own), []
    for each in part.variables:
        variable = next(v for v in left if (v.name, _shape(v)) == _key(each))
        left = [v for v in left if v is not variable]
        found.append(variable)
    return found


def _sort_variables(layer: Any, order: Sequence[Any]) -> None:
    """Puts the variables of a layer in an order, by which `get_weights` and JAX's training go."""
    places = {id(variable): i for i, variable in enumerate(order)}
    for own in (layer._trainable_variables, layer._non_trainable_variables):
        list.sort(own, key=lambda variable: places.get(id(variable), len(places)))


def _key(variable: Any) -> tuple[str, tuple[int, ...]]:
    path, array = variable[:2]
    return path.split("/")[-1], array.shape


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in variable.shape)


def _require_same(theirs: list[Any], mine: list[Any]) -> None:
    if theirs != mine:
        missing = [each for each in theirs if each not in mine] or theirs
        other = [each for each in mine if each not in theirs] or mine
        raise CopyError(
            f"Made again from its configuration, it has {other[0]!r}, where it had {missing[0]!r} "
            f"({len(mine)} and {len(theirs)} in all).",
            "Give the class a get_config that describes it, and a build that makes its variables.",
        )


def parts_of(layer: Any) -> list[Any]:
    """A layer and the layers in it; without inputs, which several models may have in common."""
    inside = layer._flatten_layers(include_self=False)
    return [layer, *(part for part in inside if not isinstance(part, private.InputLayer))]


def _part(layer: Any, own: Sequence[Any]) -> Part:
    settings = {
        name: _plain(value)
        for name, value in vars(layer).items()
        if name not in OF_EVERY_LAYER and not name.startswith("__") and is_setting(value)
    }
    states = keras.tree.flatten(vars(layer).get("states")) if layer.built else []
    arrays = tuple(as_array(state) for state in states if state is not None)
    return Part(
        type(layer).__name__,
        layer.name,
        bool(layer._trainable),
        layer.dtype_policy,
        settings,
        _assets(layer),
        tuple(_numbered(vars(layer)[name]) for name in _structures(layer)),
        arrays,
        tuple((v.path, as_array(v), bool(v.trainable)) for v in own),
    )


def _structures(layer: Any) -> tuple[str, ...]:
    """The attributes that say how the inputs and outputs of a graph are packed."""
    graph = isinstance(layer, private.Functional) and "_inputs_struct" in vars(layer)
    return ("_inputs_struct", "_outputs_struct") if graph else ()


def _numbered(structure: Any) -> Any:
    count = len(keras.tree.flatten(structure))
    return keras.tree.pack_sequence_as(structure, list(range(count)))


def _plain(value: Any) -> Any:
    """A setting, without the containers that Keras tracks variables with."""
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    return value


def _assets(layer: Any) -> dict[str, bytes]:
    if not hasattr(layer, "save_assets"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _furnish(part: Part, new: Any) -> None:
    """Gives a layer what its configuration does not say."""
    if new.name != part.name:
        new.name = part.name
    if part.assets:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in part.assets.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            new.load_assets(folder)
    if part.settings.get("lora_enabled") and not getattr(new, "lora_enabled", True):
        new.enable_lora(part.settings["lora_rank"])
    for name, value in part.settings.items():
        if name in vars(new) and is_setting(vars(new)[name]) and differ(vars(new)[name], value):
            setattr(new, name, list(value) if isinstance(value, list) else value)
    states = keras.tree.flatten(vars(new).get("states")) if part.states else []
    for name, numbers in zip(_structures(new), part.structures, strict=True):
        flat = keras.tree.flatten(vars(new)[name])
        structure = keras.tree.map_structure(lambda number: flat[number], numbers)  # noqa: B023
        new.__dict__[name] = structure
    for state, array in zip(states, part.states, strict=bool(part.states)):
        state.assign(array)
    new._trainable = part.trainable
    if new.dtype_policy != part.policy:
        new.dtype_policy = part.policy


def as_array(variable: Any) -> np.ndarray:
    """The value of a variable, in memory of its own."""
    return np.array(keras.ops.convert_to_numpy(getattr(variable, "value", variable)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Keras says about lambdas, and about what it could not build."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield
