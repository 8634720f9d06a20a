"""A domain has a group and an endpoint of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from stepforge.contracts.names import endpoint_name, group_domain, package_group
from stepforge.errors import InvalidInput
from stepforge.recipes import records_domain


def test_no_two_domains_share_a_group_or_an_endpoint() -> None:
    names = {}
    for length in range(1, 7):
        for letters in itertools.product("a_-", repeat=length):
            domain = "".join(letters)
            try:
                group = package_group(domain, "local")
            except InvalidInput:
                continue
            assert group_domain(group) == domain
            assert names.setdefault(group, domain) == domain
    assert {"stepforge-a-a", "stepforge-a--a"} <= set(names)


@pytest.mark.parametrize("name", ["./facial", "facial/", "../a", "a b", "", "-a", "a__b", "a_-b", "a-candidate", "a\n"])
def test_what_is_no_name_of_a_domain_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a domain's name: use letters"):
        package_group(name, "local")


def test_a_domain_whose_candidate_has_no_room_is_refused() -> None:
    assert len(endpoint_name(package_group("a" * 43, "local"), candidate=True)) == 63
    with pytest.raises(InvalidInput, match="too long by 1 "):
        package_group("a" * 44, "local")


@pytest.mark.parametrize("stem", ["a__b", "a_ -b", "x" * 80, "_", "my-data_(2)", "a_" * 40])
def test_every_file_of_records_has_a_name_that_a_group_can_have(stem: str) -> None:
    domain = records_domain(Path(f"{stem}.jsonl"))
    assert group_domain(package_group(domain, "local")) == domain
