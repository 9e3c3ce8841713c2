"""Recurrent layers with states that last from batch to batch, or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.adapt.base import Changed, Config, change_layers, chosen_or_all, with_input
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

# Where a wrapper has the layers that it wraps.
_INNER = ("layer", "backward_layer")


@dataclass(frozen=True)
class Recurrent(Edit):
    """Makes recurrent layers stateful or stateless.

    Args:
        stateful: Whether their states last from one batch to the next.
        batch_size: The batch size of every input; `None` leaves a fixed one for stateful layers,
            and frees it where none is left.
        where: The layers; all recurrent ones without.
    """

    verb: ClassVar[str] = "recurrent"
    stateful: bool
    batch_size: int | None = None
    where: Where = None

    def describe(self) -> str:
        which = "the recurrent layers" if self.where is None else quoted(self.where)
        size = "" if self.batch_size is None else f", in batches of {self.batch_size}"
        return f"make {which} {'stateful' if self.stateful else 'stateless'}{size}"

    def pinned(self, graph: Graph) -> Edit:
        if self.where is None:
            return self
        where = spellings(resolve(self.where, graph), graph)
        return Recurrent(self.stateful, self.batch_size, where)

    def apply(self, graph: Graph) -> Graph:
        places = tuple(self._places(graph))
        new = change_layers(
            graph, places, lambda _: Changed(lambda config: _with_stateful(config, self.stateful))
        )
        lasting = any(is_stateful(layer) for _, g in new.walk() for layer in g.layers.values())
        if self.batch_size is None and lasting:
            _check_batch_size(graph)
            return new
        for path in sorted((path for path, _ in new.walk()), key=len, reverse=True):
            new = new.with_nested(path, _with_batch_size(new.at(path), self.batch_size))
        return new

    def _places(self, graph: Graph) -> Iterator[Place]:
        found = False
        for place in chosen_or_all(graph, self.where):
            layer = graph.at(place.path).layer(place.call)
            if is_recurrent(layer):
                found = True
                yield place
            elif self.where is not None:
                raise EditError(
                    f"{graph.at(place.path).title(place.call)} is no recurrent layer.",
                    "Choose LSTM, GRU, SimpleRNN, RNN, ConvLSTM or Bidirectional layers.",
                    place.spelling(graph),
                )
        if not found:
            raise EditError(
                f"{graph.kind} '{graph.name}' has no recurrent layer.",
                "A layer that keeps states inside a layer of your own is not found.",
            )


def _config_of(layer: Layer) -> Config:
    if layer.graph is not None or not hasattr(layer.op, "weights"):
        return {}
    try:
        return layer.recipe.get_config()
    except NotImplementedError:  # of a user's own: found by what it shows, and refused for it
        shown = getattr(layer.recipe, "stateful", None)
        return {"stateful": shown} if isinstance(shown, bool) else {}


def _parts(config: Config) -> Iterator[Config]:
    """The configuration of a layer, and those of the layers that it wraps."""
    yield config
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
            yield from _parts(inner["config"])


def is_recurrent(layer: Layer) -> bool:
    """Whether a layer is recurrent, or wraps one that is."""
    return any("stateful" in part for part in _parts(_config_of(layer)))


def is_stateful(layer: Layer) -> bool:
    """Whether a layer, or one that it wraps, keeps states from batch to batch."""
    return any(part.get("stateful") for part in _parts(_config_of(layer)))


def _with_stateful(config: Config, stateful: bool) -> Config:
    new = {**config, "stateful": stateful} if "stateful" in config else dict(config)
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
            new[name] = {**inner, "config": _with_stateful(inner["config"], stateful)}
    return new


def _check_batch_size(graph: Graph) -> None:
    for ref in graph.input_refs:
        if graph.spec(ref).shape[:1] == (None,):
            raise EditError(
                f"Input '{graph.tensor_label(ref)}' takes batches of any size, and a state is kept "
                "for each sequence of a batch.",
                "Say how many there are: batch_size=1.",
                graph.tensor_label(ref),
            )


def _with_batch_size(graph: Graph, size: int | None) -> Graph:
    for ref in graph.input_refs:
        shape = graph.spec(ref).shape
        if shape and shape[0] != size:
            graph = with_input(graph, ref.call, (size, *shape[1:]))
    return graph


def recurrent(
    model: Any,
    *,
    stateful: bool,
    batch_size: int | None = None,
    where: Where = None,
    weights: Weights = "copy",
) -> Any:
    """The model with recurrent layers that keep their states from batch to batch, or do not.

    A stateful layer goes on where the last batch ended, until `reset_state()`; so a sequence can be
    given in pieces, one step at a time. `LSTM`, `GRU`, `SimpleRNN`, `RNN` with cells, `ConvLSTM`
    and `Bidirectional` of these are found, in nested models too. A stateful layer needs a fixed
    batch size, which all inputs then get; where no stateful layer is left it is freed. For pieces
    of another length see `input_shape`.

    Preserved: the weights, bit by bit; what the model computes from a first batch. Where the states
    go on, the states themselves.
    Not preserved: nothing else. From pieces of a sequence, one after another, the stateful model
    computes what the model computes from the whole, if nothing but recurrent layers looks at
    several steps, and none of those looks back from the end (`Bidirectional`, `go_backwards`).

    Args:
        model: A built Keras model.
        stateful: Whether the states last.
        batch_size: The batch size of every input. By default the one that the inputs have; of
            stateless layers any.
        where: Only these layers.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: There is no recurrent layer; a layer that is chosen is none; or the batch size is
            not known.
        NoMatchError: `where` matches nothing.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((None, 3)), keras.layers.LSTM(4, return_sequences=True)]
    >>> new = resect.adapt.recurrent(keras.Sequential(stack), stateful=True, batch_size=1)
    >>> new.input_shape, new.layers[0].stateful
    ((1, None, 3), True)
    """
    edit = Recurrent(stateful, batch_size, where)
    return plan(model).then(edit).apply(weights=weights)
