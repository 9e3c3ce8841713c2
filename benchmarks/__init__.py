"""How fast resect is, measured side by side with what one would write by hand.

    python -m benchmarks                        all rows, on the backend that KERAS_BACKEND names
    python -m benchmarks --only copy share      some of them
    python -m benchmarks --save jax.json        with the results kept, for --page
    python -m benchmarks --page benchmarks.md jax.json tensorflow.json torch.json

Nothing here is a test: times depend on the machine, and ratios on what else it does.
"""
