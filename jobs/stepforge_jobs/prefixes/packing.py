"""Rows whose beginnings are equal, packed so that every token stands once: a tree, laid out in depth-first order.

Content decides alone: prompts are sorted and put into a trie of their tokens (the stems), and the completions of each
prompt into a trie of their own below its last token. A row needs the network's output before each of its completion's
tokens, so the last token of a row is no input. In depth-first order one integer a token says what attention may see:
query i sees key j if and only if j <= i < ends[j], where ends[j] is one past the last token below j.

Legend: a node is a place in the pack. Pure Python: nothing here knows of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Tokens = Sequence[int]


@dataclass(frozen=True)
class Stem:
    """Nodes `start` to `stop`, a part of prompts without a branch; all nodes up to `end` come after all of them."""

    start: int
    stop: int
    end: int


@dataclass
class Pack:
    """One tree, or several side by side."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Depth of each node: its position in every row that it is part of."""
    ends: list[int] = field(default_factory=list)
    in_prompt: list[bool] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    """Numbers of the rows in here, among all that were given."""
    sources: list[list[int]] = field(default_factory=list)
    """For each row, the node before each of its completion's tokens."""
    targets: list[list[int]] = field(default_factory=list)
    """For each row, its completion."""
    tails: list[list[int]] = field(default_factory=list)
    """The nodes of a completion, without those of its prompt; not of one that another begins with."""

    @property
    def stems(self) -> list[Stem]:
        found: list[Stem] = []
        for node, end in enumerate(self.ends):
            if not self.in_prompt[node]:
                continue
            # A node whose only child comes next ends where that child ends.
            if found and found[-1].stop == node and found[-1].end == end:
                found[-1] = Stem(found[-1].start, node + 1, end)
            else:
                found.append(Stem(node, node + 1, end))
        return found

    @property
    def parents(self) -> list[int]:
        """The node before each node; -1 where a row begins."""
        found: list[int] = []
        for node, position in enumerate(self.positions):
            before = node - 1
            while position and self.positions[before] >= position:
                before = found[before]
            found.append(before if position else -1)
        return found

    def add(self, token: int, position: int, *, in_prompt: bool) -> int:
        """The new node; its end is set when it is known."""
        self.tokens.append(token)
        self.positions.append(position)
        self.ends.append(0)
        self.in_prompt.append(in_prompt)
        return len(self.tokens) - 1

    def close(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            self.ends[node] = len(self.tokens)


def in_tree_order(prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[int]:
    """Row numbers so that rows of one beginning stand together: a prompt before those that go on from it."""
    keys = [(tuple(p), tuple(c[:-1]), tuple(c)) for p, c in zip(prompts, completions, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def own_rows(prompts: Sequence[Tokens], completions: Sequence[Tokens], *, rank: int, world: int) -> list[int]:
    """One rank's rows in the order of the tree: as many tokens as the others have, to a row.

    Neighbours share most, so each rank has a run of them; a prompt that two ranks have is computed by both.
    """
    order = [row for row in in_tree_order(prompts, completions) if len(completions[row])]
    if world == 1:
        return order
    lasts = [0]
    before: tuple[int, ...] = ()
    for row in order:
        whole = (*prompts[row], *completions[row])
        lasts.append(lasts[-1] + len(whole) - common(before, whole))
        before = whole
    total = max(1, lasts[-1])
    middles = [(low + high) / 2 for low, high in pairwise(lasts)]
    # A last row that adds no token has its middle at the very end.
    ranks = [min(world - 1, int(middle * world / total)) for middle in middles]
    return [row for row, whose in zip(order, ranks, strict=True) if whose == rank]


def packs(
    prompts: Sequence[Tokens], completions: Sequence[Tokens], rows: Sequence[int], *, most: int
) -> Iterator[Pack]:
    """The packs of `rows`, which stand in the order of the tree, each of at most `most` tokens where a row allows it.

    A pack ends before a prompt whose rows do not fit any more. Where those of one prompt alone are too many, they are
    split, and the prompt stands in each part.
    """
    for part in _parts(prompts, completions, rows, most):
        yield pack(prompts, completions, part)


def pack(prompts: Sequence[Tokens], completions: Sequence[Tokens], rows: Sequence[int]) -> Pack:
    """One pack of these rows, which stand in the order of the tree and have a token in each completion."""
    made = Pack()
    path: list[int] = []
    """Nodes of the prompt before, and so of the next one as far as they agree."""
    before: Tokens = ()
    for number, row in enumerate(rows):
        prompt = prompts[row]
        if number and prompt == before:
            continue
        shared = common(before, prompt)
        made.close(path[shared:])
        del path[shared:]
        path += [made.add(prompt[depth], depth, in_prompt=True) for depth in range(shared, len(prompt))]
        same = _run(prompts, rows, number)
        _add_completions(made, path[-1], len(prompt), completions, same)
        before = prompt
    made.close(path)
    return made


def _add_completions(made: Pack, stem: int, depth: int, completions: Sequence[Tokens], rows: Sequence[int]) -> None:
    """Put sorted completions below the last node of their prompt."""
    tail: list[int] = []
    before: Tokens = ()
    for row in rows:
        inputs = completions[row][:-1]
        shared = common(before, inputs)
        if shared < len(before):
            made.tails.append(list(tail))
            made.close(tail[shared:])
            del tail[shared:]
        tail += [made.add(inputs[at], depth + at, in_prompt=False) for at in range(shared, len(inputs))]
        made.rows.append(row)
        made.sources.append([stem, *tail])
        made.targets.append(list(completions[row]))
        before = inputs
    if tail:
        made.tails.append(list(tail))
        made.close(tail)


def _parts(
    prompts: Sequence[Tokens], completions: Sequence[Tokens], rows: Sequence[int], most: int
) -> Iterator[list[int]]:
    part: list[int] = []
    size = 0
    before: Tokens = ()
    start = 0
    while start < len(rows):
        prompt = prompts[rows[start]]
        same = _run(prompts, rows, start)
        costs = _costs(completions, same)
        if part and size + len(prompt) - common(before, prompt) + sum(costs) > most:
            yield part
            part, size, before = [], 0, ()
        size += len(prompt) - common(before, prompt)
        for row, cost in zip(same, costs, strict=True):
            if part and size + cost > most:
                yield part
                part, size, cost = [], len(prompt), len(completions[row]) - 1
            part.append(row)
            size += cost
        start, before = start + len(same), prompt
    if part:
        yield part


def _costs(completions: Sequence[Tokens], rows: Sequence[int]) -> list[int]:
    """New nodes of each completion after the one before it."""
    found: list[int] = []
    before: Tokens = ()
    for row in rows:
        inputs = completions[row][:-1]
        found.append(len(inputs) - common(before, inputs))
        before = inputs
    return found


def _run(prompts: Sequence[Tokens], rows: Sequence[int], start: int) -> list[int]:
    """The rows from `start` on that have its prompt."""
    stop = start + 1
    while stop < len(rows) and prompts[rows[stop]] == prompts[rows[start]]:
        stop += 1
    return list(rows[start:stop])


def common(one: Tokens, other: Tokens) -> int:
    """Length of the common beginning, by bisection: comparing slices is the fast part of Python."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
