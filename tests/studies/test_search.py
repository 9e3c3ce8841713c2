"""The study of search runs to its end, and prints the tables that stand in docs/studies.md."""

from __future__ import annotations

import re

import pytest

from tests.studies.common import study


@pytest.mark.slow
def test_the_quick_study_prints_its_tables_and_draws(tmp_path, monkeypatch, capsys, backend):
    if backend != "torch":
        pytest.skip("that it runs is seen on one backend, and PyTorch compiles nothing")
    pytest.importorskip("matplotlib")
    pytest.importorskip("optuna")
    picture = tmp_path / "search.png"
    study("search", monkeypatch).main(["--quick", "--picture", str(picture)])
    printed = capsys.readouterr().out
    number = r" \d+\.\d+ ± \d+\.\d+ \|"
    rows = ("as it is", "as it is, at its best epoch", "best of random search", "best of TPE")
    assert all(re.search(rf"\| {row} \|{number * 3} [\d,]+ \|", printed) for row in rows)
    assert re.search(r"\| tpe \|( \d+\.\d \|){3} \d+ \|", printed)
    assert len(re.findall(r"^\| [01] \| .* \| .* \|$", printed, re.MULTILINE)) == 2
    assert picture.stat().st_size > 1000
