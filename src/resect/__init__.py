"""resect: model surgery for Keras 3.

Right, or refused: an edit gives a new model that computes exactly what the edited graph means,
with the original weights, or raises an error that names the layer, the reason and the repair.

    read        the graph of a model; print it
    clone       an exact, independent copy
    pop         the last layers off
    remove      layers out of the middle
    truncate    the model from here on, up to there
    split       cut in two, at any place
    insert      layers in
    replace     layers swapped
    append      layers behind the output
    prepend     layers behind the input
    collapse    a region becomes a wire
    rename      other names
    functional  a subclassed model as a Functional one
    plan        several edits, to be read before anything happens
    verify      numbers, not hope
    blocks      regions with one tensor in and one out, from calls to stages
    profile     what each call costs: parameters, multiply-adds, memory, time
    cost        what profile counts, and rules for layers of one's own
    importance  what each block is worth, on data
    plots       pictures of it
    parallel    jobs on several processes and machines
    shrink      the least important blocks out, until a target is reached
    search      variants tried, the best found
    adapt       the changes that people make to a trained model, each exact
"""

from resect import adapt, cost, edits, errors, parallel, plots
from resect.blocks import blocks
from resect.cost import profile
from resect.edits import Site
from resect.errors import SurgeryError
from resect.graph import Graph
from resect.importance import Importance, importance
from resect.plan import Plan, plan
from resect.search import Trials, search
from resect.select import Selection, first, last, select
from resect.shrink import Shrunk, shrink
from resect.verbs import (
    append,
    clone,
    collapse,
    functional,
    insert,
    pop,
    prepend,
    read,
    remove,
    rename,
    replace,
    split,
    truncate,
)
from resect.verify import Report, verify

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "Importance",
    "Plan",
    "Report",
    "Selection",
    "Shrunk",
    "Site",
    "SurgeryError",
    "Trials",
    "adapt",
    "append",
    "blocks",
    "clone",
    "collapse",
    "cost",
    "edits",
    "errors",
    "first",
    "functional",
    "importance",
    "insert",
    "last",
    "parallel",
    "plan",
    "plots",
    "pop",
    "prepend",
    "profile",
    "read",
    "remove",
    "rename",
    "replace",
    "search",
    "select",
    "shrink",
    "split",
    "truncate",
    "verify",
]
