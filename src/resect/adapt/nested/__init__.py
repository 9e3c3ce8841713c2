"""Models and layers within a graph, opened: their calls become calls of the graph.

flatten             nested models
inline              composite layers
opening             calls of composite layers become calls of models
inlining            models become calls: what is dissolved
dissolving          their calls, written into one graph
inputs              what converts what they are given
naming              the names of their layers
masks               masks that they handed on
training_argument   the mode that they were called with
check               a trace, run beside the layer that it is of
"""
