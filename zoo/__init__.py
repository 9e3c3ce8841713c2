"""Models to test surgery on: published architectures, with random weights.

`zoo.models` lists them; `zoo.randomise` gives any model non-trivial weights and inputs; both need
Keras (and KerasHub for its backbones) and nothing else of this project. `python -m zoo` checks
surgery on them. Nothing is ever downloaded.
"""
