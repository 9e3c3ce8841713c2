"""Tries variants of a model, and finds those that are best.

    choices   what may differ, as functions from a plan to a longer plan
    space     choices one after the other; when two variants are the same one
    goals     what is sought, what beats what, and what is stopped early
    training  how a variant is trained and measured, stage by stage
    storage   Optuna's storage, and what models hold
    archive   what is known of trials, and the models that they came to
    session   trials in rounds, each written down
    result    what it came to, as a value, and how it prints

Data flows downwards. A round of trials is chosen, trained stage by stage by whatever workers there
are, judged, and written down; then the next one is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import keras

from resect.parallel import Serial, Shipped
from resect.parallel.serial import executor_of
from resect.plan import Plan
from resect.search.archive import ORIGINAL, Archive
from resect.search.choices import (
    Activation,
    Bottleneck,
    Choice,
    Dropout,
    Normalization,
    OneOf,
    Remove,
)
from resect.search.goals import Goals, goals_of
from resect.search.result import Trial, Trials
from resect.search.session import Rules, Session
from resect.search.space import Space
from resect.search.storage import (
    DEFAULT,
    Folder,
    Memory,
    Notebook,
    Record,
    library,
    samplers,
    storage_of,
)
from resect.search.training import Objective, Training, Work, training_of
from resect.training.feeding import Data, data_of
from resect.training.identity import model_identity, plain
from resect.training.measures import Costs, costs_of, numbers_of, shapes_in
from resect.training.recovery import Distill, FineTune

__all__ = [
    "Activation",
    "Bottleneck",
    "Choice",
    "Distill",
    "Dropout",
    "FineTune",
    "Normalization",
    "OneOf",
    "Remove",
    "Trial",
    "Trials",
    "search",
]


def search(
    model: Any,
    space: Any,
    objective: Literal["fit", "distill"] | FineTune | Distill | Objective = "fit",
    *,
    data: Any = None,
    validation: Any = None,
    goals: Any = None,
    limits: Mapping[str, float] | None = None,
    trials: int = 30,
    stages: int = 3,
    stop: Any = "median",
    patience: int = 5,
    sampler: Any = "tpe",
    at_once: int = 1,
    executor: Executor | Literal["processes"] | None = None,
    storage: Any = DEFAULT,
    study: str = "search",
    values: Any = None,
    keep: Literal["front", "all"] = "front",
    seed: int = 0,
    batch_size: int = 32,
) -> Trials:
    """Tries variants of a model: blocks removed, layers inserted, and whatever a plan can do.

    A variant is the original with edits; it begins with the weights that stay, and is trained and
    measured by the objective. The original itself is trained and measured in the same way first,
    and stands beside the variants.

    Variants are proposed by Optuna. Two proposals that come to the same graph are one variant,
    which is trained once. What cannot be made, or costs more than the limits, is not trained. After
    each stage but the last, a variant is stopped whose numbers are all worse than the median of
    what the others that cost no more had come to after that stage.

    Each proposal and each stage is written down before the next begins, in Optuna's storage, and
    what models hold in files beside it. After a kill at any moment, or with more `trials`, the same
    call goes on where it was, and comes to what it would have come to; on one backend, and with
    data that comes in the same order. Everything is drawn from `seed`; all variants see the data in
    one order. The global random seeds are set on the way. One process searches a study at a time.

    Args:
        model: The original; it is left as it is.
        space: What may differ: one or several choices, made one after the other. `Remove`,
            `Dropout`, `Normalization`, `Bottleneck`, `Activation` and `OneOf`; or a function of
            Optuna's trial and a plan that returns a longer plan.
        objective: `"fit"` or `FineTune(epochs=9)`, `"distill"` or `Distill(epochs=9)`: training
            with what the model is compiled with, and loss and metrics as `evaluate` says them. Or a
            function of a model that trains it and returns a number, which is sought to be low, or a
            dict of numbers. If it has an argument `stage`, it is called once for each stage, from
            0, with the model as it was left.
        data: What is trained on: arrays `(x, y)` or `(x, y, sample_weight)`, a list of batches, a
            `tf.data.Dataset`, a PyTorch `DataLoader` or a `keras.utils.PyDataset`. Not for a
            function.
        validation: What is measured on; by default `data`, which finds what fits it best.
        goals: What is sought, the most important first: names of metrics and of `"parameters"`,
            `"multiply_adds"` and `"latency"`, or a mapping from names to `"lower"` and `"higher"`.
            By default the loss, or what the function returns.
        limits: The most parameters or multiply-adds that a variant may have: below 1 a fraction of
            the original's.
        trials: The most variants that are trained, those of earlier calls included.
        stages: How often a variant is looked at: with 10 epochs and 3 stages after 1, 3 and 10.
        stop: `"median"`, `None`, or for a single goal one of Optuna's pruners.
        patience: With how many others a variant is compared at least before it is stopped.
        sampler: `"tpe"`, `"random"`, or a function that makes one of Optuna's from a seed.
        at_once: How many variants are proposed together, each without knowing of the others. What
            comes out depends on it, and not on who does what.
        executor: Where variants are trained: any `concurrent.futures.Executor`, such as a Dask
            client's `client.get_executor()`, or `"processes"` for processes of this machine. By
            default here, one by one. Give `at_once` too.
        storage: The SQLite file; or the URL of a database, one of Optuna's storages, or `None` for
            memory.
        study: The name of the study in it.
        values: The folder for what models hold; by default beside the SQLite file, in memory for
            other storages.
        keep: Of which variants that is kept: of those that no other one beats, or of all.
        seed: What everything is drawn from.
        batch_size: Number of samples in a batch, where the data is arrays.

    Returns:
        The trials. Print them: they are a table. `.best()` is the best, `.front` those that no
        other one beats, `.model(trial)` its model, `.plan(trial)` what it changes.

    Raises:
        ReadError: The model cannot be read as a graph.
        NoMatchError: A choice names what is not there.
        SurgeryError: Optuna is not installed; the model is not compiled; the study holds another
            request, or another process searches it; nothing of the space can be made; a goal has
            no meaning.
        ValueError: An argument has no meaning.

    Example:

    >>> import keras, numpy as np, resect
    >>> from resect.search import Dropout, Remove
    >>> x = inputs = keras.Input((4,), name="x")
    >>> for i in range(3):
    ...     y = keras.layers.Dense(4, activation="relu", name=f"inner_{i}")(x)
    ...     x = keras.layers.Add(name=f"add_{i}")([x, y])
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="mlp")
    >>> model.compile(loss="mse")
    >>> data = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    >>> space = [Remove(at_most=2), Dropout(after="add_*", rates=(0.0, 0.5), together=True)]
    >>> found = resect.search(
    ...     model, space, data=data, goals=("loss", "parameters"), trials=3, storage=None
    ... )
    >>> len(found), found.best("parameters").numbers["parameters"] <= 70
    (3, True)
    """
    _check(trials=trials, stages=stages, patience=patience, at_once=at_once, batch_size=batch_size)
    if keep not in ("front", "all"):
        raise ValueError(f'keep must be "front" or "all", not {keep!r}.')
    library()
    chosen = Space.of(space)
    given = None if data is None else data_of(data, batch_size, "data")
    held_out = None if validation is None else data_of(validation, batch_size, "validation")
    training = training_of(objective, model, given, held_out, stages)
    work, costs, before = _measured(model, training, seed, goals, given)
    sought = goals_of(goals, limits, before or None, costs, model)
    rules = Rules(trials, at_once, samplers(sampler), stop, patience, keep == "all")
    _check_stop(stop, sought)
    kept, path = storage_of(storage)
    request = _request(model, chosen, training, sought, rules, sampler, seed)
    store = Memory() if path is None and values is None else Folder(values or _beside(path, study))
    workers = executor_of(executor)
    there = work if isinstance(workers, Serial) else replace(work, original=Shipped(model))
    with store.alone():
        archive = Archive(work, chosen, Notebook(kept, study, request, sought), store)
        Session(there, archive, sought, rules, workers).run()
        return _result(archive, sought, before)


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be 1 or more, not {number!r}.")


def _check_stop(stop: Any, goals: Goals) -> None:
    if stop in (None, "median"):
        return
    if not isinstance(stop, library().pruners.BasePruner):
        raise ValueError(f'stop must be "median", None or one of Optuna\'s pruners, not {stop!r}.')
    if len(goals.better) > 1:
        raise ValueError(
            "Optuna's pruners are for a single goal, and there are "
            f'{len(goals.better)}: {", ".join(goals.better)}. Say stop="median".'
        )


def _measured(
    model: Any, training: Any, seed: int, goals: Any, data: Data | None
) -> tuple[Work, Costs, dict[str, float]]:
    """How variants are trained and measured; what the original costs, and what it measures."""
    latency = "latency" in ([goals] if isinstance(goals, str) else goals or ())
    shapes = {} if data is None else shapes_in(model, data.given, data.batch_size)
    work = Work(model, training, seed, shapes, latency)
    costs = costs_of(model, shapes, latency)
    if not isinstance(training, Training):
        return work, costs, {}
    return work, costs, numbers_of(Plan(model).apply(), training.validation, True)


def _request(
    model: Any,
    space: Space,
    training: Any,
    goals: Goals,
    rules: Rules,
    sampler: Any,
    seed: int,
) -> dict[str, Any]:
    """What makes two searches the same one: everything but how many trials, and who does them."""
    return {
        "resect": 1,
        "backend": keras.backend.backend(),
        "model": model_identity(model),
        "space": space.described(),
        "objective": training.described(),
        "goals": dict(goals.better),
        "limits": dict(goals.limits),
        "at_once": rules.at_once,
        "stop": rules.pruner if rules.pruner in (None, "median") else type(rules.pruner).__name__,
        "patience": rules.patience,
        "sampler": plain(sampler),
        "seed": seed,
    }


def _beside(path: Path | None, study: str) -> Path:
    assert path is not None
    return path.with_name(f"{path.name}.values") / study


def _result(archive: Archive, goals: Goals, before: Mapping[str, float]) -> Trials:
    graph = archive.root.source
    original = archive.notebook.original
    first = Trial(
        number=ORIGINAL,
        kind="done",
        params={},
        numbers=archive.numbers(ORIGINAL),
        curve=tuple(original["curve"]),
        seconds=original["seconds"],
    )
    return Trials(
        title=f"{graph.kind} '{graph.name}'",
        objective=str(archive.work.training),
        better=goals.better,
        original=first,
        before=before,
        trials=tuple(_trial(archive, record) for record in archive.notebook.records()),
        study=archive.notebook.study,
        make=archive.model,
        planned=archive.plan,
    )


def _trial(archive: Archive, record: Record) -> Trial:
    notes: Any = record.notes
    same = notes.get("same_as")
    source = record.number if same is None else same
    ended = record.kind == "done" or (record.kind == "repeated" and archive.is_done(source))
    return Trial(
        number=record.number,
        kind=notes["kind"],
        params=record.params,
        numbers=archive.numbers(source) if ended else {},
        curve=tuple(record.curve),
        same_as=same,
        why=notes.get("why", ""),
        seconds=record.progress.get("seconds", 0.0),
    )
