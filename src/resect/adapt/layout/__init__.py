"""The other data format: every tensor in one order of axes or another.

data_format   the edit
relayout      a graph, taken to another layout
decisions     what each layer and each nested model does
wants         where which layout will be wanted
answers       what a call becomes
rules         ... by the class of its layer
operations    ... by the operation
layouts       orders of axes, as values
"""
