"""The register of model kinds: what a kind is, and how a function becomes one."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from zoo.randomise import inputs_for, randomise

Build = Callable[[], keras.Model]
Inputs = Callable[[keras.Model, int, int], Any]

#: Every tag and what it says. A kind with any other tag is a mistake.
TAGS: Mapping[str, str] = {
    "trains": "One step of training runs, with a squared error on every output.",
    "saves": "A saved and reloaded copy computes the same.",
    "hub": "Needs KerasHub.",
    "subclassed": "Its graph is Python code: neither Functional nor Sequential.",
    "traceable": "Subclassed, and `call` runs on symbolic tensors with the same meaning.",
    "untraceable": "Subclassed, and a trace of `call` fails or means something else.",
    "stateful": "A prediction changes the next one.",
    "eager": "Runs only eagerly; it is compiled with `run_eagerly=True`.",
    "strings": "Takes strings.",
    "nested": "Has a model among its layers.",
    "shared": "Calls a layer more than once.",
    "multi_io": "Has several inputs or outputs.",
    "masked": "Carries a mask.",
    "raw_ops": "Has operations between its layers.",
    "random": "Has seed generators.",
    "mixed": "Computes in another precision than it stores.",
    "quantized": "Has quantized layers.",
    "lora": "Has layers with low-rank adapters.",
    "frozen": "Not everything in it is trainable.",
}

#: What an ordinary model can do.
PLAIN = frozenset({"trains", "saves"})


@dataclass(frozen=True)
class Kind:
    """A kind of model that surgery must get right or refuse.

    Attributes:
        name: Its name in tests and in the support table.
        build: Makes a small model of the kind, with Keras's own initial weights where it can.
        feed: Makes random inputs from a model, a batch size and a seed.
        tags: What can be expected of it, see `TAGS`.
        unsupported: Backends on which Keras itself cannot run it, with the reason.
        unsaved: Backends on which Keras itself cannot save and reload it, with the reason.
        untrained: Backends on which Keras itself cannot train it, with the reason.
        load_options: What `keras.saving.load_model` needs besides the path.
        load_warning: The beginning of the warning that Keras gives, in vain, when it loads it.
    """

    name: str
    build: Build
    feed: Inputs
    tags: frozenset[str]
    unsupported: Mapping[str, str]
    unsaved: Mapping[str, str]
    untrained: Mapping[str, str]
    load_options: Mapping[str, Any]
    load_warning: str | None

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (self.build.__doc__ or "").strip().splitlines()[0]

    def make(self, seed: int = 0) -> keras.Model:
        """Builds the model and gives it random, non-trivial weights."""
        return randomise(self.build(), seed)

    def inputs(self, model: keras.Model, batch: int = 2, seed: int = 0) -> Any:
        """Random inputs in the structure that `model` takes."""
        return self.feed(model, batch, seed)

    def reload(self, model: keras.Model, directory: pathlib.Path) -> keras.Model:
        """Saves `model` into `directory` and loads it again."""
        path = directory / f"{self.name}.keras"
        model.save(path)
        with warnings.catch_warnings():
            if self.load_warning:
                warnings.filterwarnings("ignore", self.load_warning)
            return keras.saving.load_model(path, **self.load_options)


#: Every kind, by name, in order of definition.
KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    *,
    tags: Iterable[str] = PLAIN,
    inputs: Inputs = inputs_for,
    unsupported: Mapping[str, str] | None = None,
    unsaved: Mapping[str, str] | None = None,
    untrained: Mapping[str, str] | None = None,
    load_options: Mapping[str, Any] | None = None,
    load_warning: str | None = None,
) -> Callable[[Build], Build]:
    """Registers the decorated function as the builder of a kind.

    Raises:
        ValueError: The name is taken, a tag is not in `TAGS`, or the function has no docstring.
    """
    if unknown := set(tags) - set(TAGS):
        raise ValueError(f"Kind {name!r} has unknown tags: {sorted(unknown)}.")
    if name in KINDS:
        raise ValueError(f"There are two kinds called {name!r}.")

    def register(build: Build) -> Build:
        if not build.__doc__:
            raise ValueError(f"The builder of kind {name!r} has no docstring.")
        KINDS[name] = Kind(
            name,
            build,
            inputs,
            frozenset(tags),
            unsupported=unsupported or {},
            unsaved=unsaved or {},
            untrained=untrained or {},
            load_options=load_options or {},
            load_warning=load_warning,
        )
        return build

    return register


def needs(release: str, reason: str) -> dict[str, str]:
    """What a kind is unsupported for: every backend, in releases of Keras before the given one."""
    wanted = tuple(map(int, release.split(".")))
    found = tuple(map(int, keras.__version__.split(".")[:2]))
    why = f"Keras before {release}: {reason}"
    return dict.fromkeys(("jax", "tensorflow", "torch"), why) if found < wanted else {}


def select(*, having: Iterable[str] = (), lacking: Iterable[str] = ()) -> list[Kind]:
    """The kinds with all tags of `having`, none of `lacking`, that run on this backend."""
    backend = keras.backend.backend()
    return [
        each
        for each in KINDS.values()
        if each.tags.issuperset(having)
        and each.tags.isdisjoint(lacking)
        and backend not in each.unsupported
    ]
