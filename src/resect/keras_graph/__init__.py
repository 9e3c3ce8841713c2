"""Everything that touches Keras's private structures.

private      the private names, all in one place
reading      a Keras model -> Graph
inferring    an edited Graph -> the same with every shape known, or what does not fit
writing      Graph -> a Keras model
copying      exact copies of layers, without their constructors
making       layers that the source does not have
projecting   the layer that turns one shape into another
state        which variables a layer has, and how another takes them over
values       tensors and storage, on each backend
training     compile configurations and optimizers
tracing      a subclassed model -> Graph
snapshots    what a model was, to show that it still is
"""
