"""The commands in an environment: start, approve, predict, promote, compare, outcome, against local servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepforge.cli import main
from stepforge.finetune.entries import Stage
from stepforge.machines.executions import execution_arn
from stepforge.testing.providers import LocalAnthropic, LocalBedrock, LocalVertex

from .conftest import SECRET, Bench, until

PLAN = """
environment = "local"
base_model = "small"
method = "sft"
[provider]
type = "openai"
base_url = "{url}/v1"
api_key_secret = "{secret}"
[price]
kind = "training_job"
usd = 3
unit = "job"
as_of = 2026-11-01
source = "given in a test"
[budgets]
job_usd = 50
day_usd = 10_000
environment_usd = 10_000
approval_usd = {approval}
"""
Call = Callable[..., Any]


@pytest.fixture
def call(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command on the deployment of the tests, which a command of its own would bring up to date first."""
    monkeypatch.setattr("stepforge.client.connect", lambda *_, **__: bench.connection)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = main([*words, "--json"])
        said = capsys.readouterr()
        assert ended == code, said.err + said.out
        return json.loads(said.out)

    return run


def write(folder: Path, bench: Bench, *, mark: str, approval: int = 100) -> tuple[str, str]:
    plan, data = folder / f"{mark}.toml", folder / f"{mark}.jsonl"
    plan.write_text(PLAN.format(url=bench.server.url, secret=SECRET, approval=approval))
    rows = [{"prompt": f"{mark} {n}", "answer": str(n), "split": "rl"} for n in range(12)]
    rows += [{"prompt": f"{n}", "answer": f"{n}", "split": "test_new"} for n in range(3)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    return str(plan), str(data)


def test_a_tune_is_started_asked_and_promoted_and_no_prior_learns_from_a_fake(
    bench: Bench, call: Call, tmp_path: Path
) -> None:
    plan, data = write(tmp_path, bench, mark="first")
    first = call("finetune", "start", plan, "--data", data)
    assert (first["local_fake"], first["registered"]["adopted"]) == (True, False)
    assert call("finetune", "start", plan, "--data", data)["name"] == first["name"]
    other = write(tmp_path, bench, mark="other")
    second = call("finetune", "start", other[0], "--data", other[1])
    old, new = (f"records/{tune['registered']['version']}" for tune in (first, second))
    assert old != new
    assert "succeeded" in {entry["stage"] for entry in call("finetune", "list", "--shared")}

    compared = call("finetune", "compare", new, old)
    assert compared["from"] == ["openai: small [local fake]"] * 2
    assert set(compared["differences"]) == {"test_new/greedy", "test_new/sampled"}

    asked = call("predict", "7", "--domain", old)
    assert "nothing was trained" in asked["answers"][0]["completion"].lower()
    bench.deployed.approve(first["registered"]["package_arn"])
    assert call("registry", "show", old)["state"] == "Production"
    assert call("predict", "7", "--domain", "records")["model_sha256"] == asked["model_sha256"]

    question = "docs/decision/question-after-pilot.toml"
    verdict, outcomes = tmp_path / "verdict.json", tmp_path / "outcomes.json"
    verdict.write_text(json.dumps(call("finetune", "decide", question)))
    learnt = call("finetune", "outcome", str(verdict), "--tuned", new, "--base", old, "--experience", str(outcomes))
    assert learnt["local_fake"]
    assert (learnt["measured_gain"]["mean"], learnt["measured_fixed_usd"]) == (0.0, 3.0)
    # Nothing was trained, so nothing is learnt: the outcome is kept, and the prior stays.
    assert learnt["prior"]["after"] == learnt["prior"]["before"]
    assert [one["local_fake"] for one in json.loads(outcomes.read_text())["outcomes"]] == [True]


def test_nobody_s_address_leaves_in_data_or_questions_where_placeholders_were_asked_for(
    bench: Bench, call: Call, tmp_path: Path
) -> None:
    plan, data = write(tmp_path, bench, mark="people")
    rows = [{"prompt": f"{split} of ann@example.org", "answer": "ann@example.org", "split": split, "id": split}
            for split in ("rl", "test_new")]  # fmt: skip
    Path(data).write_text(Path(data).read_text() + "\n" + "\n".join(map(json.dumps, rows)))
    came: list[bytes] = []
    bench.server.plan = lambda request: came.append(request.body)
    refused = call("finetune", "start", plan, "--data", data, code=2)
    assert "and 1 more hold personal data (email in 2)" in refused["message"]
    assert came == []
    Path(plan).write_text(f'personal = "redact"\n{Path(plan).read_text()}')
    tuned = call("finetune", "start", plan, "--data", data)
    bodies = b"".join(came)
    assert b"ann@" not in bodies
    assert b"rl of [email]" in bodies  # trained on
    assert b"test_new of [email]" in bodies  # asked
    assert tuned["registered"]["adopted"] is False


def test_a_tune_that_waits_for_a_person_is_approved_by_its_key(bench: Bench, call: Call, tmp_path: Path) -> None:
    plan, data = write(tmp_path, bench, mark="dear", approval=1)
    begun = call("finetune", "start", plan, "--data", data, "--detach")

    def waiting() -> Any:
        found = [e for e in bench.ledger.entries() if e.stage == Stage.NEEDS_APPROVAL and e.target.endswith(port)]
        return found and bench.ledger.waiting(found[0].key) and found[0].key

    port = f"{bench.server.url}/v1"
    key = until(waiting)
    refused = call("finetune", "approve", key, "--by", "Ada", "--up-to", "2.99", code=11)
    assert refused["error"] == "OverBudget"
    assert "may cost 3.00 USD, and you agree to 2.99" in refused["message"]
    assert call("finetune", "approve", key, "--by", "Ada", "--up-to", "3")["approved_by"] == "Ada"
    ended = bench.deployed.ended(arn_of(bench, begun["name"]))
    assert ended["status"] == "SUCCEEDED"
    assert call("finetune", "approve", key, "--by", "Ada", code=2)["error"] == "InvalidInput"


def arn_of(bench: Bench, name: str) -> str:
    return execution_arn(bench.deployed.machines["finetune"], name)


def test_what_a_person_refuses_or_stops_costs_nothing(bench: Bench, call: Call, tmp_path: Path) -> None:
    plan, data = write(tmp_path, bench, mark="refused", approval=1)
    begun = call("finetune", "start", plan, "--data", data, "--detach")
    port = f"{bench.server.url}/v1"

    def waiting() -> Any:
        found = [e for e in bench.ledger.entries() if e.stage == Stage.NEEDS_APPROVAL and e.target.endswith(port)]
        return found and bench.ledger.waiting(found[0].key) and found[0].key

    key = until(waiting)
    refused = call("finetune", "refuse", key, "--by", "Ada", "--why", "too dear")
    assert (refused["stage"], refused["note"]) == ("refused", "Ada refused it: too dear")
    assert bench.deployed.ended(arn_of(bench, begun["name"]))["error"] == "NotApproved"
    again = call("finetune", "start", plan, "--data", data, "--detach")
    until(waiting)
    assert call("finetune", "stop", again["name"])["status"] == "ABORTED"
    until(lambda: bench.ledger.entry(key).stage == Stage.REFUSED)
    assert bench.server.calls("POST", "/v1/fine_tuning/jobs") == 0


def test_what_was_launched_here_is_registered_as_the_machine_does(
    bench: Bench, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a ledger of its own the command finds the machine's job by its key, and the machine's package by its
    digests: nothing in what it registers differs."""
    plan, data = write(tmp_path, bench, mark="from-here")
    by_machine = call("finetune", "start", plan, "--data", data)["registered"]
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    launched = call("finetune", "launch", plan, "--data", data)
    other = write(tmp_path, bench, mark="not-yet")
    running = call("finetune", "launch", other[0], "--data", other[1])
    refused = call("finetune", "register", other[0], running["key"], "--data", other[1], code=2)
    assert "watch" in refused["message"]
    assert call("finetune", "watch", plan, launched["key"])["stage"] == "succeeded"
    by_hand = call("finetune", "register", plan, launched["key"], "--data", data)["registered"]
    assert by_hand == {**by_machine, "adopted": True}
    # Two ledgers have it, and it costs once; what still trains has no bill yet.
    costs = {row["key"]: row for row in call("costs")["tunes"]["rows"]}
    assert (costs[launched["key"]]["estimate_usd"], costs[launched["key"]]["actual_usd"]) == ("3.00", None)
    assert costs[running["key"]]["local_fake"]
    # A verifier of the user's judges on this machine; another plan's launch is no launch of this one.
    (tmp_path / "my_rules.py").write_text(
        "def check(record, completion):\n    return completion.endswith(record.answer)\n"
    )
    monkeypatch.chdir(tmp_path)
    judged = call("finetune", "register", plan, launched["key"], "--data", data, "--verifier", "my_rules:check")
    assert judged["registered"]["adopted"]
    rows = (Path(data).read_text() + "\n" + json.dumps({"prompt": "one more", "answer": "1", "split": "rl"})).encode()
    Path(data).write_bytes(rows)
    refused = call("finetune", "register", plan, launched["key"], "--data", data, code=2)
    assert launched["key"] in refused["message"]


def test_pairs_and_a_validation_file_go_from_the_plan_to_the_provider_through_the_machine_and_from_here(
    bench: Bench, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, data = write(tmp_path, bench, mark="pairs")
    Path(plan).write_text('validation = "split"\n' + Path(plan).read_text().replace('"sft"', '"dpo"'))
    rows = [{"prompt": f"pairs {n}", "preferred": "\u2028 yes", "rejected": f"no {n}"} for n in range(60)]
    judged = [{"prompt": f"{n}", "answer": f"{n}", "split": "test_new"} for n in range(3)]
    Path(data).write_text("\n".join(json.dumps(row) for row in [*rows, *judged]))
    tuned = call("finetune", "start", plan, "--data", data)
    assert tuned["local_fake"]
    (job,) = bench.server.jobs.values()
    sides = [bench.server.contents[job[name]].splitlines() for name in ("training_file", "validation_file")]
    assert [len(side) > 0 for side in sides] == [True, True]
    sent = [json.loads(line) for side in sides for line in side]
    said = {(row["preferred_output"][0]["content"], row["non_preferred_output"][0]["content"]) for row in sent}
    assert said == {("\u2028 yes", f"no {n}") for n in range(60)}
    assert (job["method"]["type"], len(sent)) == ("dpo", 60)
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert call("finetune", "launch", plan, "--data", data)["job_id"] == job["id"]


CLAUDE = """
environment = "local"
base_model = "claude-test"
method = "prompt"
system = "Be kind."
[provider]
type = "anthropic"
base_url = "{url}"
api_key_secret = "{secret}"
budget_usd = 2
input_usd = 1
output_usd = 5
as_of = 2026-11-01
source = "given in a test"
{folder}
[optimiser]
{optimiser}
[budgets]
job_usd = 50
day_usd = 10_000
environment_usd = 10_000
approval_usd = 50
"""


BEDROCK = """
type = "bedrock"
target_model_id = "anthropic.claude-test-v1:0"
token_usd = 30
as_of = 2026-11-01
source = "given in a test"
endpoint_url = "{url}"
"""


def claude(system: str, messages: list[dict[str, Any]]) -> str:
    """Adds only where its prompt says so, and proposes such a prompt when asked for one."""
    text = str(messages[-1]["content"])
    if "plus one" in text and len(text) < 25:
        return f"\n{int(text.split()[0]) + 1}" if "ADD" in system else "no idea"
    return "```\nADD the numbers.\n```"


def test_a_prompt_for_claude_goes_from_the_decision_to_an_answer_from_here_and_through_the_machine(
    bench: Bench, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{n} plus one", "answer": f"{n + 1}", "split": "rl"} for n in range(6)]
    rows += [{"prompt": f"{n} plus one", "answer": f"{n + 1}", "split": "test_new"} for n in (20, 30)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    with (
        LocalAnthropic(answer=claude, delay_seconds=0.02) as server,
        LocalBedrock(rewrite=lambda prompt: f"{prompt} ADD.") as bedrock,
    ):
        folder = f'folder_uri = "s3://{bench.deployed.bucket}/finetune/prompts"'
        for name, more in (
            ("cloud", {"folder": folder, "optimiser": BEDROCK.format(url=bedrock.url)}),
            ("here", {"folder": "", "optimiser": 'type = "gepa"\nmax_metric_calls = 20'}),
        ):
            (tmp_path / f"{name}.toml").write_text(CLAUDE.format(url=server.url, secret=SECRET, **more))
        tuned = call("finetune", "start", str(tmp_path / "cloud.toml"), "--data", str(data))
        assert (tuned["local_fake"], float(tuned["cost_usd"]) <= 2) == (True, True)
        version = tuned["registered"]["version"]
        asked = call("predict", "41 plus one", "--domain", f"records/{version}")
        assert asked["answers"][0]["completion"].endswith("\n42")
        scores = call("registry", "show", f"records/{version}")
        assert '"external_provider": "anthropic"' in json.dumps(scores)

        monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
        plan = str(tmp_path / "here.toml")
        launched = call("finetune", "launch", plan, "--data", str(data))
        assert call("finetune", "watch", plan, launched["key"])["stage"] == "succeeded"
        registered = call("finetune", "register", plan, launched["key"], "--data", str(data))["registered"]
        assert (registered["adopted"], registered["version"]) == (False, version + 1)
        asked = call("predict", "7 plus one", "--domain", f"records/{version + 1}")
        assert asked["answers"][0]["completion"].endswith("\n8")


def test_a_prompt_search_that_is_refused_for_good_fails_its_execution_and_frees_the_money(
    bench: Bench, call: Call, tmp_path: Path
) -> None:
    data, plan = tmp_path / "sums.jsonl", tmp_path / "refused.toml"
    rows = [{"prompt": f"{n} plus two", "answer": f"{n + 2}", "split": "rl"} for n in range(6)]
    data.write_text("\n".join(json.dumps({**row, "split": s}) for row in rows for s in ("rl", "test_new")))
    before = bench.ledger.spent("local")
    with LocalAnthropic(answer=claude) as server:
        assert isinstance(server, LocalAnthropic)
        server.fail("echo", path="/v1/messages", times=50)
        folder = f'folder_uri = "s3://{bench.deployed.bucket}/finetune/prompts"'
        optimiser = 'type = "gepa"\nmax_metric_calls = 20'
        plan.write_text(CLAUDE.format(url=server.url, secret=SECRET, folder=folder, optimiser=optimiser))
        refused = call("finetune", "start", str(plan), "--data", str(data), code=4)
        assert "ledger" in refused["message"]
        (entry,) = [entry for entry in bench.ledger.entries() if server.url in entry.target]
        assert (entry.stage, bench.ledger.spent("local")) == (Stage.FAILED, before)
        assert "status 400" in (entry.note or "")
        assert server.calls("POST", "/v1/messages") == 1


GEMINI = """
environment = "local"
base_model = "gemini-3.5-flash"
method = "prompt"
system = "Be kind."
[provider]
type = "vertex"
project = "demo"
location = "us-central1"
folder_uri = "gs://bucket/tunes"
base_url = "{url}"
[provider.prompts]
service_account = "runner@demo.iam.gserviceaccount.com"
job_usd = 3
scoring_usd = 1
input_usd = 1
output_usd = 5
as_of = 2026-11-01
source = "given in a test"
[budgets]
job_usd = 50
day_usd = 10_000
environment_usd = 10_000
approval_usd = 50
"""


def gemini(system: str, contents: list[dict[str, Any]]) -> str:
    number = int(str(contents[-1]["parts"][-1]["text"]).split()[0])
    return f"\n{number + 1}" if "ADD" in system else "no idea"


def test_a_prompt_for_gemini_is_a_custom_job_launched_once_from_here_or_by_the_machine(
    bench: Bench, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = tmp_path / "sums.jsonl", tmp_path / "plan.toml"
    rows = [{"prompt": f"{n} plus one", "answer": f"{n + 1}", "split": "rl"} for n in range(9)]
    rows += [{"prompt": f"{n} plus one", "answer": f"{n + 1}", "split": "test_new"} for n in (20, 30)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    found = [("Be polite.", 0.9), ("ADD the numbers.", 0.5)]
    with LocalVertex(answer=gemini, candidates=lambda *_: found, delay_seconds=0.02) as server:
        assert isinstance(server, LocalVertex)
        plan.write_text(GEMINI.format(url=server.url))
        tuned = call("finetune", "start", str(plan), "--data", str(data))
        assert (tuned["local_fake"], tuned["cost_usd"]) == (True, "4.00")
        version = tuned["registered"]["version"]
        asked = call("predict", "41 plus one", "--domain", f"records/{version}")
        assert asked["answers"][0]["completion"].endswith("\n42")
        assert '"external_provider": "vertex"' in json.dumps(call("registry", "show", f"records/{version}"))

        monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
        launched = call("finetune", "launch", str(plan), "--data", str(data))
        # Another ledger: the job is known by its label.
        (job,) = server.optimisers.jobs
        assert launched["job_id"] == job
        assert call("finetune", "watch", str(plan), launched["key"])["stage"] == "succeeded"
