"""The tests. A package, so that the kinds of models can be imported as `tests.kinds`."""
