"""The examples run to their end."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_the_demo_makes_six_edits_and_says_what_came_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(EXAMPLES)
    importlib.import_module("demo").main(["--epochs", "1"])
    printed = capsys.readouterr().out
    assert (
        printed.count("\nPlan for Functional 'digits'\n") == 7
    )  # a plan for each half of the split
    assert printed.count("\nVerified ") == 7
    assert "FAILED" not in printed
    table = printed.partition("One trained network, six edits")[2]
    assert len(re.findall(r"\d% +\d+\.\d% +[\d,]+ +\d+ kB", table)) == 7
