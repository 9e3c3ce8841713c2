"""Count rules: how many multiply-adds one call of a layer takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from resect.graph import Spec


@dataclass(frozen=True)
class Called:
    """A call as a rule sees it.

    Attributes:
        layer: The layer or operation that is called.
        inputs: Shape and dtype of each tensor that it reads, batch axis included, none unknown.
        outputs: Of each tensor that it returns.
        args: The positional arguments, with a `Spec` for each tensor.
        kwargs: The keyword arguments, likewise.
        counter: What `count` asks.
    """

    layer: Any
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    counter: Callable[[Any, tuple[int, ...]], int | None] = lambda layer, shape: None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first tensor that it reads."""
        return sizes(self.inputs[0])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first tensor that it returns."""
        return sizes(self.outputs[0])

    def argument(self, name: str) -> Any:
        """An argument of the call by its name; `None` if it was not given."""
        bound = inspect.signature(self.layer.call).bind_partial(*self.args, **self.kwargs)
        return bound.arguments.get(name)

    def count(self, layer: Any, shape: Sequence[int]) -> int | None:
        """The multiply-adds of a layer inside this one, called on a tensor of a shape."""
        return self.counter(layer, tuple(shape))


def sizes(spec: Any) -> tuple[int, ...]:
    """The shape of a tensor of which no axis is unknown."""
    return tuple(int(size) for size in spec.shape)


Rule = Callable[[Called], int | None]
RuleT = TypeVar("RuleT", bound=Rule)

_RULES: dict[type, Rule] = {}
_OPERATIONS: dict[str, Rule] = {}
_BY_NAME: dict[tuple[str, str], Rule] = {}


def register(*classes: type) -> Callable[[RuleT], RuleT]:
    """Gives layer classes a rule by which their multiply-adds are counted.

    A rule holds for subclasses too, as long as they leave `call` as it is.

    Args:
        *classes: Layer classes. A rule that they have already is replaced.

    Returns:
        A decorator for the rule: a function of a `Called` that returns the number of multiply-adds
        of the call, batch included, or `None` where it cannot tell.

    Example:

    >>> import keras, resect
    >>> class Outer(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x[:, :, None] * x[:, None, :]
    >>> @resect.cost.register(Outer)
    ... def outer(called):
    ...     batch, size = called.shape
    ...     return batch * size * size
    >>> model = keras.Sequential([keras.Input((8,)), Outer()])
    >>> resect.profile(model).multiply_adds
    64
    """

    def add(rule: RuleT) -> RuleT:
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return add


def register_operation(*names: str) -> Callable[[RuleT], RuleT]:
    """Gives raw operations a rule, by the names of their classes, which Keras does not export."""

    def add(rule: RuleT) -> RuleT:
        _OPERATIONS.update(dict.fromkeys(names, rule))
        return rule

    return add


def register_name(package: str, *names: str) -> Callable[[RuleT], RuleT]:
    """Gives classes of a package that may not be installed a rule, by their names."""

    def add(rule: RuleT) -> RuleT:
        _BY_NAME.update({(package, name): rule for name in names})
        return rule

    return add


def rule_of(operation: Any) -> Rule | None:
    """The rule for a layer or operation; `None` if there is none."""
    for base in type(operation).__mro__:
        if base in _RULES and getattr(type(operation), "call", None) is getattr(base, "call", None):
            return _RULES[base]
    package, name = type(operation).__module__.split(".")[0], type(operation).__name__
    if not hasattr(operation, "weights"):
        return _OPERATIONS.get(name) if package == "keras" else None
    return _BY_NAME.get((package, name))


def nothing(called: Called) -> int:
    """The rule for what multiplies and adds element by element, moves or looks up."""
    return 0
