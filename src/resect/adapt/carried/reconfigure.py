"""The same class with another configuration, and the weights of the blocks that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resect.adapt.carried.fields import (
    Path,
    Template,
    block_templates,
    counted,
    field_path,
    fields_of,
    grouped,
    grouped_as,
    numbers_of,
    spelling,
    value_at,
    with_field,
)
from resect.adapt.carried.heirs import (
    carried_words,
    check_blocks,
    check_configured,
    heirs,
    misfit,
    new_blocks,
    raise_misfits,
    same_layout,
)
from resect.errors import EditError, SurgeryError
from resect.keras_graph.reconfiguring import (
    Config,
    carry_assets,
    carry_compiled,
    carry_layers,
    carry_values,
    is_described_by_fields,
    made,
)
from resect.keras_graph.units import all_layers


@dataclass(frozen=True, eq=False)
class _Request:
    """What was asked of a model, and what follows from it.

    Attributes:
        model: The model.
        changes: Fields of the configuration and their new values.
        keep: Which blocks go on, if that was said.
    """

    model: Any
    changes: Mapping[Path, Any]
    keep: tuple[int, ...] | None

    @cached_property
    def config(self) -> Config:
        """The configuration that the model has."""
        return self.model.get_config()

    @cached_property
    def counting(self) -> tuple[Path | None, Mapping[Template, Sequence[int]]]:
        """The field that counts blocks and is changed, and the names of the blocks."""
        given = [p for p, value in self.changes.items() if self._counts(p, value)]
        found = [(path, blocks) for path in given if (blocks := self._templates(path))]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            listed = ", ".join(spelling(path) for path, _ in found)
            raise EditError(f"{listed} count blocks.", "Change one of them at a time.")
        return (None, {}) if self.keep is None else counted(self.config, self._templates)

    def _counts(self, path: Path, value: Any) -> bool:
        had = value_at(self.config, path)
        return type(had) is int and type(value) is int and had > 0

    def _templates(self, path: Path) -> Mapping[Template, Sequence[int]]:
        """The names of what a field counts: compared with one less of it, or one more."""
        count = value_at(self.config, path)
        other = count - 1 if count > 1 else count + 1
        try:
            skeleton = made(self.model, with_field(self.config, path, other), values=False)
        except EditError:  # a width that cannot be any number: it counts no blocks
            return {}
        return block_templates(self.plain, count, skeleton, other)

    @cached_property
    def plain(self) -> Any:
        """What the configuration of the model alone makes, without values."""
        return made(self.model, self.config, values=False)

    def changed(self, *, count: bool = True) -> Config:
        """The configuration that is asked for; without `count` with as many blocks as there are."""
        config, (field, _) = self.config, self.counting
        for path, value in self.changes.items():
            if path != field:
                config = with_field(config, path, value if count else self._spread(path, value))
        if field is None or not count:
            return config
        for path, value in list(fields_of(config)):
            follows = "layer" in path[-1] and path not in self.changes
            if follows and self._is_per_block(path, value):
                config = with_field(config, path, [value[i] for i in self.kept if i is not None])
        return with_field(config, field, len(self.kept))

    def _is_per_block(self, path: Path, value: Any, *, kept: bool = False) -> bool:
        """Whether a field may hold one value for each block, next to the number of blocks."""
        field, _ = self.counting
        if field is None or path[:-1] != field[:-1] or not isinstance(value, (list, tuple)):
            return False
        return len(value) == (len(self.kept) if kept else value_at(self.config, field))

    def _spread(self, path: Path, value: Any) -> Any:
        """A changed field for as many blocks as there were, if it has a value for each."""
        if not value or not self._is_per_block(path, value, kept=True):
            return value
        field, _ = self.counting
        assert field is not None
        spread = [value[0]] * value_at(self.config, field)
        for old, each in zip(self.kept, value, strict=True):
            if old is not None:
                spread[old] = each
        return spread

    @cached_property
    def kept(self) -> tuple[int | None, ...]:
        """For every block of the result the old block that it is; `None` for one that is new.

        Raises:
            EditError: Not said, or not possible.
        """
        field, _ = self.counting
        assert field is not None
        had = value_at(self.config, field)
        wanted = self.changes.get(field, had if self.keep is None else len(self.keep))
        if self.keep is None:
            if wanted < had:
                raise EditError(
                    f"{field[-1]}={wanted} does not say which of the {had} blocks go on.",
                    f"Say it: keep=range({wanted}), or others.",
                )
            return (*range(had), *[None] * (wanted - had))
        if len(self.keep) != wanted:
            raise EditError(
                f"keep names {len(self.keep)} blocks, and {field[-1]}={wanted}.",
                f"Leave {field[-1]} out: it follows from keep.",
            )
        outside = [i for i in self.keep if not -had <= i < had]
        if outside or not self.keep:
            which = f"there is no block {outside[0]}" if outside else "no block would be left"
            raise EditError(f"{which.capitalize()}.", f"The model has blocks 0 to {had - 1}.")
        return tuple(i % had for i in self.keep)


def reconfigure(
    model: Any,
    *,
    keep: Sequence[int] | None = None,
    on_mismatch: str = "raise",
    **changes: Any,
) -> Any:
    """A model of the same class with another configuration, and the weights that go on.

    For models that are described by their arguments: KerasHub's backbones and tasks, and classes of
    your own with a `get_config`. The result is what its class makes, so it can do what its class
    can: `generate`, `quantize`, `enable_lora`, `save_to_preset`.

    Preserved: every weight of the blocks that go on and of all that is no block, bit by bit; flags,
    LoRA, vocabularies, the compile configuration, and the optimizer's slots of those weights. With
    more words in a vocabulary, old ids and the logits of old words are equal.
    Not preserved: layers and variables have the names that their class gives them, so blocks are
    numbered anew. They are wired as their class wires so many blocks: where one reads another by
    its number, and not the one before it, compare with `resect.collapse`.

    Args:
        model: A built Keras model whose class has a `get_config` of its own.
        keep: Which of the blocks that the configuration counts go on, in which order: `[0, 1, 4]`.
            One that is named twice stands twice. The number of blocks follows from it.
        on_mismatch: `"raise"`, or `"reinit"`: what no weights fit starts afresh.
        **changes: Fields of the configuration, also of a backbone inside it. A field that stands in
            several places is spelled as in `**{"backbone/dropout": 0.1}`, or `"/dropout"` for
            the outermost.

    Returns:
        A new model of the same class, independent of the source.

    Raises:
        EditError: The model is described by its graph; which blocks go on is not said; a block
            would become another (where its place decides what it does).
        NoMatchError: The configuration has no such field.
        AmbiguousError: It has several.
        ShapeError: Weights do not fit any more, or there are none for what is new.

    Example:

    >>> import keras, resect
    >>> @keras.saving.register_keras_serializable("docs")
    ... class Tower(keras.Model):
    ...     def __init__(self, depth, **kwargs):
    ...         x = inputs = keras.Input((4,))
    ...         for i in range(depth):
    ...             x = keras.layers.Dense(4, name=f"block_{i}")(x)
    ...         super().__init__(inputs, x, **kwargs)
    ...         self.depth = depth
    ...
    ...     def get_config(self):
    ...         return {"depth": self.depth, "name": self.name}
    ...
    ...     @classmethod
    ...     def from_config(cls, config):
    ...         return cls(**config)
    >>> tower = Tower(6)
    >>> new = resect.adapt.reconfigure(tower, keep=[0, 1, 5])
    >>> old_kernel, kernel = tower.get_layer("block_5").kernel, new.get_layer("block_2").kernel
    >>> new.depth, bool((old_kernel.numpy() == kernel.numpy()).all())
    (3, True)
    """
    if on_mismatch not in ("raise", "reinit"):
        raise ValueError(f'on_mismatch must be "raise" or "reinit", not {on_mismatch!r}.')
    all_layers(model)  # raises where it is no built model
    if not is_described_by_fields(model):
        raise EditError(
            f"{type(model).__name__} '{model.name}' is described by its graph, not by fields.",
            "Edit the graph: resect.remove, resect.collapse, resect.adapt.",
            model.name,
        )
    try:
        return _reconfigured(_request(model, keep, changes), reinit=on_mismatch == "reinit")
    except SurgeryError as error:
        said = changes if keep is None else {"keep": list(keep), **changes}
        listed = ", ".join(f"{name}={value!r}" for name, value in said.items())
        request = f"Cannot reconfigure {type(model).__name__} '{model.name}' with {listed}."
        raise error.asking(request) from error


def _request(model: Any, keep: Sequence[int] | None, changes: Mapping[str, Any]) -> _Request:
    config = model.get_config()
    fields = {field_path(config, name): value for name, value in changes.items()}
    return _Request(model, fields, None if keep is None else tuple(keep))


def _reconfigured(request: _Request, *, reinit: bool) -> Any:
    model, (field, templates) = request.model, request.counting
    kept = () if field is None else request.kept
    new = made(model, request.changed(), values=True)
    numbers = numbers_of(new, templates)
    old_groups = grouped_as(model, request.plain, templates)
    groups = grouped(new, numbers)
    check_configured(old_groups, grouped(request.plain, templates))
    if field is not None:
        reference = made(model, request.changed(count=False), values=False)
        check_blocks(kept, (reference, grouped(reference, templates)), (new, groups))
    pairs = list(heirs(kept, old_groups, groups, reinit))
    carry_layers([(old.layer, part.layer) for old, part in pairs])
    problems, carried = [], []
    for old, part in pairs:
        if same_layout(old.layer, part.layer):
            carried += carry_values(old.layer, part.layer)
        elif not carried_words(old.layer, part.layer):
            problems.append(misfit(old, part))
    problems += new_blocks(kept, groups)
    if not reinit:
        raise_misfits(problems)
    carry_assets(model, new)
    carry_compiled(model, new, carried)
    return new
