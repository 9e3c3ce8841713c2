"""The declarations of the project agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.nobackend

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    """What a constraints file pins, by package."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_oldest_keras_is_the_one_that_is_tested():
    (declared,) = (need for need in PROJECT["dependencies"] if need.startswith("keras"))
    tested = pins("constraints-min.txt")["keras"]
    assert declared.removeprefix("keras>=") + ".0" == tested


def test_everything_that_is_installed_is_pinned():
    extras = PROJECT["optional-dependencies"]
    needs = [*PROJECT["dependencies"], *(need for extra in extras.values() for need in extra)]
    names = {re.split(r"[\[<>=~]", need)[0] for need in needs} - {PROJECT["name"]}
    assert names <= pins("constraints-dev.txt").keys()


def test_both_constraints_agree_but_for_keras_and_what_it_holds_back():
    newest, oldest = pins("constraints-dev.txt"), pins("constraints-min.txt")
    assert oldest.keys() <= newest.keys()
    differing = {name for name in oldest if oldest[name] != newest[name]}
    assert differing == {"keras", "tensorflow"}


def test_the_package_is_marked_as_typed():
    assert (ROOT / "src" / "resect" / "py.typed").is_file()
