"""Models that are made anew from a changed configuration, and what no configuration says."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import keras

from resect.errors import EditError
from resect.keras_graph import private, training
from resect.keras_graph.state import carry_flags
from resect.keras_graph.units import own_variables
from resect.keras_graph.values import copied_tensor

Config = dict[str, Any]


def is_described_by_fields(model: Any) -> bool:
    """Whether the configuration of a model is its arguments, and not its graph."""
    return not (type(model) in (private.Functional, keras.Model) or _lists_layers(model))


def _lists_layers(model: Any) -> bool:
    config = model.get_config()
    return isinstance(config.get("layers"), list)


def copied_config(config: Any) -> Any:
    """A configuration whose dicts and lists may be written to.

    Raises:
        EditError: It holds a layer, which two models would share.
    """
    if isinstance(config, keras.Layer):
        raise EditError(
            f"The configuration holds '{config.name}' ({type(config).__name__}) itself.",
            "Let get_config say keras.layers.serialize(layer), and from_config the reverse.",
            config.name,
        )
    if type(config) is dict:
        return {key: copied_config(value) for key, value in config.items()}
    if type(config) in (list, tuple):
        return type(config)(map(copied_config, config))
    return config


def made(model: Any, config: Config, *, values: bool) -> Any:
    """A model of the same class with another configuration, built.

    Its layers are named as in a new session, so two of them can be compared.

    Args:
        model: The model.
        config: The configuration.
        values: Without them the variables have shapes only: the model must not be used.

    Raises:
        EditError: The class does not take it.
    """
    config = copied_config(config)
    try:
        with private.fresh_names(()):
            if values:
                return _built(model, config)
            try:
                with private.uninitialised_variables():
                    return _built(model, config)
            except Exception:  # layers that cannot be built without values
                return _built(model, copied_config(config))
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise EditError(
            f"{type(model).__name__} '{model.name}' cannot be made anew with this configuration: "
            f"{type(error).__name__}: {reason}",
            "Give it what its class takes; a class of your own needs a get_config.",
            model.name,
        ) from error


def _built(model: Any, config: Config) -> Any:
    new = type(model).from_config(copied_config(config))
    if model.built and not new.built:
        new.build_from_config(model.get_build_config() or {})
    return new


def carry_layers(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Gives layers what no configuration says: LoRA, flags and vocabularies.

    Args:
        pairs: A layer of the source and the layer that stands for it; parts are pairs of their own.
    """
    for old, new in pairs:
        if getattr(old, "lora_enabled", False) and not getattr(new, "lora_enabled", False):
            new.enable_lora(old.lora_rank, lora_alpha=getattr(old, "lora_alpha", None))
    for old, new in pairs:
        if old._layers:
            new._trainable = old._trainable
        else:
            carry_flags(old, new)


def carry_values(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Gives a layer the own variables of another, and the state of its random numbers.

    Returns:
        The pairs.
    """
    pairs = list(zip(own_variables(old), own_variables(new), strict=True))
    for mine, theirs in zip(_seeds(old), _seeds(new), strict=False):
        theirs.assign(copied_tensor(mine.value))
    for variable, other in pairs:
        other.assign(copied_tensor(variable.value))
        other.trainable = variable.trainable
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()
    return pairs


def _seeds(layer: Any) -> list[Any]:
    return [generator.state for generator in getattr(layer, "_seed_generators", ())]


def carry_assets(model: Any, new: Any) -> None:
    """Gives a model the vocabularies of the layers that another holds beside its graph.

    KerasHub's tasks have a preprocessor, whose tokenizer has one.
    """
    for name in model.get_config():
        held, other = getattr(model, name, None), getattr(new, name, None)
        if not isinstance(held, keras.Layer) or isinstance(held, keras.Model):
            continue
        assert isinstance(other, keras.Layer)
        for part, new_part in zip(_with_assets(held), _with_assets(other), strict=True):
            with tempfile.TemporaryDirectory() as folder:
                part.save_assets(folder)
                new_part.load_assets(folder)


def _with_assets(layer: Any) -> list[Any]:
    parts = layer._flatten_layers()
    return [p for p in parts if hasattr(p, "save_assets") and hasattr(p, "load_assets")]


def carry_compiled(model: Any, new: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Compiles a model as another is, and continues its optimizer; KerasHub's sampler too."""
    if not training.is_compiled(model):
        return
    training.carry(model, new, pairs)
    sampler = getattr(model, "sampler", None)
    if sampler is not None and hasattr(sampler, "get_config"):
        new.sampler = type(sampler).from_config(sampler.get_config())
