"""How far can a residual network for digits be shrunk, and what does recovery bring?

    python studies/digits.py          minutes on two cores
    python studies/digits.py --quick  seconds, to see that it runs

A residual network of six blocks is trained on scikit-learn's digits, from five seeds. From each,
five blocks are taken out, one by one: the least important by ablation on the training images, with
no recovery, with fine-tuning and with distillation from the original; and in random order, with and
without fine-tuning, for comparison. Test images are seen by nothing but the tables.

The data: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI machine
learning repository, 1998.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Networks with the same blocks left are compiled once, whatever their weights.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/resect-studies")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import resect
from resect.shrink import Distill, FineTune

BATCH = 64
RATE = 5e-4  # of recovery; the first training begins with 3e-3


@dataclass(frozen=True)
class Setting:
    """How large the study is.

    Attributes:
        seeds: Each a network.
        blocks: Residual blocks.
        filters: Channels of each convolution.
        epochs: Of the first training.
        recovery: Epochs after each removal.
        removals: Blocks that go.
    """

    seeds: int = 5
    blocks: int = 6
    filters: int = 16
    epochs: int = 16
    recovery: int = 2
    removals: int = 5


QUICK = Setting(seeds=2, blocks=3, filters=4, epochs=1, recovery=1, removals=1)


@dataclass(frozen=True)
class Split:
    """Images `(images, 8, 8, 1)` and the digits that they show."""

    x: np.ndarray
    y: np.ndarray

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x, self.y


def load() -> tuple[Split, Split]:
    """1,344 images to train on, and 448 to test with: 21 and 7 whole batches."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, train_size=21 * BATCH, random_state=0, stratify=y)
    return Split(x, y), Split(x_test[: 7 * BATCH], y_test[: 7 * BATCH])


def network(setting: Setting) -> keras.Model:
    """A residual network, activated before each convolution, compiled."""
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(setting.filters, 3, padding="same", name="stem")(image)
    for number in range(setting.blocks):
        if number == setting.blocks // 2:
            x = layers.AveragePooling2D(2, name="halve")(x)
        x = block(x, f"block_{number}")
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="last_relu")(x))
    model = keras.Model(image, layers.Dense(10, name="digit")(x), name="digits")
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Two convolutions, and a wire around them."""
    y = x
    for half in ("a", "b"):
        y = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm_{half}")(y)
        y = layers.ReLU(name=f"{name}_relu_{half}")(y)
        y = layers.Conv2D(x.shape[-1], 3, padding="same", name=f"{name}_conv_{half}")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def trained(setting: Setting, train: Split, seed: int) -> keras.Model:
    """A network, trained from scratch, its learning rate lowered twice."""
    keras.utils.set_random_seed(seed)
    model = network(setting)
    for share, rate in ((0.5, 3e-3), (0.3, 1e-3), (0.2, RATE)):
        model.optimizer.learning_rate = rate
        epochs = max(1, round(share * setting.epochs))
        model.fit(*train.pair, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def ways(setting: Setting) -> dict[str, dict]:
    """How each network is shrunk, by name."""
    fit, distill = FineTune(setting.recovery), Distill(setting.recovery, temperature=4.0, alpha=0.7)
    return {
        "no recovery": dict(),
        "fine-tuned": dict(recover=fit),
        "distilled": dict(recover=distill),
        "random order": dict(method="random"),
        "random, fine-tuned": dict(method="random", recover=fit),
    }


Runs = Mapping[str, Sequence[resect.Shrunk]]


def run(setting: Setting, train: Split, test: Split) -> Runs:
    """Every way from every seed."""
    found: dict[str, list[resect.Shrunk]] = {name: [] for name in ways(setting)}
    for seed in range(setting.seeds):
        model = trained(setting, train, seed)
        part = resect.blocks(model).level("block")[0]
        cost = model.count_params() - resect.collapse(model, *part.ends).count_params()
        target = {"parameters": model.count_params() - setting.removals * cost}
        for name, how in ways(setting).items():
            begin = time.perf_counter()
            result = resect.shrink(
                model, train.pair, target=target, validation=test.pair, seed=seed,
                batch_size=BATCH, **how,
            )  # fmt: skip
            found[name].append(result)
            print(f"seed {seed}, {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return found


def accuracies(runs: Sequence[resect.Shrunk], step: int) -> list[float]:
    """Test accuracy in percent after so many removals, for each seed."""
    return [100 * result[step].after["accuracy"] for result in runs]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(found: Runs) -> str:
    """Accuracy after each removal, as Markdown."""
    names = list(found)
    first = found[names[0]][0]
    lines = [
        f"| blocks gone | parameters | multiply-adds | {' | '.join(names)} |",
        f"| ---: | ---: | ---: | {' | '.join('---:' for _ in names)} |",
    ]
    for step in range(len(first)):
        arithmetic = statistics.mean(r[step].multiply_adds or 0 for r in found[names[0]])
        cells = [spread(accuracies(runs, step)) for runs in found.values()]
        lines.append(
            f"| {step} | {first[step].parameters:,} | {arithmetic / 1e6:.2f} M | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


def orders(found: Runs) -> str:
    """Which blocks went, in which order, as Markdown."""
    lines = ["| seed | " + " | ".join(found) + " |", "| ---: |" + " --- |" * len(found)]
    for seed in range(len(next(iter(found.values())))):
        cells = [
            " ".join(name.split("_")[1] for name in runs[seed].removed) for runs in found.values()
        ]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(found: Runs, path: Path) -> None:
    """Accuracy against what is left of the parameters: means, and a standard deviation around."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, runs in found.items():
        steps = range(len(runs[0]))
        x = [runs[0][step].parameters for step in steps]
        means = np.array([statistics.mean(accuracies(runs, step)) for step in steps])
        around = np.array([statistics.stdev(accuracies(runs, step)) for step in steps])
        style = "--" if name.startswith("random") else "-"
        (line,) = axes.plot(x, means, style, marker="o", markersize=4, label=name)
        axes.fill_between(x, means - around, means + around, color=line.get_color(), alpha=0.12)
    axes.set(xlabel="parameters", ylabel="test accuracy, %", title="Blocks removed one by one")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network, one removal")
    parser.add_argument("--picture", type=Path, help="where a picture goes, such as digits.png")
    options = parser.parse_args(argv)
    setting = QUICK if options.quick else Setting()
    begin = time.perf_counter()
    train, test = load()
    if options.quick:
        train, test = (
            Split(*(a[: 2 * BATCH] for a in train.pair)),
            Split(*(a[:BATCH] for a in test.pair)),
        )
    found = run(setting, train, test)
    print(f"\nTest accuracy in %, mean ± standard deviation of {setting.seeds} seeds:\n")
    print(table(found))
    print("\nBlocks in the order in which they went:\n")
    print(orders(found))
    if options.picture:
        picture(found, options.picture)
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} seconds on {keras.backend.backend()}, {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
