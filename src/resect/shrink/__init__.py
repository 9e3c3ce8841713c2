"""Makes models smaller, block by block, until a target is reached.

    goals       what shrinking goes on for, and what it may cost
    journal     what has been done so far, in memory or in a folder
    paths       what may go from a plan, and how its calls are spelled
    work        measuring, ranking, cutting, recovering
    session     each of it done once, here or by workers, and written down
    strategies  in which order blocks go
    result      what it came to, as a value, and how it prints

Data flows downwards. Between two steps nothing lives on but arrays: each step begins with the plan
so far, applied to the original, and the values that the last one left behind. So a run that was
killed goes on exactly like one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal, get_args

import keras

from resect.errors import SurgeryError, TargetError
from resect.importance import Method
from resect.importance.program import program_of
from resect.importance.targets import targets_of
from resect.keras_graph.scoring import why_not_scored
from resect.keras_graph.training import is_compiled
from resect.lookup import resolve_one
from resect.parallel.serial import executor_of
from resect.plan import Plan
from resect.select import Place
from resect.shrink.goals import COSTS, Drop, checked, goals_of
from resect.shrink.journal import FolderJournal, Journal
from resect.shrink.paths import longer
from resect.shrink.result import Shrunk, Step
from resect.shrink.session import Node, Session
from resect.shrink.strategies import STRATEGIES, Strategy, Way, beam, greedy, one_shot
from resect.shrink.work import Work
from resect.training.directions import direction_of
from resect.training.feeding import Data, data_of
from resect.training.identity import code_of, model_identity
from resect.training.measures import Costs, is_measured, shapes_in, why_not_measured
from resect.training.recovery import Distill, FineTune, described, recovery_of
from resect.verbs import clone, read

__all__ = ["Distill", "Drop", "FineTune", "Shrunk", "Step", "shrink"]

_LABELED = ("ablation", "taylor")


def shrink(
    model: Any,
    data: Any,
    *,
    target: Mapping[str, Any],
    recover: Any = None,
    validation: Any = None,
    method: Method | str = "ablation",
    strategy: Strategy = "greedy",
    width: int = 3,
    tries: int = 3,
    blocks: Any = None,
    folder: Any = None,
    seed: int = 0,
    batch_size: int = 32,
    executor: Executor | Literal["processes"] | None = None,
) -> Shrunk:
    """Removes the least important block, recovers, measures, and so on until a target is reached.

    The target names costs that are to be reached, and drops that are permitted:

    - `"parameters"` and `"multiply_adds"`: below 1 a fraction of the original's, otherwise a
      number. `"latency"`: a fraction of the original's, measured; `"latency_seconds"`: a time.
    - `"loss"`, or a metric that the model is compiled with: by how much it may be worse than the
      original's. Which values are better is known of Keras's own metrics; of others say it with
      `Drop(0.02, better="higher")`.

    With costs it ends as soon as all of them are reached, and without when no block can go any
    more. A removal that breaks a permitted drop is not done, and the next least important block is
    tried, `tries` of them.

    Strategies: `"greedy"` measures importance anew after each removal. `"one-shot"` measures it
    once, and recovers once, at the end; drops are judged as cut, and a recovery that breaks one is
    not kept. `"beam"` tries the `width` least important blocks of each of the `width` best models
    (by loss; of models that are not measured, by the sum of scores), and ends with the best of
    those that reach the target first; a set of blocks is tried once, whatever the order.

    Every step begins with the plan so far, applied to the original, and the weights and optimizer
    state that the step before has left. What recovery compiles a model with is its own business.

    With a folder, each step is written down: a line of `log.jsonl`, and a file with the values,
    which is complete before its line is. After a kill the same call goes on where it was, and ends
    with the same result, bit by bit on the same backend, where the data comes in the same order:
    arrays are shuffled from `seed`, and the number of the step. A finished folder gives its result
    at once. The global random seeds are set on the way.

    Args:
        model: The model; it is left as it is.
        data: What importance is measured on, and recovery trains on: arrays `(x, y)` or `(x, y,
            sample_weight)`, a list of batches, a `tf.data.Dataset`, a PyTorch `DataLoader` or a
            `keras.utils.PyDataset`.
        target: What to go on for.
        recover: How the model is made good again after each removal: `None`; `"fit"`, or
            `FineTune(...)`; `"distill"`, or `Distill(...)`, from the original; or a function of
            the model that trains it and returns nothing, or a model with the same layers. If it
            has an argument `original`, it gets a copy of that.
        validation: What every step is measured on; by default `data`, and the result says so.
        method: How importance is measured: a method of `resect.importance`, or `"random"`, to
            compare with.
        strategy: `"greedy"`, `"one-shot"` or `"beam"`.
        width: For `"beam"`.
        tries: For `"greedy"`: how many blocks are tried for one step.
        blocks: What may go: blocks of `resect.blocks`, or addresses of the calls that end them. By
            default whatever is a block that keeps the shape.
        folder: Where the steps are kept; by default only in memory.
        seed: What every order and every draw is made from.
        batch_size: Number of samples in a batch, where the data is arrays.
        executor: Where the attempts of `"beam"` are made, which do not depend on each other: any
            `concurrent.futures.Executor`, such as a Dask client's `client.get_executor()`, or
            `"processes"` for processes of this machine. By default here, one by one.

    Returns:
        What was removed, why, and what it came to. Print it: it is a table. `.model` is the model,
        `.at(k)` the one after k removals, `.plan` the removals.

    Raises:
        TargetError: The costs cannot be reached, or not with the permitted drops. Its `result`
            is how far it got; nothing is lost.
        ReadError: The model cannot be read as a graph.
        NoMatchError: There are no blocks that could go.
        SurgeryError: The model is not compiled, and something was asked for that needs a loss; the
            data cannot be gone through twice; the target has no meaning for the model; the folder
            holds the steps of another request, or another process is at it.
        ValueError: An argument has no meaning.

    Example:

    >>> import keras, numpy as np, resect
    >>> x = inputs = keras.Input((4,), name="x")
    >>> for i in range(3):
    ...     y = keras.layers.Dense(4, activation="relu", name=f"inner_{i}")(x)
    ...     x = keras.layers.Add(name=f"add_{i}")([x, y])
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="mlp")
    >>> model.compile(loss="mse")
    >>> data = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    >>> smaller = resect.shrink(model, data, target={"parameters": 0.5})
    >>> [step.parameters for step in smaller]
    [70, 50, 30]
    >>> len(smaller.plan.edits), smaller.model.count_params()
    (2, 30)
    """
    target = checked(target)
    _check(method, strategy, width=width, tries=tries, batch_size=batch_size)
    given = data_of(data, batch_size, "data")
    held_out = given if validation is None else data_of(validation, batch_size, "validation")
    _check_loss(model, given, method)
    work = Work(
        model=clone(model),  # which nobody trains or compiles on the way, or later
        data=given,
        validation=held_out,
        recover=recovery_of(recover, model, given),
        method=method,
        chosen=_chosen(model, blocks),
        seed=seed,
        measured=is_measured(model, held_out.given, batch_size),
        latency=any(name.startswith("latency") for name in target),
        shapes=shapes_in(model, given.given, batch_size),
    )
    asked = {"strategy": strategy, "width": width, "tries": tries, "target": target}
    journal = Journal() if folder is None else FolderJournal(folder, _header(work, asked))
    with journal:
        session = Session(work, journal, executor_of(executor))
        costs, numbers = session.start()
        session.goals = goals_of(target, costs, numbers, model)
        run = {"greedy": greedy, "one-shot": one_shot, "beam": partial(beam, width=width)}[strategy]
        way = run(session, costs, tries)
    found = _result(session, way, costs, numbers, longer(Plan(model), way.node.path), strategy)
    if session.goals.costs and not session.goals.reached(way.costs or costs):
        raise _unreached(found)
    return found


def _check(method: str, strategy: str, **numbers: int) -> None:
    methods = (*get_args(Method), "random")
    for name, value, known in (("method", method, methods), ("strategy", strategy, STRATEGIES)):
        if value not in known:
            listed = ", ".join(repr(each) for each in known)
            raise ValueError(f"{value!r} is no {name}. There are {listed}.")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, not {number}.")


def _check_loss(model: Any, data: Data, method: str) -> None:
    """Raises where a loss is needed, and there is none, or none that can be trusted."""
    why = why_not_scored(model) if is_compiled(model) else None
    if method in _LABELED:
        why = why_not_measured(model, data.given, data.batch_size)
    if why is not None:
        raise SurgeryError(*why)


def _chosen(model: Any, blocks: Any) -> Sequence[frozenset[Place]] | None:
    graph = read(model)
    targets = targets_of(program_of(graph), blocks)  # says so where there are none
    if blocks is None:
        return None
    return [frozenset(resolve_one(call, graph) for call in each.calls) for each in targets]


def _header(work: Work, asked: Mapping[str, Any]) -> dict[str, Any]:
    graph = read(work.model)
    chosen = work.chosen
    target = {
        name: [value.by, value.better] if isinstance(value, Drop) else value
        for name, value in asked["target"].items()
    }
    return {
        "resect": 1,
        "backend": keras.backend.backend(),
        "model": model_identity(work.model),
        "data": work.data.description(),
        "validation": work.validation.description(),
        "recover": described(work.recover),
        "recover code": code_of(work.recover),
        "method": work.method,
        **asked,
        "target": target,
        "blocks": chosen and [sorted(place.spelling(graph) for place in each) for each in chosen],
        "seed": work.seed,
        "batch_size": work.data.batch_size,
    }


def _result(
    session: Session,
    way: Way,
    costs: Costs,
    numbers: Mapping[str, float],
    plan: Plan,
    strategy: str,
) -> Shrunk:
    work = session.work
    graph = work.plan.source
    nan = float("nan")
    first = Step(
        0, "", ("", ""), nan, nan, nan, numbers, numbers, costs.parameters, costs.multiply_adds,
        costs.latency,
    )  # fmt: skip
    nodes = [Node(), *(removal.node for removal in way.removals)]
    directions = {name: direction_of(name, work.model) for name in numbers}
    known = {name: drop.better for name, drop in session.goals.drops.items()}
    better: Any = {n: how for n, how in {**directions, **known}.items() if how is not None}
    return Shrunk(
        title=f"{graph.kind} '{graph.name}'",
        target=str(session.goals),
        ended=way.ended,
        method=work.method,
        strategy=strategy,
        recovery=_recovery_text(work.recover),
        measured_on="data" if work.validation is work.data else "validation",
        steps=(first, *(_step(i, r) for i, r in enumerate(way.removals, 1))),
        better=better,
        plan=plan,
        make=lambda number: session.model_at(nodes[number]),
    )


def _recovery_text(recover: Any) -> str:
    if recover is None:
        return ""
    return str(recover) if isinstance(recover, (FineTune, Distill)) else described(recover)


def _step(number: int, removal: Any) -> Step:
    candidate, attempt = removal.candidate, removal.attempt
    return Step(
        number=number,
        name=candidate.name,
        ends=candidate.ends,
        score=candidate.score,
        low=candidate.low,
        high=candidate.high,
        before=attempt.before,
        after=attempt.after,
        parameters=attempt.costs.parameters,
        multiply_adds=attempt.costs.multiply_adds,
        latency=attempt.costs.latency,
        rivals=removal.rivals,
        rejected=removal.rejected,
    )


def _unreached(found: Shrunk) -> TargetError:
    last, count = found.steps[-1], len(found) - 1
    left = {name: getattr(last, name) for name in COSTS[:3] if getattr(last, name) is not None}
    said = ", ".join(f"{name} {value:,.6g}" for name, value in left.items())
    error = TargetError(
        f"The target cannot be reached ({found.target}): {found.ended}. What is left after "
        f"{count} removal{'s' * (count != 1)}: {said}.",
        "The result so far is the error's result, with every model in it. Ask for less, permit a "
        "larger drop, recover longer, or let more go: blocks=resect.blocks(model).collapsible().",
    )
    error.result = found
    return error
