"""Packs: every row is a path of a tree in which each token stands once."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from tests.support.prefixes import ragged

from stepforge_jobs.prefixes.packing import Pack, common, in_tree_order, own_rows, pack, packs


def path_to(tree: Pack, node: int) -> list[int]:
    parents, found = tree.parents, []
    while node >= 0:
        found.append(node)
        node = parents[node]
    return found[::-1]


@pytest.mark.parametrize("vocabulary", [2, 23])
def test_in_a_pack_every_row_is_a_path_and_every_token_stands_once(vocabulary: int) -> None:
    for seed in range(60):
        prompts, completions = ragged(seed, vocabulary)
        tree = pack(prompts, completions, in_tree_order(prompts, completions))
        assert sorted(tree.rows) == list(range(len(prompts)))
        for row, sources, targets in zip(tree.rows, tree.sources, tree.targets, strict=True):
            path = path_to(tree, sources[-1])
            assert [tree.tokens[node] for node in path] == prompts[row] + completions[row][:-1]
            assert [tree.positions[node] for node in path] == list(range(len(path)))
            assert path[len(prompts[row]) - 1 :] == sources
            assert targets == completions[row]
        stems = {tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt))}
        tails = {
            (tuple(p), tuple(c[: n + 1])) for p, c in zip(prompts, completions, strict=True) for n in range(len(c) - 1)
        }
        assert len(tree.tokens) == len(stems) + len(tails)


def test_a_query_may_see_a_key_exactly_where_the_key_is_its_ancestor() -> None:
    for seed in range(20):
        prompts, completions = ragged(seed, 3)
        tree = pack(prompts, completions, in_tree_order(prompts, completions))
        for query in range(len(tree.tokens)):
            seen = [key for key in range(len(tree.tokens)) if key <= query < tree.ends[key]]
            assert seen == path_to(tree, query)


def test_packs_keep_the_bound_and_split_a_prompt_whose_rows_do_not_fit() -> None:
    for seed in range(40):
        prompts, completions = ragged(seed, 23)
        rows = in_tree_order(prompts, completions)
        for most in (12, 30, 80):
            found = list(packs(prompts, completions, rows, most=most))
            assert [row for one in found for row in one.rows] == rows
            assert all(len(one.tokens) <= most or len(one.rows) == 1 for one in found)
        assert len(list(packs(prompts, completions, rows, most=10_000))) == 1
    many = [[2, 3, 4]] * 9, [[n, n, n] for n in range(5, 14)]
    assert [len(one.rows) for one in packs(*many, range(9), most=9)] == [3, 3, 3]


@pytest.mark.parametrize("vocabulary", [2, 23])
def test_a_pack_ends_where_what_comes_next_does_not_fit_and_nowhere_else(vocabulary: int) -> None:
    for seed in range(40):
        prompts, completions = ragged(seed, vocabulary)
        rows = in_tree_order(prompts, completions)
        for most in (12, 30, 80):
            made = list(packs(prompts, completions, rows, most=most))
            assert all(len(one.tokens) <= most or len(one.rows) == 1 for one in made)
            for one, other in pairwise(made):
                # One row more of a prompt whose rows are split; else all of the next prompt, which are kept together.
                split = prompts[one.rows[-1]] == prompts[other.rows[0]]
                comes = [row for row in rows if prompts[row] == prompts[other.rows[0]]]
                comes = other.rows[:1] if split else comes
                assert len(pack(prompts, completions, [*one.rows, *comes]).tokens) > most


def test_rows_of_a_prompt_are_split_only_where_no_pack_holds_them_all() -> None:
    together = 0
    for seed in range(40):
        prompts, completions = ragged(seed, 3)
        rows = in_tree_order(prompts, completions)
        for most in (12, 30, 80):
            place = {
                row: number
                for number, one in enumerate(packs(prompts, completions, rows, most=most))
                for row in one.rows
            }
            for prompt in prompts:
                same = [row for row in rows if prompts[row] == prompt]
                if len(pack(prompts, completions, same).tokens) <= most:
                    assert len({place[row] for row in same}) == 1
                    together += len(same) > 1
    assert together > 100


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_take_every_row_once_and_about_as_many_tokens(world: int) -> None:
    for seed in range(30):
        prompts, completions = ragged(seed, 2)
        completions[0] = []
        parts = [own_rows(prompts, completions, rank=rank, world=world) for rank in range(world)]
        assert sorted(row for part in parts for row in part) == list(range(1, len(prompts)))
    even = [[n, 1, 2] for n in range(12)], [[5, 6]] * 12
    assert {len(own_rows(*even, rank=rank, world=world)) for rank in range(world)} == {12 // world}


def test_common_is_the_length_of_the_common_beginning() -> None:
    source = random.Random(0)
    for _ in range(300):
        one, other = ([source.randrange(2) for _ in range(source.randrange(9))] for _ in range(2))
        agreed = [a == b for a, b in zip(one, other, strict=False)]
        assert common(one, other) == (agreed.index(False) if False in agreed else len(agreed))
