"""In which order blocks go.

Each strategy is a program over rankings and attempts that the session does once: run again after a
kill, it comes to where it was without doing anything twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from resect.shrink.session import Node, Session, without
from resect.shrink.work import Attempt, Candidate
from resect.training.measures import Costs

Strategy = Literal["greedy", "one-shot", "beam"]
STRATEGIES: tuple[Strategy, ...] = ("greedy", "one-shot", "beam")


@dataclass(frozen=True)
class Removal:
    """A block that has gone.

    Attributes:
        candidate: The block, and why it was the one.
        attempt: What became of the model.
        node: The model.
        rivals: The ranking in which it stood.
        rejected: What was tried before and kept, each with the reason.
    """

    candidate: Candidate
    attempt: Attempt
    node: Node
    rivals: tuple[tuple[str, float], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Way:
    """The removals that were decided on.

    Attributes:
        removals: In order.
        ended: Why there are no more.
    """

    removals: tuple[Removal, ...] = ()
    ended: str = ""

    @property
    def node(self) -> Node:
        """The model at its end."""
        return self.removals[-1].node if self.removals else Node()

    @property
    def costs(self) -> Costs | None:
        """What that model costs; `None` for the original."""
        return self.removals[-1].attempt.costs if self.removals else None

    def then(self, removal: Removal) -> Way:
        """One removal longer."""
        return replace(self, removals=(*self.removals, removal))

    def ending(self, why: str) -> Way:
        """The same, with the reason."""
        return replace(self, ended=why)


REACHED = "reached"
_NONE_LEFT = "no block is left that could go"


def greedy(session: Session, start: Costs, tries: int) -> Way:
    """Takes the least important block, measures anew, and so on."""
    way = Way()
    while not session.goals.reached(way.costs or start):
        ranking = session.ranking(way.node)
        if not ranking:
            return way.ending(_NONE_LEFT)
        found = _first_that_holds(session, way.node, ranking, tries)
        if not isinstance(found, Removal):
            return way.ending(_all_break(found))
        way = way.then(found)
    return way.ending(REACHED)


def _first_that_holds(
    session: Session, node: Node, ranking: Sequence[Candidate], tries: int
) -> Removal | list[tuple[str, str]]:
    """The first removal that keeps to the permitted drops; otherwise what was tried."""
    rejected: list[tuple[str, str]] = []
    for number, candidate in enumerate(ranking):
        why = session.why_not(node, candidate.ends)
        if not why:
            attempt = session.attempt(node, candidate.ends, seed=number)
            why = session.goals.broken(attempt.after)
            if not why:
                after = without(node, candidate.ends)
                return Removal(candidate, attempt, after, _scores(ranking), tuple(rejected))
            tries -= 1
        rejected.append((candidate.name, why))
        if not tries:
            break
    return rejected


def one_shot(session: Session, start: Costs, tries: int) -> Way:
    """Ranks once, takes the least important blocks, and recovers once."""
    del tries
    ranking = session.ranking(Node())
    way, rejected = Way(), list[tuple[str, str]]()
    for candidate in ranking:
        if session.goals.reached(way.costs or start):
            break
        ends = session.still(way.node, candidate.ends)
        if ends is None:
            continue  # it went with another one
        why = session.why_not(way.node, ends)
        if why:
            rejected.append((candidate.name, why))
            continue
        attempt = session.attempt(way.node, ends, recover=False)
        broken = session.goals.broken(attempt.after)
        if broken:
            rejected.append((candidate.name, broken))
            continue
        after = without(way.node, ends)
        gone = replace(candidate, ends=ends)
        way = way.then(Removal(gone, attempt, after, _scores(ranking), tuple(rejected)))
        rejected = []
    if session.goals.reached(way.costs or start):
        why = REACHED
    else:
        why = _all_break(rejected) if rejected else _NONE_LEFT
    return _recovered_once(session, way.ending(why))


def _recovered_once(session: Session, way: Way) -> Way:
    if session.work.recover is None or not way.removals:
        return way
    *others, last = way.removals
    node, after = session.recovery(last.node)
    broken = session.goals.broken(after)
    if broken:
        return way.ending(f"{way.ended}, as cut: after recovery, {broken}")
    last = replace(last, node=node, attempt=replace(last.attempt, after=after))
    return Way((*others, last), way.ended)


def beam(session: Session, start: Costs, tries: int, width: int = 3) -> Way:
    """Keeps the best ways of each length; a set of blocks counts once, whatever the order."""
    del tries
    goals, ways, last = session.goals, [Way()], [Way()]
    if goals.reached(start):
        return Way().ending(REACHED)
    broken: list[tuple[str, str]] = []
    while ways:
        last, ways, broken = ways, *_longer(session, ways, width)
        kept, others = _best(ways, width), _best(ways, len(ways))[width:]
        reached = [way for way in _best(ways, len(ways)) if goals.reached(way.costs or start)]
        if reached:
            return reached[0].ending(REACHED)
        for way in others:
            session.journal.forget(way.node.key)
        ways = kept
    why = _all_break(broken) if broken else _NONE_LEFT
    return last[0].ending(why)


def _longer(
    session: Session, ways: Sequence[Way], width: int
) -> tuple[list[Way], list[tuple[str, str]]]:
    """Every way that is one removal longer, of the least important blocks of each."""
    broken: list[tuple[str, str]] = []
    wanted: list[tuple[Way, Sequence[Candidate], Candidate]] = []
    seen: set[frozenset] = set()
    for way in ways:
        ranking = session.ranking(way.node)
        for candidate in ranking[:width]:
            left = session.left(way.node, candidate.ends)
            why = "" if left in seen else session.why_not(way.node, candidate.ends)
            if why:
                broken.append((candidate.name, why))
            elif left not in seen:
                wanted.append((way, ranking, candidate))
            seen.add(left)
    jobs = [(way.node, each.ends, number) for number, (way, _, each) in enumerate(wanted)]
    found: list[Way] = []
    for (way, ranking, each), attempt in zip(wanted, session.attempts(jobs), strict=True):
        why = session.goals.broken(attempt.after)
        if why:
            broken.append((each.name, why))
        else:
            node = without(way.node, each.ends)
            found.append(way.then(Removal(each, attempt, node, _scores(ranking))))
    return found, broken


def _best(ways: Sequence[Way], count: int) -> list[Way]:
    """Those of the lowest loss; where none is measured, of the least important blocks."""

    def worth(way: Way) -> float:
        numbers: Mapping[str, float] = way.removals[-1].attempt.after
        value = numbers.get("loss", sum(r.candidate.score for r in way.removals))
        return math.inf if value != value else value

    return sorted(ways, key=worth)[:count]


def _scores(ranking: Sequence[Candidate]) -> tuple[tuple[str, float], ...]:
    return tuple((each.name, each.score) for each in ranking)


def _all_break(rejected: Sequence[tuple[str, str]]) -> str:
    said = "; ".join(f"without {name}, {why}" for name, why in rejected)
    return f"no more holds: {said}"
