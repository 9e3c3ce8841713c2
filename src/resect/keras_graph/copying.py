"""Exact copies of layers, without re-running their constructors.

A layer is copied attribute by attribute. Where one is of a type that is not known to be copyable,
it is made anew with `from_config` and given the values; where that fails too, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resect.errors import CopyError, SurgeryError
from resect.graph import Change
from resect.keras_graph.attributes import Attributes, NotCopyableError
from resect.keras_graph.rebuilding import rebuild
from resect.keras_graph.state import build_like, carry_state, carry_unrecorded, title
from resect.options import Weights


class Copier(Attributes):
    """Copies layers, each object once.

    Args:
        weights: `"copy"` gives every variable a value of its own; `"share"` keeps the variables.
        model: Called for a model with a graph of its own: returns its copy.
        values: `False` for a rehearsal, which shows what can be copied: the copies hold the
            source's own variables, and must not be used.
    """

    def __init__(
        self, weights: Weights, model: Callable[[Any], Any], *, values: bool = True
    ) -> None:
        super().__init__(weights, model, values=values)
        self._rebuilt: dict[int, Any] = {}

    def layer(self, layer: Any, name: str | None = None) -> Any:
        """A copy of a layer or operation, under a new name if one is given.

        Raises:
            CopyError: It can be neither copied nor re-created.
        """
        new = self.remembered(layer)
        if new is None:
            try:
                new = self.instance(layer)
            except NotCopyableError as stopped:
                new = self._from_config(layer, str(stopped))
        return self._named(new, name)

    def rebuilt(self, layer: Any, skeleton: Any, name: str, change: Change | None = None) -> Any:
        """A copy of a layer as it is built for another input shape, around the same variables.

        Args:
            layer: The layer of the source.
            skeleton: A layer of the same configuration, or of the changed one, built for the other
                shape without values.
            name: Its name.
            change: What else is changed; some of its variables may get other values.

        Raises:
            CopyError: It holds something that cannot be copied.
        """
        if id(layer) not in self._rebuilt:  # it may stand in several graphs
            self._rebuilt[id(layer)] = rebuild(self, layer, skeleton, change)
        return self._named(self._rebuilt[id(layer)], name)

    def _named(self, layer: Any, name: str | None) -> Any:
        """A copy under a name, which the paths of its own variables say too."""
        old = layer.name
        if name is None or name == old:
            return layer
        layer.name = name
        if getattr(layer, "_auto_config", None) is not None and "name" in layer._auto_config.config:
            layer._auto_config.config["name"] = name
        parts = (getattr(layer, "_path", None) or "").split("/")
        if parts[-1] == old:
            layer._path = "/".join([*parts[:-1], name])
            own = layer.variables if self.weights == "copy" else []
            for variable in own:
                path = variable._path.split("/")
                if path[: len(parts)] == parts:
                    variable._path = "/".join([*parts[:-1], name, *path[len(parts) :]])
        return layer

    def _from_config(self, layer: Any, found: str) -> Any:
        """Re-creates a layer from its configuration and gives it the values of the source."""
        if self.weights == "share" and getattr(layer, "variables", ()):
            raise CopyError(
                f"{title(layer)} holds {found}, so it cannot be copied around its variables.",
                'Use weights="copy".',
                layer.name,
            )
        if any(
            self.remembered(variable) is not None for variable in getattr(layer, "variables", ())
        ):
            raise CopyError(
                f"{title(layer)} holds {found}, so it must be re-created from its "
                "configuration, which would untie the variables that it shares with other layers.",
                "Keep that object outside the layer.",
                layer.name,
            )
        try:
            new = type(layer).from_config(layer.get_config())
            build_like(layer, new)
            pairs, left = carry_state(layer, new)
            carry_unrecorded(layer, new, new)
            if left or len(pairs) != len(getattr(layer, "variables", ())):
                raise CopyError(
                    f"{title(layer)} re-created from its configuration has other variables.",
                    "Give the class a get_config that describes it.",
                    layer.name,
                )
        except SurgeryError:
            raise
        except Exception as error:
            raise CopyError(
                f"{title(layer)} holds {found}, which cannot be copied, and re-creating it "
                f"from its configuration failed: {type(error).__name__}: {_first_sentence(error)}",
                "Give the class a get_config that describes it, or keep that object outside it.",
                layer.name,
            ) from error
        self.variables.extend(pairs)
        for old, fresh in pairs:
            self.remember(old, fresh)
        self.remember(layer, new)
        return new


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
