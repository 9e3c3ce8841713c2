"""Everything that touches Keras's private structures.

private      the private names, all in one place
reading      a Keras model -> Graph
inferring    an edited Graph -> the same with every shape known, or what does not fit
asking       what a call returns for the shapes that it is given: Keras's own answer
writing      Graph -> a Keras model
copying      exact copies of layers, without their constructors
rebuilding   the same for another shape or configuration, around the same variables
attributes   exact copies of what objects hold, by type
making       layers that the source does not have
projecting   the layer that turns one shape into another
state        which variables a layer has, and how another takes them over
values       tensors and storage, on each backend
training     compile configurations and optimizers
tracing      a subclassed model -> Graph
blueprints   layers and models as data that can be pickled, and back
custom_objects  the classes and functions that a configuration names
compilations compile configurations and optimizers as such data
units        the layers of any model that hold variables, in order
layer_tracing, layer_running, causal  a call of a layer -> Graph
mask_calls   the calls behind a mask that Keras made by itself
symbolic     one run of a `call` on symbolic tensors
trace_checks what a trace would get silently wrong
snapshots    what a model was, to show that it still is
"""
