"""The study of digits runs to its end, and prints the tables that stand in docs/studies.md."""

from __future__ import annotations

import re

import pytest

from tests.studies.common import study


@pytest.mark.slow
def test_the_quick_study_prints_both_tables_and_draws(tmp_path, monkeypatch, capsys, backend):
    if backend != "torch":
        pytest.skip("that it runs is seen on one backend, and PyTorch compiles nothing")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "digits.png"
    study("digits", monkeypatch).main(["--quick", "--picture", str(picture)])
    printed = capsys.readouterr().out
    row = r"\| {} \| [\d,]+ \| \d\.\d+ M \|( \d+\.\d ± \d+\.\d \|){{5}}"
    assert all(re.search(row.format(step), printed) for step in (0, 1))
    assert len(re.findall(r"^\| [01] \|( \d \|){5}$", printed, re.MULTILINE)) == 2
    assert picture.stat().st_size > 1000
