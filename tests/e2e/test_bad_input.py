"""Bad input: exit code 2 and one clear line, before any environment is started."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepforge.cli import main
from tests.e2e.homes import TRAIN, Home

FACIAL = ("run", "train", "--domain", "facial")
OWN = ("run", "train", "--model", "model", "--verifier", "rules:check", "--data")
ROWS = [json.dumps({"prompt": f"{a} + {b} =", "answer": str(a + b)}) for a in range(6) for b in range(10)]
WITH_DATA = ("--data", "good.jsonl", "--model", "model")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: good records and rules, a model, and files that are bad in one way each."""
    (tmp_path / "rules.py").write_text("def check(record, completion):\n    return completion == record['answer']\n")
    files = {
        "good": ROWS,
        "malformed": [*ROWS[:16], '{"prompt": "1 + 1 =", "answer": ', *ROWS[17:]],
        "misspelt": [*ROWS[:16], '{"promt": "1 + 1 =", "answer": "2"}', *ROWS[17:]],
        "typed": [*ROWS[:16], '{"prompt": "1 + 1 =", "steps": 7}', *ROWS[17:]],
        "empty": [],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in rows))
    for name, weights in {
        "model": ["model.safetensors"],
        "pickled": ["pytorch_model.bin"],
        "both": ["model.safetensors", "x.pt"],
    }.items():
        (tmp_path / name).mkdir()
        for file in ("config.json", "tokenizer_config.json", "tokenizer.json", *weights):
            (tmp_path / name / file).write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # Nobody's profile, and no metadata service.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


CASES = {
    "unknown domain": (("run", "train", "--domain", "facal"), "unknown domain 'facal': did you mean 'facial'?"),
    "nothing to train": (("run", "train"), "give --domain NAME, or --data FILE with --verifier"),
    "missing model directory": ((*FACIAL, "--model", "nowhere"), "model 'nowhere' is not a directory"),
    "only a pickle": ((*FACIAL, "--model", "pickled"), "pytorch_model.bin"),
    "a pickle too": ((*FACIAL, "--model", "both"), "x.pt"),
    "malformed line 17": (
        (*OWN, "malformed.jsonl"),
        "malformed.jsonl line 17: Invalid JSON: EOF while parsing a value at column 31",
    ),
    "wrong type in line 17": ((*OWN, "typed.jsonl"), "typed.jsonl line 17: field 'steps'"),
    "empty dataset": ((*OWN, "empty.jsonl"), "the records are empty"),
    "missing dataset": ((*OWN, "none.jsonl"), "data 'none.jsonl' is not a file"),
    "text for a number": (
        (*FACIAL, "--set", "stages.srl.steps=many"),
        "--set stages.srl.steps=many: Input should be a valid integer",
    ),
    "boolean for a number": (
        (*FACIAL, "--set", "stages.srl.steps=true"),
        "--set stages.srl.steps=true: Input should be a number, not a boolean",
    ),
    "fraction for a count": (
        (*FACIAL, "--set", "stages.srl.steps=1.5"),
        "--set stages.srl.steps=1.5: Input should be a valid int",
    ),
    "negative count": (
        (*FACIAL, "--set", "dataset.test=-1"),
        "--set dataset.test=-1: Input should be greater than or equal to 0",
    ),
    "table for a number": (
        (*FACIAL, "--set", "dataset=3"),
        "--set dataset=3: Input should be a table: {} for the defaults",
    ),
    "unknown field": (
        (*FACIAL, "--set", "stages.srl.stepz=1"),
        "--set stages.srl.stepz=1: no such field; did you mean 'steps'? There are: asking, batch_prompts, ",
    ),
    "field of another stage": ((*FACIAL, "--set", "stages.srl.split=train"), "split=train: no such field. There are:"),
    "unknown table": ((*FACIAL, "--set", "datset.test=1"), "datset: no such field; did you mean 'dataset'?"),
    "field of a stage's part": (
        (*FACIAL, "--set", "stages.srl.lora.q=1"),
        "no such field. There are: alpha, bits, dropout, r",
    ),
    "no field at all": (
        (*FACIAL, "--set", "stages.srl=4"),
        "--set stages.srl=4: stages has no fields of its own: write it as stages.srl.steps=50",
    ),
    "unknown field of a record": (
        (*OWN, "misspelt.jsonl"),
        "misspelt.jsonl line 17: field 'promt': no such field; did you mean 'prompt'? There are: answer, ",
    ),
    "unknown stage": ((*FACIAL, "--set", "stages.sr.steps=1"), "unknown stage 'sr': did you mean 'srl'?"),
    "no value": ((*FACIAL, "--set", "stages.srl.steps"), "has no value: write it as stages.srl.steps=50"),
    "data without verifier": (("run", "train", *WITH_DATA), "--data and --verifier belong together"),
    "verifier without data": ((*FACIAL, "--verifier", "rules:check"), "--data and --verifier belong together"),
    "data without model": (("run", "train", "--data", "good.jsonl", "--verifier", "rules:check"), "needs --model PATH"),
    "missing function": (("run", "train", *WITH_DATA, "--verifier", "rules:chek"), "'chek': did you mean 'check'?"),
    "missing module": (("run", "train", *WITH_DATA, "--verifier", "rulez:check"), "module 'rulez' was not found"),
    "no function named": (("run", "train", *WITH_DATA, "--verifier", "rules"), "write it as package.module:function"),
    "missing recipe": ((*FACIAL, "--recipe", "nowhere.toml"), "recipe nowhere.toml cannot be read"),
    "recipe that is none": ((*FACIAL, "--recipe", "good.jsonl"), "recipe good.jsonl cannot be read"),
    "unknown option": ((*FACIAL, "--stepz", "1"), "No such option: --stepz"),
    "option of the wrong type": (("predict", "--temperature", "hot"), "'--temperature'"),
    "unknown command": (("run", "trian"), "No such command 'trian'"),
    "missing argument": (("registry", "show"), "Missing argument 'reference' (see `stepforge registry show --help`)"),
    "name of a new domain": (("new", "domain", "4castles"), "name '4castles' cannot be a domain's"),
}


def error_of(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], *, code: int) -> str:
    """The one line of a command that fails with `code`; with --json the same sentence as a document."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert main([*arguments, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert (document["message"], document["exit_code"]) == (err.removeprefix("error: ").rstrip("\n"), code)
    return err


@pytest.mark.parametrize(("arguments", "says"), CASES.values(), ids=CASES)
def test_one_clear_line_and_nothing_was_started(
    arguments: tuple[str, ...], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in error_of(arguments, capsys, code=2)
    assert not (folder / "home").exists()


@pytest.mark.parametrize("arguments", [(*FACIAL, "--env", "dev"), ("runs", "--env", "dev"), ("watch", "--env", "dev")])
@pytest.mark.parametrize("region", ["", "us-east-1"])
def test_a_cloud_without_key_says_what_it_needs(
    arguments: tuple[str, ...],
    region: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if region:
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    said = error_of(arguments, capsys, code=5)
    assert ("credentials" if region else "region") in said
    assert "AWS_PROFILE" in said
    assert "local" in said


@pytest.fixture
def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on a disk of its own without a free byte; skipped where this user may not mount one."""
    home = folder / "home"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(home)], capture_output=True).returncode:
        pytest.skip("a disk of a few kilobytes needs the right to mount")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_a_full_disk_where_the_home_is_says_so(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of((*FACIAL, "--dry-run"), capsys, code=6)
    assert str(full) in said
    assert "free some, and run it again" in said


def test_a_full_disk_while_data_is_staged_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target.name)

    monkeypatch.setattr("shutil.copyfile", no_space)
    said = error_of(("run", "train", *WITH_DATA, "--verifier", "rules:check"), capsys, code=6)
    assert "no space is left on the disk at" in said
    assert "free some, and run it again" in said
    assert not (folder / "home").exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_run_says_so_and_the_same_command_finishes(full: Path) -> None:
    home = Home(full / "stepforge")
    resize = ["mount", "-o", "remount,size={}", "tmpfs", str(full)]
    subprocess.run([word.format("1600k") for word in resize], check=True)
    try:
        assert home.cli(*TRAIN, code=6)["error"] == "DiskFull"
        subprocess.run([word.format("64m") for word in resize], check=True)
        assert home.cli(*TRAIN)["status"] == "SUCCEEDED"
    finally:
        home.down()
