"""Values of models as bytes; JSON, and what differs between two pieces of it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from resect.training.values import Values

_DIGEST = re.compile("[0-9a-f]{64}")


def packed(values: Values) -> bytes:
    """Values as the bytes of an `.npz` file."""
    buffer = io.BytesIO()
    arrays = {f"v{i}": array for i, array in enumerate(values.arrays)}
    arrays |= {f"o{i}": array for i, array in enumerate(values.optimizer)}
    arrays["paths"] = np.asarray(values.paths, dtype=np.str_)
    arrays["started"] = np.asarray(values.started)
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def unpacked(data: bytes) -> Values:
    """The values that `packed` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        names = set(found.files) - {"paths", "started"}
        return Values(
            tuple(str(path) for path in found["paths"]),
            tuple(found[f"v{i}"] for i in range(sum(n.startswith("v") for n in names))),
            tuple(found[f"o{i}"] for i in range(sum(n.startswith("o") for n in names))),
            bool(found["started"]),
        )


def differences(was: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two pieces of JSON, in words.

    Example:

    >>> list(differences({"seed": 0, "data": {"kind": "tuple"}}, {"seed": 1, "data": {}}))
    ['seed was 0 and is 1', "data kind was 'tuple' and is None"]
    """
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            yield from differences(was.get(key), now.get(key), f"{name} {key}".strip())
    elif was != now:
        digests = all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in (was, now))
        yield f"{name} differs" if digests else f"{name} was {was!r} and is {now!r}"


def without_nan(value: Any) -> Any:
    """A piece of JSON with `None` for what is no finite number, of which JSON knows nothing.

    Example:

    >>> without_nan({"loss": [1.0, float("nan")]})
    {'loss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
