"""Inputs that nothing reads: before Keras 3.14 there is no model that has them."""

from __future__ import annotations

from resect.errors import UnusedInputError
from resect.graph import Call, Graph, Node, Ref, map_refs
from resect.keras_graph import private
from resect.keras_graph.making import identity_layer


def passed_on(graph: Graph) -> Graph:
    """Puts an Identity behind inputs that are outputs and that nothing reads, if Keras needs it."""
    if not private.INPUTS_MUST_BE_READ:
        return graph
    passed: dict[Ref, Ref] = {}
    for ref in dict.fromkeys(graph.output_refs):
        if not graph.is_input(ref.call) or graph.readers(ref):
            continue
        layer = identity_layer(graph.free_name(f"{ref.call.layer}_identity"))
        spec = graph.spec(ref)
        passed[ref] = Ref(Call(layer.name))
        node = Node(Call(layer.name), (ref,), outputs=(spec,), seen=(spec,))
        graph = graph.add([node], [layer])
    if not passed:
        return graph
    return graph.evolve(outputs=map_refs(lambda ref: passed.get(ref, ref), graph.outputs))


def all_passed_on(graph: Graph) -> Graph:
    """The same in a graph and in all that are nested in it."""
    paths = [path for path, _ in graph.walk()] if private.INPUTS_MUST_BE_READ else []
    for path in sorted(paths, key=len, reverse=True):
        nested = graph.at(path)
        passed = passed_on(nested)
        if passed is not nested:
            graph = graph.with_nested(path, passed)
    return graph


def check_inputs_are_read(graph: Graph) -> None:
    """Refuses what this Keras cannot make a model of.

    Raises:
        UnusedInputError: Nothing reads an input, and Keras needs it to be read.
    """
    for ref in graph.input_refs if private.INPUTS_MUST_BE_READ else ():
        if not graph.readers(ref):
            raise UnusedInputError(
                f"Nothing reads the input '{graph.label(ref.call)}' of '{graph.name}': Keras makes "
                "such a model from 3.14 on only.",
                "Leave the input out, keep a layer that reads it, or install a newer Keras.",
                graph.label(ref.call),
            )
