"""What tests of studies share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

STUDIES = Path(__file__).parent.parent.parent / "studies"


def study(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A study as a module; what it sets in the environment, it sets for this test only."""
    spec = importlib.util.spec_from_file_location(f"studies_{name}", STUDIES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    for variable in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec.loader.exec_module(module)
    return module
