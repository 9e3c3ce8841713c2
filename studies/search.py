"""How much does a search over variants help a network that overfits?

    python studies/search.py          minutes on two cores
    python studies/search.py --quick  seconds, to see that it runs

A residual network of dense blocks is to learn scikit-learn's digits from 200 images, which it knows
by heart long before it is through. From each of several seeds a search tries variants of it: up to
four of its six blocks removed, dropout behind each block, normalization behind all of them; each
trained from the same initial weights for the same number of epochs, and judged by the loss on
validation images. Optuna's TPE stands beside random search with the same number of variants, and
beside the original: at the end of its training, and at the epoch of its lowest validation loss.
Test images are seen by nothing but the table.

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
# Variants of the same graph are compiled once, whatever their weights.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/resect-studies")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import resect
from resect.search import Dropout, FineTune, Normalization, Remove, Trials

BATCH = 50

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """How large the study is.

    Attributes:
        seeds: Each a network, and a choice of training images.
        blocks: Residual blocks.
        units: Of each layer.
        epochs: Of every training.
        trials: Variants that each search trains.
    """

    seeds: int = 5
    blocks: int = 6
    units: int = 128
    epochs: int = 30
    trials: int = 16


QUICK = Setting(seeds=2, blocks=2, units=8, epochs=2, trials=2)


@dataclass(frozen=True)
class Data:
    """Images `(images, 64)` and the digits that they show."""

    train: Pair
    validation: Pair
    test: Pair


def load(seed: int) -> Data:
    """200 images to train on, 400 to judge by, and 1,150 to test with."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, train_size=600, random_state=seed, stratify=y)
    x, x_val, y, y_val = train_test_split(x, y, train_size=200, random_state=seed, stratify=y)
    return Data((x, y), (x_val, y_val), (x_test[:1150], y_test[:1150]))


def network(setting: Setting, seed: int) -> keras.Model:
    """Dense blocks with a wire around each, compiled; its weights are initial ones."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((64,), name="image")
    x = layers.Dense(setting.units, activation="relu", name="stem")(x)
    for number in range(setting.blocks):
        y = layers.Dense(setting.units, activation="relu", name=f"up_{number}")(x)
        y = layers.Dense(setting.units, name=f"down_{number}")(y)
        x = layers.Add(name=f"block_{number}")([x, y])
    model = keras.Model(image, layers.Dense(10, name="digit")(x), name="digits")
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def space(setting: Setting) -> list:
    """What a variant may differ in."""
    return [
        Remove(at_most=setting.blocks * 2 // 3),
        Dropout(after="block_*", rates=(0.0, 0.1, 0.2, 0.3, 0.5)),
        Normalization(after="block_*", kinds=(None, "batch", "layer"), together=True),
    ]


@dataclass(frozen=True)
class Result:
    """Loss and accuracy of one network of one seed.

    Attributes:
        validation: Loss on what it was chosen by.
        test: Loss on what nobody has seen.
        accuracy: Likewise, in percent.
        parameters: Number of weights.
    """

    validation: float
    test: float
    accuracy: float
    parameters: int


def judged(model: keras.Model, data: Data) -> Result:
    """What a trained network is worth."""
    test = model.evaluate(*data.test, batch_size=BATCH, verbose=0, return_dict=True)
    validation = model.evaluate(*data.validation, batch_size=BATCH, verbose=0, return_dict=True)
    accuracy = 100 * test["accuracy"]
    return Result(validation["loss"], test["loss"], accuracy, model.count_params())


def at_its_best(model: keras.Model, data: Data, epochs: int, seed: int) -> Result:
    """The original as it was after the epoch of its lowest validation loss."""
    keras.utils.set_random_seed(seed)
    trained = resect.clone(model)
    stop = keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    trained.fit(
        *data.train, batch_size=BATCH, epochs=epochs, validation_data=data.validation,
        validation_batch_size=BATCH, callbacks=[stop], verbose=0,
    )  # fmt: skip
    return judged(trained, data)


Results = Mapping[str, Sequence[Result]]
Searches = Mapping[str, Sequence[tuple[Trials, float]]]


def run(setting: Setting) -> tuple[Results, Searches]:
    """The original and both searches, from every seed."""
    results: dict[str, list[Result]] = {}
    searches: dict[str, list[tuple[Trials, float]]] = {}
    for seed in range(setting.seeds):
        data, model = load(seed), network(setting, seed)
        for sampler in ("random", "tpe"):
            begin = time.perf_counter()
            found = resect.search(
                model, space(setting), FineTune(setting.epochs), data=data.train,
                validation=data.validation, trials=setting.trials, sampler=sampler, seed=seed,
                storage=None, batch_size=BATCH,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            searches.setdefault(sampler, []).append((found, seconds))
            if sampler == "random":
                original = judged(found.model(found.original), data)
                results.setdefault("as it is", []).append(original)
                best = at_its_best(model, data, setting.epochs, seed)
                results.setdefault("as it is, at its best epoch", []).append(best)
            results.setdefault(NAMES[sampler], []).append(judged(found.model(), data))
            print(f"seed {seed}, {sampler}: {seconds:.0f} s", flush=True)
    return results, searches


NAMES = {"random": "best of random search", "tpe": "best of TPE"}


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def table(results: Results) -> str:
    """What became of the network, as Markdown."""
    lines = [
        "| network | validation loss | test loss | test accuracy, % | parameters |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found in results.items():
        cells = [
            spread([each.validation for each in found], 3),
            spread([each.test for each in found], 3),
            spread([each.accuracy for each in found], 1),
            f"{statistics.mean(each.parameters for each in found):,.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def effort(searches: Searches) -> str:
    """What the searches did, as Markdown."""
    lines = [
        "| search | trained to the end | stopped early | not trained again | seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for sampler, found in searches.items():
        counts = [
            statistics.mean(sum(t.kind == kind for t in trials) for trials, _ in found)
            for kind in ("done", "stopped", "repeated")
        ]
        seconds = statistics.mean(seconds for _, seconds in found)
        cells = [f"{count:.1f}" for count in counts]
        lines.append(f"| {sampler} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def choices(searches: Searches) -> str:
    """What the best variant of every search is, as Markdown."""
    lines = ["| seed | " + " | ".join(searches) + " |", "| ---: |" + " --- |" * len(searches)]
    for seed in range(len(next(iter(searches.values())))):
        cells = [said(found[seed][0]) for found in searches.values()]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def said(found: Trials) -> str:
    """The best variant in words."""
    best = found.best()
    if best.number < 0:
        return "the original"
    gone = sorted({v for k, v in best.params.items() if k.startswith("remove ")})
    rates = [v for k, v in best.params.items() if k.startswith("dropout ") and v]
    kind = best.params["normalization"] or "no"
    numbers = " ".join(name.split("_")[1] for name in gone) or "none"
    dropped = ", ".join(f"{rate:g}" for rate in rates) or "none"
    return f"gone: {numbers}; dropout: {dropped}; {kind} normalization"


def picture(searches: Searches, path: Path) -> None:
    """The lowest validation loss so far, against the number of variants that were trained."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for sampler, found in searches.items():
        curves = [best_so_far(trials) for trials, _ in found]
        length = min(map(len, curves))
        mean = np.mean([curve[:length] for curve in curves], axis=0)
        around = np.std([curve[:length] for curve in curves], axis=0, ddof=1)
        (line,) = axes.plot(range(length), mean, label=sampler)
        axes.fill_between(
            range(length), mean - around, mean + around, color=line.get_color(), alpha=0.12
        )
    axes.set(xlabel="variants trained", ylabel="lowest validation loss", title="Search on digits")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def best_so_far(trials: Trials) -> list[float]:
    """The lowest loss after each variant; the first is the original's."""
    found = [trials.original.numbers["loss"]]
    for trial in trials:
        if trial.kind in ("done", "stopped", "failed"):
            found.append(min(found[-1], trial.numbers.get("loss", float("inf"))))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network, two variants")
    parser.add_argument("--picture", type=Path, help="where a picture goes, such as search.png")
    options = parser.parse_args(argv)
    setting = QUICK if options.quick else Setting()
    begin = time.perf_counter()
    results, searches = run(setting)
    print(f"\nMean ± standard deviation of {setting.seeds} seeds:\n")
    print(table(results))
    print(f"\nSearches for {setting.trials} variants, means of the seeds:\n")
    print(effort(searches))
    print("\nThe best variants:\n")
    print(choices(searches))
    if options.picture:
        picture(searches, options.picture)
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} seconds on {keras.backend.backend()}, {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
