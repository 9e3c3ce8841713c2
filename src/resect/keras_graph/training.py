"""Carries compile configurations and optimizers from one model to another.

The raw arguments of `compile` are handed on as they are, lambdas included; metrics are re-created,
because two models must never share a metric's state. The optimizer is re-created and takes over
the slots of every variable that lives on, by identity: a new variable never inherits the moments
of one that was removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from resect.errors import CopyError, Problem
from resect.keras_graph.copying import Copier
from resect.keras_graph.values import copied_tensor

Pairs = Sequence[tuple[Any, Any]]

_PER_OUTPUT = ("loss", "loss_weights", "metrics", "weighted_metrics")
_OWN_LISTS = ("_variables", "_trainable_variables")


def is_compiled(model: Any) -> bool:
    """Whether a model has been compiled."""
    return bool(getattr(model, "compiled", False)) and hasattr(model, "_compile_config")


def compiled_with(model: Any, argument: str) -> Any:
    """What a compiled model was given as an argument of `compile`."""
    return model._compile_config.config[argument]


def trained_by(optimizer: Any) -> list[int] | None:
    """Identities of the variables that an optimizer was built for; `None` if it was not built."""
    if optimizer is None or not getattr(optimizer, "built", False):
        return None
    inner = getattr(optimizer, "inner_optimizer", None)
    return [id(v) for v in (inner or optimizer)._trainable_variables]


def why_not_carried(source: Any, outputs: int) -> str:
    """Why a compile configuration has no meaning for a model of so many outputs; `""` if it has.

    Args:
        source: The compiled model.
        outputs: Number of flat outputs of the other.
    """
    had = len(source.outputs) if getattr(source, "outputs", None) else 1
    return "" if outputs == had else f"it has {outputs} outputs now, and had {had}"


def carry_problems(source: Any) -> tuple[Problem, ...]:
    """Why the optimizer of a compiled model cannot be carried; empty if it can."""
    optimizer = source._compile_config.config["optimizer"]
    try:
        if optimizer is not None:
            _same_kind(optimizer)
    except CopyError as error:
        return error.problems
    return ()


def carry(source: Any, target: Any, pairs: Pairs) -> None:
    """Compiles a model like another, and continues its optimizer.

    Args:
        source: The compiled model; nothing of it is changed.
        target: The model to compile, with as many outputs.
        pairs: Variables of the source that live on, with those that stand for them.
    """
    raw = dict(source._compile_config.config)
    names = dict(
        zip(
            getattr(source, "output_names", None) or [],
            getattr(target, "output_names", None) or [],
            strict=False,
        )
    )
    for argument in _PER_OUTPUT:
        raw[argument] = _renamed_keys(raw[argument], names)
    for argument in ("metrics", "weighted_metrics"):
        raw[argument] = recreated(raw[argument])
    optimizer = raw["optimizer"]
    if optimizer is not None:
        raw["optimizer"] = _same_kind(optimizer)
    wrapped = source.optimizer is not optimizer  # in mixed float16, Keras wraps it by default
    target.compile(**raw, auto_scale_loss=wrapped)
    target.stop_training = getattr(source, "stop_training", False)
    if source.optimizer is not None:
        _carry_exclusions(source.optimizer, target.optimizer, pairs)
    if source.optimizer is not None and source.optimizer.built:
        target.optimizer.build(target.trainable_variables)
        _carry_state(source.optimizer, target.optimizer, {id(old): new for old, new in pairs})


def _renamed_keys(value: Any, names: Mapping[str, str]) -> Any:
    """A dict by output name, under the names that the outputs have now."""
    if not isinstance(value, dict):
        return value
    return {names.get(key, key): item for key, item in value.items()}


def recreated(value: Any) -> Any:
    """The same structure, every metric object in it made anew."""
    if isinstance(value, keras.metrics.Metric):
        metric = Copier("copy", lambda model: model).attribute(value)
        metric.reset_state()
        return metric
    if isinstance(value, (list, tuple)):
        return [recreated(item) for item in value]
    if isinstance(value, dict):
        return {key: recreated(item) for key, item in value.items()}
    return value


def _same_kind(optimizer: Any) -> Any:
    """An unbuilt optimizer of the same class and settings; a schedule stays the same object."""
    try:
        return _recreated_optimizer(optimizer)
    except Exception as error:
        raise CopyError(
            f"The optimizer {type(optimizer).__name__} cannot be re-created from its "
            f"configuration: {type(error).__name__}: {error}",
            "Give its class a get_config that describes it, or compile the result yourself: "
            "resect works on uncompiled models too.",
        ) from error


def _recreated_optimizer(optimizer: Any) -> Any:
    config = settings_of(optimizer)
    if getattr(optimizer, "inner_optimizer", None) is not None:
        config["inner_optimizer"] = _recreated_optimizer(optimizer.inner_optimizer)
        return type(optimizer)(**config)
    return type(optimizer).from_config(config)


def settings_of(optimizer: Any) -> dict[str, Any]:
    """The configuration, a schedule or function of the learning rate in it as the object it is."""
    rate = getattr(optimizer, "_learning_rate", None)
    if not callable(rate):
        return optimizer.get_config()
    probe = object.__new__(type(optimizer))
    probe.__dict__.update(vars(optimizer) | {"_learning_rate": None})
    return {**probe.get_config(), "learning_rate": rate}


def _carry_state(old: Any, new: Any, heirs: Mapping[int, Any]) -> None:
    """Scalars as they are, slots by variable, wrapped optimizers likewise.

    Raises:
        CopyError: The optimizer keeps variables in a way that is not known.
    """
    places = _surviving_places(old, new, heirs)
    count = len(getattr(old, "_trainable_variables", ()))
    found: list[Any] = []
    for name, value in vars(old).items():
        if name in _OWN_LISTS:
            continue
        mine = vars(new).get(name)
        if isinstance(value, keras.Variable) and isinstance(mine, keras.Variable):
            mine.assign(copied_tensor(value.value))
            found.append(value)
        elif isinstance(value, list) and isinstance(mine, list) and len(value) == count:
            for i, j in places:
                if isinstance(value[i], keras.Variable):
                    mine[j].assign(copied_tensor(value[i].value))
            found += value
        elif isinstance(value, dict) and isinstance(mine, dict):
            _carry_by_path(value, mine, heirs, old)
            found += value.values()
    _start_averages(new, {j for _, j in places})
    for theirs, mine in zip(inner_optimizers(old), inner_optimizers(new), strict=True):
        _carry_state(theirs, mine, heirs)
        found += theirs.variables
    known = {id(value) for value in found}
    unknown = [v.path for v in old.variables if id(v) not in known]
    if unknown:
        raise CopyError(
            f"The optimizer {type(old).__name__} keeps {', '.join(unknown[:4])} in a way that "
            "resect does not know, and would lose it.",
            "Keep one variable per attribute, or a list with one for each trainable variable.",
            old.name,
        )


def _start_averages(optimizer: Any, carried: set[int]) -> None:
    """Starts the moving averages of new variables at their values.

    Keras does so in its very first step and never again: from zero, an average would overwrite the
    variable with a fraction of its value.
    """
    if not getattr(optimizer, "use_ema", False):
        return
    averages = optimizer._model_variables_moving_average
    for i, (variable, average) in enumerate(
        zip(optimizer._trainable_variables, averages, strict=True)
    ):
        if i not in carried and average is not None:
            average.assign(copied_tensor(variable.value))


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that an optimizer is made of."""
    wrapped = getattr(optimizer, "inner_optimizer", None)
    if wrapped is not None:
        return [wrapped]
    return list(getattr(optimizer, "_inner_optimizers", ()))


def _carry_exclusions(old: Any, new: Any, pairs: Pairs) -> None:
    """The variables that `exclude_from_weight_decay` has named, which no configuration knows."""
    for theirs, mine in zip(inner_optimizers(old), inner_optimizers(new), strict=True):
        _carry_exclusions(theirs, mine, pairs)
    excluded = getattr(old, "_exclude_from_weight_decay", None)
    if excluded is not None:
        pattern = getattr(old, "_exclude_from_weight_decay_pattern", None)
        new._exclude_from_weight_decay_pattern = pattern
        new._exclude_from_weight_decay = {
            new._var_key(heir) for variable, heir in pairs if old._var_key(variable) in excluded
        }


def _surviving_places(old: Any, new: Any, heirs: Mapping[int, Any]) -> list[tuple[int, int]]:
    """Where the slots of a surviving variable were, and where they are now."""
    now = {id(v): i for i, v in enumerate(getattr(new, "_trainable_variables", ()))}
    places = []
    for i, variable in enumerate(getattr(old, "_trainable_variables", ())):
        heir = heirs.get(id(variable))
        if heir is not None and id(heir) in now:
            places.append((i, now[id(heir)]))
    return places


def _carry_by_path(old: dict[Any, Any], new: dict[Any, Any], heirs: Any, optimizer: Any) -> None:
    """Slots that an optimizer keeps in a dict by variable path (Muon in Keras 3.10)."""
    for variable in getattr(optimizer, "_trainable_variables", ()):
        heir = heirs.get(id(variable))
        if heir is None or variable.path not in old or heir.path not in new:
            continue
        if isinstance(old[variable.path], keras.Variable):
            new[heir.path].assign(copied_tensor(old[variable.path].value))
