"""Weights that go on in a model that is made otherwise.

transfer       into any model, from a model or a file
alignment      what was matched, and how
weight_files   what lies in `.weights.h5` files
reconfigure    into the same class with another configuration
fields         configurations, and the blocks that they count
heirs          which layer of the one is which of the other
"""
