"""Models to test surgery on: published architectures, with random weights.

`zoo.models` lists them; `zoo.randomise` gives any model non-trivial weights and inputs. The package needs Keras
(and KerasHub for its backbones), and nothing else of this project, so it can be used from tests, benchmarks and
documentation alike. Nothing is ever downloaded.
"""
