"""What may be written next: the grammar of descriptions, walked token by token.

    description = group { ";" group } "."
    group       = list "in the" place | place ":" list
    list        = name | { name "," } name "and" name

A name stands for exactly one mention, which is then used up; a group's names all lie in its place;
the full stop comes when every mention is used up. So no walk, whatever chooses the tokens, can name
a structure that was not detected, misplace one, leave one out, or go on for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from model.describer.lexicon import NAMES, PLACES, Mention, join, reading_order

Spell = Callable[[str], tuple[int, ...]]
"""From a piece of text to its token ids (at least one)."""


class Phase(Enum):
    """The last piece of the walk."""

    GROUP = auto()  # the start of a group
    PLACE = auto()  # a place that stands first
    COLON = auto()
    COMMA = auto()
    AND = auto()
    NAME = auto()  # a name after which the list may go on
    LAST_NAME = auto()  # the name after "and"
    CLOSED = auto()  # the end of a group
    END = auto()


@dataclass(frozen=True, slots=True)
class State:
    """A point of the walk: the mentions still to name, and the open group."""

    remaining: tuple[Mention, ...]
    phase: Phase = Phase.GROUP
    place: int = 0
    place_first: bool = False
    in_list: bool = False


def options(state: State) -> list[tuple[str, State]]:
    """The pieces that may follow, each with the state it leads to; empty at the end only."""
    match state.phase:
        case Phase.GROUP:
            return _group(state)
        case Phase.PLACE:
            return [(":", replace(state, phase=Phase.COLON))]
        case Phase.COLON | Phase.COMMA:
            return _names(state, Phase.NAME)
        case Phase.AND:
            return _names(state, Phase.LAST_NAME)
        case Phase.NAME:
            return _after_name(state)
        case Phase.LAST_NAME:
            return _close(state)
        case Phase.CLOSED:
            return _after_group(state)
        case Phase.END:
            return []


def _group(state: State) -> list[tuple[str, State]]:
    """A name, or a place that still holds one.

    A label that waits in two places is offered for the first only: else one name would lead to
    two states.
    """
    first: dict[str, Mention] = {}
    for mention in sorted(state.remaining, key=reading_order):
        first.setdefault(mention.label, mention)
    names = [
        (name, _use(replace(state, place=mention.place), mention, Phase.NAME))
        for mention in first.values()
        for name in NAMES[mention.label]
    ]
    places = [
        (PLACES[place], replace(state, phase=Phase.PLACE, place=place, place_first=True))
        for place in sorted({mention.place for mention in state.remaining})
    ]
    return names + places


def _names(state: State, phase: Phase) -> list[tuple[str, State]]:
    return [
        (name, _use(state, mention, phase))
        for mention in _siblings(state)
        for name in NAMES[mention.label]
    ]


def _after_name(state: State) -> list[tuple[str, State]]:
    siblings = len(_siblings(state))
    continuations: list[tuple[str, State]] = []
    if siblings >= 2:
        continuations.append((",", replace(state, phase=Phase.COMMA, in_list=True)))
    if siblings >= 1:
        continuations.append(("and", replace(state, phase=Phase.AND)))
    if not state.in_list:
        continuations += _close(state)
    return continuations


def _close(state: State) -> list[tuple[str, State]]:
    if state.place_first:
        return _after_group(state)
    return [(f"in the {PLACES[state.place]}", replace(state, phase=Phase.CLOSED))]


def _after_group(state: State) -> list[tuple[str, State]]:
    if state.remaining:
        return [(";", State(state.remaining))]
    return [(".", State((), Phase.END))]


def _siblings(state: State) -> list[Mention]:
    return [mention for mention in state.remaining if mention.place == state.place]


def _use(state: State, mention: Mention, phase: Phase) -> State:
    remaining = tuple(other for other in state.remaining if other != mention)
    return replace(state, remaining=remaining, phase=phase)


class Writer:
    """A walk through the grammar in token ids; `mentions` must be distinct and at least one.

    The text is put together from the grammar's pieces, never decoded from ids, so no chance
    joining of tokens can spell another word.
    """

    def __init__(self, mentions: tuple[Mention, ...], spell: Spell) -> None:
        self._spell = spell
        self._pieces: list[str] = []
        self._open: list[tuple[tuple[int, ...], str, State]] = []
        self._at = 0
        self._enter(State(mentions))

    @property
    def is_finished(self) -> bool:
        """Whether the sentence has its full stop."""
        return not self._open

    @property
    def text(self) -> str:
        """The sentence so far, whole pieces only."""
        return join(self._pieces)

    def allowed(self) -> list[int]:
        """The token ids that may come next, ascending; empty when done."""
        return sorted({ids[self._at] for ids, _, _ in self._open})

    def write(self, token: int) -> None:
        """Take the next token; raises ValueError on one that is not allowed."""
        matching = [entry for entry in self._open if entry[0][self._at] == token]
        if not matching:
            raise ValueError(f"token {token} is not allowed here")
        self._open = matching
        self._at += 1
        whole = [entry for entry in matching if len(entry[0]) == self._at]
        if whole:
            _, piece, state = whole[0]
            self._pieces.append(piece)
            self._enter(state)

    def write_forced(self) -> list[int]:
        """Take every token to which there is no alternative; returns them."""
        tokens: list[int] = []
        while len(allowed := self.allowed()) == 1:
            self.write(allowed[0])
            tokens += allowed
        return tokens

    def _enter(self, state: State) -> None:
        self._at = 0
        self._open = [(self._spell(piece), piece, next_) for piece, next_ in options(state)]
