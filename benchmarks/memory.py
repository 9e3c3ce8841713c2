"""Peak memory of an independent copy, in a process of its own.

Counted is the highest resident size during the edit (`VmHWM`, reset before) beyond the resident
size just before it, when what the allocator holds without need has been given back. A small model
has been edited before, so that code and compiled operations do not count.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Row

MODEL = "EfficientNetV2L"
BAR = 1.15

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def rows(runs: int) -> Iterator[Row]:
    """The one row; Linux only."""
    work = f"{MODEL}: peak memory of an independent copy"
    if not CLEAR.exists():
        yield Row(work, "not measured: needs Linux", "bytes of the weights")
        return
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory"]
    found = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    ratio = found["peak"] / found["weights"]
    megabytes = {key: f"{value / 1e6:.0f} MB" for key, value in found.items()}
    yield Row(
        work,
        f"{megabytes['peak']} ({megabytes['after']} stay)",
        f"bytes of the weights: {megabytes['weights']}",
        ratio,
        f"at most {BAR:g}x",
        ratio <= BAR,
    )


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure() -> dict[str, int]:
    """Bytes: of the weights, at the peak of the edit, and after it, both beyond the source."""
    import keras

    import resect
    from benchmarks.copies import source

    def edit(model: keras.Model, middle: str) -> keras.Model:
        return resect.insert(model, keras.layers.Dropout(0.25), after=middle)

    edit(*source("MobileNetV2"))
    model, middle = source(MODEL)
    resect.read(model)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    CLEAR.write_text("5")
    new = edit(model, middle)
    peak, after = _resident("VmHWM") - before, _resident("VmRSS") - before
    weights = sum(v.value.nbytes if hasattr(v.value, "nbytes") else _nbytes(v) for v in new.weights)
    return {"weights": weights, "peak": peak, "after": after}


def _nbytes(variable: object) -> int:
    import keras

    return keras.ops.convert_to_numpy(variable).nbytes


if __name__ == "__main__":
    print(json.dumps(measure()))
