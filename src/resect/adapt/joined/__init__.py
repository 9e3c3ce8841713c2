"""Two models in one.

join      behind one another, side by side, a region of one in the other
joining   the layers of another model in a graph
regions   what lies between two calls
"""
