"""Regenerates the generated pages: the support table, and what README shows of it.

    python -m tools.docs

The pages on the zoo and on the benchmarks take long runs: `python -m zoo --help` and
`python -m benchmarks --help` say how to write them from saved results.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    """Runs the tools one after the other; the first that fails ends it."""
    for module in ("tools.support", "tools.readme"):
        subprocess.run([sys.executable, "-m", module], check=True)


if __name__ == "__main__":
    main()
