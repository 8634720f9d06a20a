"""What the README tells a newcomer to type is what the commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepforge.cli._app import app
from stepforge_jobs.domains.facial import DOMAIN
from stepforge_jobs.domains.facial.grammar import PROMPT, parse_prompt

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = [
    words
    for line in SHELL.splitlines()
    for part in line.split("; ")
    if (words := shlex.split(part, comments=True)) and words[0] == "stepforge"
]


def test_the_prompt_to_predict_is_one_of_the_facial_domain() -> None:
    (prompt,) = (words[-1] for words in COMMANDS if words[1] == "predict")
    assert parse_prompt(prompt).primary == "fear"


def test_the_facial_page_shows_every_word_of_a_prompt_and_an_answer_that_is_accepted() -> None:
    page = (ROOT / "docs" / "domains" / "facial.md").read_text()
    shown = {
        word for line in page.splitlines() if line.startswith("| ") for word in re.findall(r"`([a-z0-9:]+)`", line)
    }
    assert {word.partition(":")[2] or word for group in PROMPT for word in group} <= shown | {""}
    (prompt,), (answer,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("prompt", "answer"))
    record = DOMAIN.record("train", 0, seed=0).model_copy(
        update={"prompt": prompt, "scenario": DOMAIN.scenario(prompt)}
    )
    assert DOMAIN.verify(record, answer).accepted
    for command in re.findall(r"stepforge predict[^\n#]*'(.*?)'", page):
        parse_prompt(command)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_option_exists(words: list[str]) -> None:
    path = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
    names = path if path[0] in ("run", "registry", "local", "new") else path[:1]
    shown = CliRunner().invoke(app, [*names, "--help"], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    for option in (word for word in words if word.startswith("-")):
        assert option in shown.output
