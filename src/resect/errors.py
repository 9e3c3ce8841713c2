"""Everything that resect raises on purpose.

    SurgeryError                   the root: catch this to catch all of them
    ├── SelectionError             an address did not mean what it had to mean
    │   ├── NoMatchError           it matched nothing
    │   ├── AmbiguousError         it matched several places where one was needed
    │   └── CountError             it matched another number than `.expect(n)` said
    ├── ReadError                  the model cannot be read as a graph
    │   ├── NotAModelError         not a Keras model at all
    │   ├── UnbuiltError           no input shape yet, so no graph
    │   └── TraceError             a subclassed `call` that cannot be traced
    ├── EditError                  the edit has no meaning on this graph
    │   ├── MergeError             several tensors go in: which one goes on?
    │   ├── MultipleOutputsError   several tensors come out: which one is meant?
    │   ├── InputLayerError        an input cannot be removed or replaced in place
    │   ├── NestedError            the places lie in models that cannot be edited together
    │   ├── CutError               a cut that leaves an output without any input
    │   ├── CycleError             the rewired graph would feed a layer its own output
    │   ├── EmptyResultError       nothing would be left
    │   ├── NameClashError         two layers with one name
    │   ├── UnusedInputError       an input that nothing would use any more
    │   ├── MaskError              a cut that would lose an implicit mask
    │   └── ShapeError             a layer cannot take the shape that it would now be given
    ├── PlanError                  several problems of different kinds, all listed
    ├── CopyError                  a layer that can be neither copied nor re-created
    ├── SerializationError         a plan that has no JSON form
    ├── WorkerError                a job that no worker could do, or what cannot be sent to one
    ├── TargetError                no sequence of edits reaches what was asked for
    └── VerificationError          what must be equal is not

A message says what was asked, what was found, and what to do. Code deep inside raises
the small fact (`reason`, `repair`, `node`); the outermost call adds the user's request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a plan.

    Attributes:
        code: Name of the exception class that stands for it, such as `"ShapeError"`.
        node: The call or layer that it is about, in the user's spelling; `""` if none.
        reason: What was found.
        repair: What to do about it; `""` if there is nothing to suggest.
        request: What was asked, such as `"Cannot remove 'conv3' (Conv2D)."`.
    """

    code: str
    node: str
    reason: str
    repair: str = ""
    request: str = ""

    def __str__(self) -> str:
        body = [line for line in (self.reason, self.repair) if line]
        if not self.request:
            return "\n".join(body)
        lines = [line for part in body for line in part.splitlines()]
        return "\n".join([self.request, *(f"  {line}" for line in lines)])


class SurgeryError(Exception):
    """The root of everything that resect raises on purpose.

    Args:
        reason: What was found.
        repair: What to do about it.
        node: The call or layer that it is about.
        problems: Several problems at once; given instead of the three above.

    Example:

    >>> raise SurgeryError("It has no name.", repair="Give it one.", node="dense")
    Traceback (most recent call last):
    resect.errors.SurgeryError: It has no name.
    Give it one.
    """

    def __init__(
        self,
        reason: str = "",
        repair: str = "",
        node: str = "",
        *,
        problems: Sequence[Problem] = (),
    ) -> None:
        own = Problem(type(self).__name__, node, reason, repair)
        self.problems: tuple[Problem, ...] = tuple(problems) or (own,)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def problem(self) -> Problem:
        """The first (usually the only) problem."""
        return self.problems[0]

    def asking(self, request: str) -> SurgeryError:
        """The same error, with the user's request in front of it."""
        problems = [
            Problem(p.code, p.node, p.reason, p.repair, p.request or request) for p in self.problems
        ]
        return type(self)(problems=problems)


class SelectionError(SurgeryError):
    """An address did not mean what it had to mean."""


class NoMatchError(SelectionError):
    """An address matched nothing."""


class AmbiguousError(SelectionError):
    """An address matched several places where one was needed."""


class CountError(SelectionError):
    """A selection matched another number of places than was expected."""


class ReadError(SurgeryError):
    """The model cannot be read as a graph."""


class NotAModelError(ReadError):
    """Not a Keras 3 model."""


class UnbuiltError(ReadError):
    """The model has no input shape yet, and so no graph."""


class TraceError(ReadError):
    """A subclassed model whose `call` cannot be traced on symbolic tensors."""


class EditError(SurgeryError):
    """The edit has no meaning on this graph."""


class MergeError(EditError):
    """A call with several inputs, and nothing says which one goes on."""


class MultipleOutputsError(EditError):
    """A call with several outputs, and nothing says which one is meant."""


class InputLayerError(EditError):
    """An input cannot be removed or replaced in place."""


class NestedError(EditError):
    """The places lie in nested models that cannot be edited together."""


class CutError(EditError):
    """A cut that leaves an output of the model without any input."""


class CycleError(EditError):
    """The rewired graph would feed a layer its own output."""


class EmptyResultError(EditError):
    """Nothing would be left of the model."""


class NameClashError(EditError):
    """Two layers of one model with one name."""


class UnusedInputError(EditError):
    """An input of the model that nothing would use any more."""


class MaskError(EditError):
    """A cut through a tensor that carries an implicit mask."""


class ShapeError(EditError):
    """A layer cannot take the shape that it would be given."""


class PlanError(SurgeryError):
    """Several problems of different kinds, all listed in `problems`."""


class CopyError(SurgeryError):
    """A layer that can be neither copied nor re-created."""


class SerializationError(SurgeryError):
    """A plan with something in it that has no JSON form."""


class WorkerError(SurgeryError):
    """A job that no worker could do, or something that cannot be sent to one."""


class TargetError(SurgeryError):
    """No sequence of edits reaches what was asked for. `result` is how far it got."""

    result: Any = None


class VerificationError(SurgeryError):
    """What must be equal is not."""


def raise_all(problems: Sequence[Problem], *, context: str = "") -> None:
    """Raises once, with every problem: as their own class if they share one.

    Args:
        problems: The problems; none of them means that nothing is raised.
        context: Text that is added as a note, such as the printed plan.
    """
    if not problems:
        return
    codes = {problem.code for problem in problems}
    cls = globals()[codes.pop()] if len(codes) == 1 else PlanError
    error = cls(problems=problems)
    if context:
        error.add_note(context)
    raise error
