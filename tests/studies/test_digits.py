"""The study of digits runs to its end, and prints the tables that stand in docs/studies.md."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).parent.parent.parent / "studies"


@pytest.mark.slow
def test_the_quick_study_prints_both_tables_and_draws(tmp_path, monkeypatch, capsys, backend):
    if backend != "torch":
        pytest.skip("that it runs is seen on one backend, and PyTorch compiles nothing")
    spec = importlib.util.spec_from_file_location("studies_digits", STUDIES / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "0")  # what the study sets, it sets for this test only
    spec.loader.exec_module(module)
    picture = tmp_path / "digits.png"
    pytest.importorskip("matplotlib")
    module.main(["--quick", "--picture", str(picture)])
    printed = capsys.readouterr().out
    row = r"\| {} \| [\d,]+ \| \d\.\d+ M \|( \d+\.\d ± \d+\.\d \|){{5}}"
    assert all(re.search(row.format(step), printed) for step in (0, 1))
    assert len(re.findall(r"^\| [01] \|( \d \|){5}$", printed, re.MULTILINE)) == 2
    assert picture.stat().st_size > 1000
