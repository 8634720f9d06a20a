"""Every command has examples, and what they show can be typed."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from stepforge.cli._app import app
from stepforge.cli._examples import EXAMPLES
from stepforge_jobs.domains.facial import grammar


def commands(of: typer.Typer, path: str = "") -> list[str]:
    groups = [g for g in of.registered_groups if g.typer_instance is not None]
    inside = [name for g in groups for name in commands(g.typer_instance, f"{path} {g.name}".strip())]
    return [path, *(f"{path} {c.name}".strip() for c in of.registered_commands), *inside]


LEAVES = [name for name in commands(app) if not any(n.startswith(f"{name} ") for n in commands(app)) and name]


def help_of(path: str, flag: str) -> str:
    shown = CliRunner().invoke(app, [*path.split(), flag], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_no_example_is_left_behind() -> None:
    assert sorted(EXAMPLES) == sorted(commands(app))


@pytest.mark.parametrize("path", commands(app), ids=lambda path: path or "stepforge")
def test_help_shows_the_examples_and_h_is_help(path: str) -> None:
    shown = help_of(path, "-h")
    assert shown == help_of(path, "--help")
    flat = " ".join(shown.split())
    assert all(example in flat for example in EXAMPLES[path])


@pytest.mark.parametrize("example", sorted({line for lines in EXAMPLES.values() for line in lines}))
def test_an_example_names_a_command_and_options_that_exist(example: str) -> None:
    first, *words = shlex.split(example)
    assert first == "stepforge"
    path = next(name for name in sorted(LEAVES, key=len, reverse=True) if words[: len(name.split())] == name.split())
    shown = help_of(path, "--help")
    assert all(re.search(rf"(?<!\S){option}\b", shown) for option in words if option.startswith("-"))
    for prompt in (word for word in words if word.startswith("feel:")):
        grammar.parse_prompt(prompt)


def test_the_help_of_predict_holds_every_word_of_a_prompt() -> None:
    shown = help_of("predict", "--help")
    assert "level1 to level5" in shown
    words = {word.partition(":")[2] or word for group in grammar.PROMPT for word in group}
    assert [word for word in words if not word.startswith("level") and word not in shown] == []
