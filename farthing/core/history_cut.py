"""Where a long conversation is cut: rarely, in large steps, and at places that depend on the conversation alone.

The next call brings the whole history again; growing it turn by turn as it really grew finds the same places, so that
the provider's cache is warm until the next step is due.
"""

from collections.abc import Callable, Sequence
from typing import Final

from farthing.core.turn_spans import Turn, is_human

_ALWAYS: Final = ("system", "developer")


def exchanges(body: bytes, said: Sequence[Turn]) -> list[list[int]]:
    """Places of the turns, one group from each human message to the next; instructions are in none."""
    groups: list[list[int]] = []
    for place, turn in enumerate(said):
        if turn.role in _ALWAYS:
            continue
        if is_human(body, turn) or not groups:
            groups.append([])
        groups[-1].append(place)
    return groups


def size_of(said: Sequence[Turn], group: Sequence[int]) -> int:
    """Bytes of a group."""
    return sum(said[place].span[1] - said[place].span[0] + 1 for place in group)


def cuts(sizes: Sequence[int], *, above: int, goal: int, keep: int, pays: Callable[[int, int], bool]) -> list[int]:
    """The groups that the history began with after each cut. ``pays`` is asked of the bytes (dropped, kept)."""
    found: list[int] = []
    first = window = 0
    for last, size in enumerate(sizes):
        window += size
        if window <= above:
            continue
        cut, left = first, window
        while left > goal and last - cut >= max(1, keep):
            left -= sizes[cut]
            cut += 1
        if cut > first and pays(window - left, left):
            first, window = cut, left
            found.append(cut)
    return found
