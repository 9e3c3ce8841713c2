"""What every test and every doctest gets: one backend, one thread, one seed.

This file is at the root, and not in `tests/`, so that the doctests of `src/resect` get it too.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The models are small, and processes run side by side. One thread each is fastest, and sums in the
# same order every time. Read by the libraries as they are imported, so set before that.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# JAX compiles every new shape, and here that is most of what there is to do: code that is made
# quickly serves better than code that runs quickly. XLA ends the process for flags unknown to it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["KERAS_BACKEND"] == "jax":
    _FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", _FLAGS)

import gc

import hypothesis
import pytest

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skip-nobackend", action="store_true", help="leave out `nobackend` tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--skip-nobackend"):
        without = [item for item in items if item.get_closest_marker("nobackend")]
        items[:] = [item for item in items if not item.get_closest_marker("nobackend")]
        config.hook.pytest_deselected(items=without)


@pytest.fixture
def backend() -> str:
    """Name of the backend under test: `"jax"`, `"tensorflow"` or `"torch"`."""
    import keras

    return keras.backend.backend()


@pytest.fixture(autouse=True)
def _fresh_keras(request: pytest.FixtureRequest) -> None:
    """Starts each test from the same seed, the same layer names and the default dtype policy."""
    if request.node.get_closest_marker("nobackend"):
        return
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


#: So many tests share what JAX has compiled. Linux lets a process map 65,530 pieces of memory; each
#: compiled function takes some, and the compiler crashes where none are left.
_TESTS_BETWEEN_CLEARINGS = 400


@pytest.fixture(scope="session")
def _tests_so_far() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def _room_to_compile(request: pytest.FixtureRequest, _tests_so_far: list[str]) -> None:
    """Lets go of what JAX has compiled from time to time."""
    _tests_so_far.append(request.node.name)
    if len(_tests_so_far) % _TESTS_BETWEEN_CLEARINGS or os.environ["KERAS_BACKEND"] != "jax":
        return
    import jax

    jax.clear_caches()
    gc.collect()
