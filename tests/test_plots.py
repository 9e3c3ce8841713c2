"""Pictures: what is drawn is what was given."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from resect import SurgeryError
from resect.importance import Importance, Ranked, Similarity

pytest.importorskip("matplotlib", reason='pictures need matplotlib: pip install "resect[plots]"')
from matplotlib.text import Text

from resect import plots
from resect.plots.fronts import front

pytestmark = pytest.mark.nobackend
nan = math.nan


def names(count: int) -> list[str]:
    return [f"encoder/transformer_layer_{i}" for i in range(count)]


def boxes(ax):
    """Where the texts of points stand, in pixels."""
    ax.figure.draw_without_rendering()
    texts = [t for t in ax.texts if t.get_text() in names(48)]
    return [Text.get_window_extent(t) for t in texts]  # without the line to its point


class TestBars:
    def test_each_number_is_a_bar_of_that_length_from_the_top_down(self):
        ax = plots.bars(["a", "b", "c"], [0.5, -1.5, nan])
        assert [bar.get_width() for bar in ax.patches][:2] == [0.5, -1.5]
        tops = [bar.get_y() for bar in ax.patches]
        assert tops == sorted(tops)
        assert ax.yaxis_inverted()

    def test_intervals_are_drawn_where_there_are_any(self):
        ax = plots.bars(["a", "b"], [0.5, 1.5], [0.4, nan], [0.7, nan])
        drawn = [tuple(line.get_xdata()) for line in ax.lines]
        assert (0.4, 0.7) in drawn
        assert not any(np.isnan(np.asarray(ends, "float")).any() for ends in drawn)

    def test_different_lengths_are_refused(self):
        with pytest.raises(ValueError, match="2 names, 1 values"):
            plots.bars(["a", "b"], [1.0])

    def test_a_figure_with_many_bars_is_higher(self):
        few, many = (plots.bars(names(n), range(n)).figure for n in (3, 48))
        assert many.get_figheight() > 3 * few.get_figheight()


class TestScatter:
    @pytest.mark.parametrize("count", [3, 16, 48])
    def test_no_name_lies_on_another(self, count: int):
        rng = np.random.default_rng(0)
        ax = plots.scatter(rng.normal(size=count), rng.normal(size=count), names(count))
        found = boxes(ax)
        assert len(found) > 2
        assert not any(a.overlaps(b) for i, a in enumerate(found) for b in found[:i])

    def test_names_without_room_are_counted(self):
        ax = plots.scatter([0.0] * 48, [0.0] * 48, names(48))
        left = 48 - len(boxes(ax))
        assert left > 0
        assert any(t.get_text() == f"{left} more names do not fit" for t in ax.texts)

    def test_a_point_without_a_place_is_not_named(self):
        ax = plots.scatter([1, 2], [1, nan], ["here", "nowhere"])
        assert [t.get_text() for t in ax.texts] == ["here"]


class TestMatrix:
    def test_cells_without_a_number_stay_blank(self):
        ax = plots.matrix(["a", "b"], ["c"], [[0.5], [nan]])
        assert ax.images[0].get_array().mask.tolist() == [[False], [True]]

    def test_a_row_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match="1 columns, 2 values"):
            plots.matrix(["a"], ["b"], [[1, 2]])


class TestFront:
    @pytest.mark.parametrize(
        "better", [(a, b) for a in ("lower", "higher") for b in ("lower", "higher")]
    )
    def test_it_is_what_no_other_point_beats(self, better):
        rng = np.random.default_rng(1)
        points = [tuple(map(float, p)) for p in rng.integers(0, 6, (40, 2))]
        signs = np.array([1 if way == "lower" else -1 for way in better])
        costs = np.array(points) * signs

        def beaten(i: int) -> bool:
            less, equal = (costs <= costs[i]).all(1), (costs == costs[i]).all(1)
            return bool((less & ~equal).any())

        expected = {i for i in range(40) if not beaten(i)}
        found = front(points, better)
        assert set(found) == expected
        assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)

    def test_what_is_not_a_number_is_not_in_it(self):
        assert front([(nan, 0), (1, 1), (2, nan)]) == (1,)

    def test_another_way_is_refused(self):
        with pytest.raises(ValueError, match="'lower' or 'higher'"):
            front([(0, 0)], better=("lower", "more"))  # type: ignore[arg-type]


class TestPareto:
    def test_the_path_goes_through_its_points_in_order(self):
        points = [(4.0, 0.9), (3.0, 0.92), (2.0, 0.85), (3.5, 0.7)]
        ax = plots.pareto(points, path=[0, 1, 2], better=("lower", "higher"))
        ways = [list(zip(*line.get_data(), strict=True)) for line in ax.lines]
        assert points[:3] in ways

    @pytest.mark.parametrize(
        "better", [(a, b) for a in ("lower", "higher") for b in ("lower", "higher")]
    )
    def test_nothing_lies_on_the_better_side_of_the_steps(self, better):
        rng = np.random.default_rng(2)
        points = [tuple(map(float, p)) for p in rng.normal(size=(30, 2))]
        ax = plots.pareto(points, better=better)
        (steps,) = (line for line in ax.lines if line.get_drawstyle().startswith("steps"))
        corners = set(zip(*steps.get_data(), strict=True))
        assert {points[i] for i in front(points, better)} <= corners


def found(method="ablation", **fields) -> Importance:
    rows = (
        Ranked("a", ("x", "a"), 0.2, 0.1, 0.3, parameters=10, multiply_adds=2_000_000),
        Ranked("b", ("a", "b"), -0.1, nan, nan, parameters=30, multiply_adds=None),
    )
    return Importance("Functional 'net'", method, rows, samples=8, batches=1, **fields)


class TestImportance:
    def test_bars_in_the_order_of_importance(self):
        ax = found().plot()
        assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a"]
        assert ax.get_title() == "Functional 'net'"
        assert [t.get_text() for t in found().plot(sort=None, limit=1).get_yticklabels()] == ["a"]

    def test_costs_that_are_known(self):
        assert [t.get_text() for t in found().plot_costs().texts] == ["a"]
        assert {t.get_text() for t in found().plot_costs("parameters").texts} == {"a", "b"}

    def test_no_cost_is_known(self):
        rows = (Ranked("a", ("x", "a"), 0.2, 0.1, 0.3),)
        with pytest.raises(SurgeryError, match="multiply-adds of no block"):
            Importance("net", "ablation", rows, 8, 1).plot_costs()

    def test_similarity(self):
        table = Similarity(("a", "b"), ("a", "b"), ((1.0, 0.5), (nan, 1.0)))
        ax = found("cka", similarity=table).plot_similarity()
        assert ax.images[0].get_array().filled(-1).tolist() == [[1.0, 0.5], [-1.0, 1.0]]

    def test_no_similarity(self):
        with pytest.raises(SurgeryError, match='By "ablation" there is no table'):
            found().plot_similarity()

    def test_on_axes_of_ones_own(self):
        from matplotlib.figure import Figure

        ax = Figure().subplots()
        assert found().plot(ax=ax) is ax


def test_nothing_global_is_touched():
    from matplotlib import pyplot

    plots.bars(["a"], [1.0])
    assert pyplot.get_fignums() == []


def test_a_notebook_shows_a_picture():
    picture = plots.bars(["a"], [1.0])._repr_png_()
    assert picture.startswith(b"\x89PNG")


def test_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "resect.plots.pictures", raising=False)
    with pytest.raises(SurgeryError, match=r"resect\[plots\]"):
        plots.bars(["a"], [1.0])
