"""A model as a value that travels."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import keras

from resect.errors import CopyError, SurgeryError
from resect.keras_graph.blueprints import parts_of
from resect.keras_graph.likeness import unlike
from resect.keras_graph.snapshots import imprint
from resect.keras_graph.state import title
from resect.parallel.dumping import assembled, dumped, dumped_layer, loaded_layer

#: How many models a process keeps.
KEPT = 4

_models: OrderedDict[tuple[str, str], tuple[Any, tuple[Any, ...]]] = OrderedDict()


@dataclass(frozen=True, init=False, repr=False)
class Shipped:
    """A model as a value that can be pickled, and brought back in another process.

    What comes back is the model as it was when it was shipped: weights, flags, states of random
    generators, vocabularies, LoRA and quantisation; its compile configuration, lambdas and custom
    losses included; and its optimizer with all that it remembers. Classes and functions of the
    user's own come along, also those of a notebook. A model that would come back as another one is
    refused here, and not there: it is brought back once, to see.

    Args:
        model: A Keras model.

    Attributes:
        name: The model's name.
        digest: A hash of the content.
        data: The content.
        objects: The classes and functions that its configuration names.

    Raises:
        SurgeryError: cloudpickle is not installed.
        CopyError: The model cannot travel; the message names the part.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="small")
    >>> shipped = resect.parallel.Shipped(model)
    >>> shipped.model().name
    'small'
    """

    name: str
    digest: str
    data: bytes = field(compare=False)
    objects: bytes = field(compare=False)

    def __init__(self, model: Any) -> None:
        try:
            data = dumped_layer(model)
            objects = dumped(_checked(model, data))
        except SurgeryError as error:
            request = f"Cannot ship {type(model).__name__} '{model.name}'."
            raise error.asking(request) from error
        digest = hashlib.sha256(data).hexdigest()
        values = dict(name=model.name, digest=digest, data=data, objects=objects)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Shipped('{self.name}', {len(self.data):,} bytes)"

    def model(self) -> Any:
        """The model, in this process.

        It is loaded once for all jobs that a process does, and again if one of them has changed it:
        edit it (edits leave their source alone) or clone it, rather than train it.
        """
        return self.kept("")

    def kept(self, which: str) -> Any:
        """One of several such models in this process, loaded once, and again if it was changed."""
        kept = _models.pop((self.digest, which), None)
        if kept is None or kept[1] != imprint(kept[0]):
            model = self.fresh()
            kept = model, imprint(model)
        _models[self.digest, which] = kept
        while len(_models) > KEPT:
            _models.popitem(last=False)
        return kept[0]

    def fresh(self) -> Any:
        """A model that nobody else has."""
        return loaded_layer(self.data)

    def scope(self) -> AbstractContextManager[Any]:
        """Within it, Keras knows the classes and functions that the model is made of."""
        return keras.saving.custom_object_scope(pickle.loads(self.objects))


def _checked(model: Any, data: bytes) -> dict[str, Any]:
    """The classes and functions of a model that can be made again.

    Raises:
        CopyError: It cannot.
    """
    try:
        blueprint, compilation = pickle.loads(data)
        again = assembled(blueprint, compilation)
    except SurgeryError:
        raise
    except Exception as error:
        said = str(error).partition("\n")[0]  # Keras goes on with the whole configuration
        raise CopyError(
            f"Making it again from its configuration fails: {type(error).__name__}: {said}",
            "Give its class a get_config that describes it, and a build that makes its variables.",
        ) from error
    for layer, other in zip(parts_of(model), parts_of(again), strict=True):
        for name in unlike(layer, other):
            raise CopyError(
                f"{title(layer)} has another '{name}' when it is made again: its configuration "
                "does not say it.",
                "Have its class take it as an argument, and its get_config say it.",
                layer.name,
            )
    return dict(blueprint.objects)
