"""What makes a model good again after a block has gone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import keras

from resect.errors import SurgeryError
from resect.keras_graph.training import trained_by
from resect.training.distilling import Distiller, Kind, kinds_of
from resect.training.feeding import Data, Slices, plainly, seeded
from resect.training.measures import why_not_measured
from resect.training.values import Values, fit_together, reseed, values_of
from resect.verbs import clone


@dataclass(frozen=True)
class FineTune:
    """Training on the data, with the loss and the optimizer that the model is compiled with.

    The optimizer goes on where it was. Arrays are shuffled anew in every epoch.

    Args:
        epochs: How often all data is seen after each removal.
        learning_rate: Of these epochs; by default the one that the optimizer has, or its schedule.

    Example:

    >>> FineTune(epochs=2, learning_rate=1e-4)
    FineTune(epochs=2, learning_rate=0.0001)
    """

    epochs: int = 1
    learning_rate: float | None = None

    def check(self, model: Any) -> None:
        _check_rate(model, self.learning_rate)

    def train(self, model: Any, original: Any, data: Data, seed: int) -> None:
        del original
        _fit(model, data, self.epochs, seed)


@dataclass(frozen=True)
class Distill:
    """Training towards what the original says, and towards the targets.

    The loss is `alpha` times the cross-entropy between the original's and the model's softened
    predictions, less the least it can be, times the temperature squared; and `1 - alpha` times the
    loss that the model is compiled with (Hinton, Vinyals and Dean, "Distilling the knowledge in a
    neural network", 2015). For outputs that are numbers, and not classes, the first part is their
    mean squared difference.

    Args:
        epochs: How often all data is seen after each removal.
        temperature: What logits are divided by.
        alpha: The share of the original's predictions, from 0 to 1.
        learning_rate: As of `FineTune`.
        outputs: What the outputs are: `"logits"`, `"probabilities"` or `"values"`; by default what
            the loss says. Of classes, along the last axis; of length 1, or with a binary
            cross-entropy as loss, each number is a class of its own.

    Example:

    >>> Distill(temperature=4.0).alpha
    0.5
    """

    epochs: int = 1
    temperature: float = 2.0
    alpha: float = 0.5
    learning_rate: float | None = None
    outputs: Kind | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not self.temperature > 0:
            raise ValueError(
                "alpha must lie between 0 and 1 and temperature above 0, not "
                f"{self.alpha} and {self.temperature}."
            )

    def check(self, model: Any) -> None:
        _check_rate(model, self.learning_rate)
        kinds_of(model, self.outputs)

    def train(self, model: Any, original: Any, data: Data, seed: int) -> None:
        teacher = clone(original)
        teacher.trainable = False
        kinds = kinds_of(model, self.outputs)
        pupil = Distiller(model, teacher, kinds, self.temperature, self.alpha)
        _fit(pupil, data, self.epochs, seed)


Recover = FineTune | Distill | Callable[..., Any] | None


def recovery_of(recover: Any, model: Any, data: Data, name: str = "recover") -> Recover:
    """What the user asked for, if it has a meaning.

    Args:
        recover: As it was given.
        model: The model.
        data: What it would be trained on.
        name: What the argument is called.

    Raises:
        ValueError: It is no way to recover.
        SurgeryError: The model or the data is not made for it.
    """
    named = {"fit": FineTune(), "distill": Distill()}
    found = named.get(recover, recover) if isinstance(recover, str) else recover
    if isinstance(found, (FineTune, Distill)):
        why = why_not_measured(model, data.given, data.batch_size)
        if why is not None:
            raise SurgeryError(why[0], f"{why[1]} Or give a function of your own as {name}.")
        if found.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, not {found.epochs}.")
        found.check(model)
    elif found is not None and (isinstance(found, (str, type)) or not callable(found)):
        raise ValueError(
            f'recover must be None, "fit", "distill", FineTune(...), Distill(...) or a function of '
            f"the model, not {recover!r}."
        )
    return found


def recovered(recover: Any, model: Any, original: Any, data: Data, seed: int) -> Values:
    """The values of a model after recovery. The model is spent; the original is as it was.

    Its random numbers begin anew, from the seed.

    Raises:
        SurgeryError: The user's function returned another model.
    """
    reseed(model, seed)
    if isinstance(recover, (FineTune, Distill)):
        if recover.learning_rate is None:
            recover.train(model, original, data, seed)
            return values_of(model)
        rate: Any = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
        model.optimizer.learning_rate = recover.learning_rate
        recover.train(model, original, data, seed)
        model.optimizer.learning_rate = float(rate)
        return values_of(model)
    before = Before.of(model)
    seeded(seed)
    takes_original = "original" in inspect.signature(recover).parameters
    found = recover(model, original=clone(original)) if takes_original else recover(model)
    found = model if found is None else found
    if not isinstance(found, keras.Model):
        raise SurgeryError(
            f"recover returned {type(found).__name__}, which is no model.",
            "Return the model, or nothing: then it is the one that was given.",
        )
    return before.left(found)


@dataclass(frozen=True)
class Before:
    """A model before a function of the user's trains it.

    Attributes:
        values: What it held.
        optimizer: Its optimizer.
        trained: Identities of the variables that were trained.
    """

    values: Values
    optimizer: Any
    trained: tuple[int, ...]

    @classmethod
    def of(cls, model: Any) -> Before:
        """A model as it is now."""
        trained = tuple(id(variable) for variable in model.trainable_variables)
        return cls(values_of(model), getattr(model, "optimizer", None), trained)

    def left(self, model: Any) -> Values:
        """What goes on of a model that was trained: weights, and what the same optimizer keeps.

        Raises:
            SurgeryError: It is another model.
        """
        fit_together(model, self.values)
        now, known = values_of(model), trained_by(self.optimizer)
        same = getattr(model, "optimizer", None) is self.optimizer
        if same and known in (None, [*self.trained]):
            return now
        return Values(now.paths, now.arrays, self.values.optimizer, self.values.started)


def described(recover: Any) -> Any:
    """A way to recover as JSON, the same in every process."""
    if is_dataclass(recover) and not isinstance(recover, type):
        return {"kind": type(recover).__name__, **asdict(recover)}
    if recover is None:
        return None
    return f"function {getattr(recover, '__qualname__', type(recover).__qualname__)}"


class _Seeds(keras.callbacks.Callback):
    """Has each epoch begin with a seed of its own.

    One call of `fit` does all epochs: what Keras does at the end of training, as with the averages
    of an optimizer, it is to do once.
    """

    def __init__(self, feed: Any, seed: int) -> None:
        super().__init__()
        self.feed, self.seed = feed, seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        order = seeded(self.seed, epoch)
        if isinstance(self.feed, Slices):
            self.feed.shuffle(order)


def _fit(model: Any, data: Data, epochs: int, seed: int) -> None:
    feed = data.feed(seed)
    seeds = _Seeds(feed, seed)
    plainly(model, "fit")(feed, epochs=epochs, shuffle=False, verbose=0, callbacks=[seeds])


def _check_rate(model: Any, rate: float | None) -> None:
    if rate is None:
        return
    if not rate > 0:
        raise ValueError(f"learning_rate must be above 0, not {rate!r}.")
    if not isinstance(model.optimizer.learning_rate, keras.Variable):
        raise SurgeryError(
            "The learning rate of the optimizer follows a schedule, so no other can be set.",
            "Leave learning_rate out: recovery goes on along the schedule.",
        )
