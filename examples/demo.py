"""Trains a small network on real images, edits it six ways, and trains on: `make demo`.

    python examples/demo.py             less than a minute on two cores
    python examples/demo.py --epochs 1  a quick look

Each edit is a plan that is printed before anything happens, applied, verified and trained on. The
network that it started from is the same at the end as it was before the first edit.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import digits
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import resect


@dataclass(frozen=True)
class Row:
    """One line of the last table.

    Attributes:
        edit: What was done.
        accuracies: On the test images: as edited, and after training on.
        model: The edited model.
    """

    edit: str
    accuracies: tuple[float, float]
    model: keras.Model


class Demo:
    """The trained network, the images, and what the edits came to.

    Args:
        epochs: How often the network sees the training images at first; an edited one sees them a
            half as often.
    """

    def __init__(self, epochs: int) -> None:
        self.console = Console(width=100, highlight=False)
        self.epochs = epochs
        self.more_epochs = max(1, epochs // 2)
        self.train, self.test = digits.load()
        self.model = digits.network()
        self.rows: list[Row] = []

    def run(self) -> None:
        """Everything, from start to end."""
        begin = time.perf_counter()
        self.train_first()
        for edit in (self.new_head, self.fewer_blocks, self.dropout, self.other_activation):
            edit()
        self.cut_in_two()
        self.colours()
        self.untouched()
        self.console.print(self.table())
        seconds = time.perf_counter() - begin
        self.console.print(f"\n{seconds:.0f} seconds on {keras.backend.backend()}.")

    def train_first(self) -> None:
        self.title("A network for handwritten digits, trained from scratch")
        fit(self.model, self.train.x, self.train.y, self.epochs)
        # Smaller steps from here on: the optimizer is carried over to every edited model.
        self.model.optimizer.learning_rate = 1e-3
        fit(self.model, self.train.x, self.train.y, self.more_epochs)
        self.logits = self.model.predict(self.test.x, verbose=0)
        accuracy = score(self.model, self.test.x, self.test.y)
        self.console.print(f"{accuracy:.1%} of the test images are read correctly.")
        # What more training does by itself, for comparison; a clone, so that the network stays.
        twin = resect.clone(self.model)
        fit(twin, self.train.x, self.train.y, self.more_epochs)
        after = score(twin, self.test.x, self.test.y)
        self.rows.append(Row("not edited", (accuracy, after), self.model))

    # The six edits

    def new_head(self) -> None:
        self.title("1. The head off, a new head on: is the digit odd?")
        plan = resect.plan(self.model).pop().append(keras.layers.Dense(2, name="parity"))
        self.edit("new head: odd or even", plan, answers=lambda y: y % 2)

    def fewer_blocks(self) -> None:
        self.title("2. A residual block collapsed")
        plan = resect.plan(self.model).collapse("block_2_relu", "block_3_relu")
        self.edit("a block less", plan)

    def dropout(self) -> None:
        self.title("3. Dropout inserted after every block")
        blocks = resect.select(name="block_*_relu").expect(3)
        plan = resect.plan(self.model).insert(keras.layers.Dropout(0.1), after=blocks)
        self.edit("dropout", plan)

    def other_activation(self) -> None:
        self.title("4. ReLU swapped for SiLU, everywhere")
        plan = resect.plan(self.model).replace(
            keras.layers.ReLU, lambda old: keras.layers.Activation("silu", name=old.name)
        )
        self.edit("SiLU for ReLU", plan)

    def cut_in_two(self) -> None:
        self.title("5. The model cut in two, inside a residual block")
        plan = resect.plan(self.model)
        halves = plan.head("block_3_conv1"), plan.tail("block_3_conv1")
        for half in halves:
            self.console.print(f"{half}\n", markup=False)
        head, tail = resect.split(self.model, "block_3_conv1")
        self.verify(head, halves[0])
        self.verify(tail, halves[1])
        # The head has seen every image once; from here on only the tail is trained.
        features = head.predict(self.train.x, verbose=0)
        test_features = head.predict(self.test.x, verbose=0)
        before = score(tail, test_features, self.test.y)
        fit(tail, features, self.train.y, self.more_epochs)
        after = score(tail, test_features, self.test.y)
        self.done(Row("the tail of a split", (before, after), tail))

    def colours(self) -> None:
        self.title("6. Grayscale to RGB: the digits are written in coloured ink from now on")
        plan = resect.plan(self.model).then(resect.adapt.Channels(3))
        new = self.applied(plan)
        gray = np.repeat(self.test.x, 3, axis=-1)
        difference = np.abs(new.predict(gray, verbose=0) - self.logits).max()
        self.console.print(f"\nOn gray images as before, but for {difference:.1g} in the logits.")
        self.train_on("three channels for one", new, images=digits.in_colour)

    # What each edit has in common

    def edit(
        self,
        name: str,
        plan: resect.Plan,
        answers: Callable[[np.ndarray], np.ndarray] = lambda y: y,
    ) -> None:
        """Prints a plan, applies it, verifies the result and trains on.

        Args:
            name: What the last table calls it.
            plan: The plan.
            answers: What the edited model is to say, given the digits.
        """
        self.train_on(name, self.applied(plan), answers=answers)

    def applied(self, plan: resect.Plan) -> keras.Model:
        """Prints a plan, applies it and verifies the result."""
        self.console.print(str(plan), markup=False)
        new = plan.apply()
        self.verify(new, plan)
        return new

    def train_on(
        self,
        name: str,
        new: keras.Model,
        images: Callable[[np.ndarray], np.ndarray] = lambda x: x,
        answers: Callable[[np.ndarray], np.ndarray] = lambda y: y,
    ) -> None:
        """Trains an edited model, and notes how well it reads before and after.

        Args:
            name: What the last table calls it.
            new: The edited model.
            images: What it is shown, given the images.
            answers: What it is to say, given the digits.
        """
        test, train = images(self.test.x), images(self.train.x)
        before = score(new, test, answers(self.test.y))
        fit(new, train, answers(self.train.y), self.more_epochs)
        after = score(new, test, answers(self.test.y))
        self.done(Row(name, (before, after), new))

    def verify(self, new: keras.Model, plan: resect.Plan) -> None:
        """Compares the edited model with what its plan means; raises if they differ."""
        report = resect.verify(self.model, new, plan=plan)
        self.console.print(f"\nVerified '{new.name}':")
        self.console.print(str(report), markup=False)

    def done(self, row: Row) -> None:
        before, after = row.accuracies
        self.console.print(f"\nAccuracy {before:.1%}, and {after:.1%} after training on.")
        self.rows.append(row)

    def untouched(self) -> None:
        """The network still says, to the last bit, what it said before the first edit."""
        now = self.model.predict(self.test.x, verbose=0)
        assert np.array_equal(now, self.logits), "an edit has changed its source"

    def title(self, text: str) -> None:
        self.console.print()
        self.console.rule(text, align="left", characters="-")

    def table(self) -> Table:
        table = Table(title="\nOne trained network, six edits", title_justify="left", box=None)
        table.add_column("model")
        for column in ("accuracy, as edited", "trained on", "parameters", "size of the weights"):
            table.add_column(column, justify="right")
        for row in self.rows:
            before, after = row.accuracies
            size = sum(np.asarray(w.numpy()).nbytes for w in row.model.weights)
            table.add_row(
                row.edit,
                f"{before:.1%}",
                f"{after:.1%}",
                f"{row.model.count_params():,}",
                f"{size / 1000:.0f} kB",
            )
        return table


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """Trains with what the model was compiled with: the optimizer goes on where it was."""
    model.fit(x, y, batch_size=digits.BATCH, epochs=epochs, verbose=0)


def score(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right answers."""
    answers = model.predict(x, batch_size=len(x), verbose=0).argmax(axis=-1)
    return float(np.mean(answers == y))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the demo from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the first training")
    options = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    Demo(options.epochs).run()


if __name__ == "__main__":
    main()
