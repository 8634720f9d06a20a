"""A job is followed until it ends, its cost is booked, and webhooks are believed only when they are signed."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stepforge.cli import main
from stepforge.errors import InvalidInput, ProviderRefused, WebhookRefused
from stepforge.finetune import State, TuneSpec
from stepforge.finetune.entries import Stage
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.ledger_file import FileLedger
from stepforge.finetune.openai import OpenAIProvider
from stepforge.finetune.watching import StillRunning, cancel, follow, watch
from stepforge.testing.providers import LocalOpenAI
from tests.unit.finetune.conftest import PRICE, Clock
from tests.unit.finetune.test_launching import BUDGETS, connect, run

SECRET = SecretStr("whsec_" + base64.b64encode(b"0123456789abcdef").decode())


@pytest.fixture
def launched(
    server: LocalOpenAI, spec: TuneSpec, tmp_path: Path, clock: Clock
) -> tuple[OpenAIProvider, Ledger, str, str]:
    ledger = FileLedger(tmp_path / "spend.sqlite", clock=clock)
    done = run(server, spec, tmp_path, ledger, clock)
    assert done.job is not None
    return connect(server), ledger, done.key, done.job.id


def test_a_watch_survives_outages_and_says_each_state_once(server: LocalOpenAI, launched: Any, clock: Clock) -> None:
    provider, _, _, job_id = launched
    for fault in ("error", "dropped", "throttled", "wrong_schema", "unknown_state"):
        server.fail(fault, method="GET", times=2)  # type: ignore[arg-type]
    seen = [(j.raw_state, j.state) for j in watch(provider, job_id, clock=clock, sleep=clock.sleep)]
    # Two looks went by under a name that nobody knows: neither ended the watch.
    assert seen[0] == ("in_review", State.UNKNOWN)
    assert seen[-1] == ("succeeded", State.SUCCEEDED)
    assert len(seen) == len({raw for raw, _ in seen})


def test_a_launch_is_followed_and_cancelled_at_the_account_that_it_was_sent_to(launched: Any) -> None:
    _, ledger, key, _ = launched
    other = OpenAIProvider(SecretStr("sk-test"), base_url="http://127.0.0.1:9/v1")
    with pytest.raises(InvalidInput, match="give the plan that it was launched with"):
        list(follow(other, ledger, key))
    with pytest.raises(InvalidInput, match="give the plan that it was launched with"):
        cancel(other, ledger, key)


def test_a_watch_of_days_asks_seldom_and_ends_with_advice(server: LocalOpenAI, launched: Any, clock: Clock) -> None:
    provider, _, _, job_id = launched
    server.plan = lambda _: "unknown_state"
    with pytest.raises(StillRunning, match=r"3\.0 days.*cancel"):
        list(watch(provider, job_id, deadline_seconds=3 * 86_400, clock=clock, sleep=clock.sleep))
    assert 400 < len(clock.slept) < 600
    assert max(clock.slept) <= 720


def test_a_job_that_does_not_exist_ends_the_watch(launched: Any, clock: Clock) -> None:
    with pytest.raises(ProviderRefused, match="404"):
        list(watch(launched[0], "ftjob-none", clock=clock, sleep=clock.sleep))


def test_the_cost_is_booked_when_a_job_has_ended(launched: Any, clock: Clock) -> None:
    provider, ledger, key, _ = launched
    entries = list(follow(provider, ledger, key, price=PRICE, clock=clock, sleep=clock.sleep))
    assert (entries[-1].stage, entries[-1].model is not None) == (Stage.SUCCEEDED, True)
    assert entries[-1].actual_usd is not None
    assert ledger.spent("local") == entries[-1].actual_usd < Decimal(11)
    assert [entry.stage for entry in follow(provider, ledger, key)] == [Stage.SUCCEEDED]


def test_cancel_stops_a_launch_wherever_it_stands(
    server: LocalOpenAI, spec: TuneSpec, launched: Any, tmp_path: Path, clock: Clock
) -> None:
    provider, ledger, key, _ = launched
    assert cancel(provider, ledger, key).stage == Stage.CANCELLED
    dear = BUDGETS.model_copy(update={"approval_usd": Decimal(1)})
    waiting = run(server, spec.model_copy(update={"attempt": 2}), tmp_path, ledger, clock, budgets=dear)
    assert cancel(provider, ledger, waiting.key).stage == Stage.REFUSED
    with pytest.raises(InvalidInput, match="no job to watch"):
        list(follow(provider, ledger, waiting.key))


# ── Webhooks ─────────────────────────────────────────────────────────────────────────────────────


def test_a_webhook_is_verified_and_its_job_fetched_anew(server: LocalOpenAI, launched: Any) -> None:
    provider, _, _, job_id = launched
    body, headers = server.webhook(job_id, secret=SECRET.get_secret_value())
    before = server.calls("GET", f"/v1/fine_tuning/jobs/{job_id}")
    job = provider.receive(body, headers, secret=SECRET)
    assert (job.id, server.calls("GET", f"/v1/fine_tuning/jobs/{job_id}")) == (job_id, before + 1)


@pytest.mark.parametrize("what", ["body", "secret", "old", "unsigned", "no json"])
def test_a_webhook_that_its_provider_did_not_sign_is_refused(what: str, server: LocalOpenAI, launched: Any) -> None:
    provider, _, _, job_id = launched
    at = 1_000_000_000.0 if what == "old" else None
    body, headers = server.webhook(job_id, secret=SECRET.get_secret_value(), at=at)
    secret = SecretStr("whsec_" + base64.b64encode(b"another").decode()) if what == "secret" else SECRET
    body = body.replace(b"fine_tuning", b"fine-tuning") if what == "body" else b"{" if what == "no json" else body
    headers = {} if what == "unsigned" else headers
    with pytest.raises(WebhookRefused):
        provider.receive(body, headers, secret=secret)


def test_the_page_s_webhook_books_what_was_launched_from_here(
    server: LocalOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("A_TEST_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", SECRET.get_secret_value())
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN.format(url=server.url, approval=10))
    rows = [{"id": f"r{n}", "prompt": f"{n} plus one", "answer": str(n + 1)} for n in range(12)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["finetune", "launch", "plan.toml", "--data", "data.jsonl", "--json"]) == 0
    launched = json.loads(capsys.readouterr().out)
    names: dict[str, Any] = {}
    exec(PAGE, names)
    for _ in range(8):
        provider_says = names["provider"].status(launched["job_id"])
    assert provider_says.state == State.SUCCEEDED
    names["hook"](*server.webhook(launched["job_id"], secret=SECRET.get_secret_value()))
    entry = names["ledger"].entry(launched["key"])
    assert (entry.stage, entry.model) == (Stage.SUCCEEDED, provider_says.model)
    with pytest.raises(WebhookRefused):
        names["hook"](*server.webhook(launched["job_id"], secret="whsec_" + base64.b64encode(b"another").decode()))


# ── The command line ─────────────────────────────────────────────────────────────────────────────

PAGE = (Path(__file__).parents[3] / "docs" / "finetune-openai.md").read_text()
PAGE = PAGE.partition("## Webhooks")[2].partition("```python\n")[2].partition("```")[0]
PLAN = """
environment = "local"
base_model = "gpt-4.1-mini"
method = "sft"
[provider]
type = "openai"
base_url = "{url}/v1"
api_key_env = "A_TEST_KEY"
[price]
kind = "training_tokens"
usd = 5
unit = "1M tokens"
as_of = 2026-11-01
source = "given in a test"
[budgets]
job_usd = 10
day_usd = 10
environment_usd = 20
approval_usd = {approval}
"""


def test_the_command_line_launches_once_watches_and_lists(
    server: LocalOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("A_TEST_KEY", "sk-planted-0123456789")
    plan, data = tmp_path / "plan.toml", tmp_path / "records.jsonl"
    rows = [{"prompt": f"{n} + 1 =", "answer": str(n + 1), "split": "rl"} for n in range(12)]
    rows.append({"prompt": "held out", "answer": "1", "split": "test_new"})
    data.write_text("\n".join(json.dumps(row) for row in rows))

    def call(*words: str) -> dict[str, Any]:
        assert main(["finetune", *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        return found if isinstance(found, dict) else found[0]

    plan.write_text(PLAN.format(url=server.url, approval=0))
    assert call("launch", str(plan), "--data", str(data))["stage"] == "needs approval"
    assert server.seen == []
    first = call("launch", str(plan), "--data", str(data), "--approve", "Ada")
    again = call("launch", str(plan), "--data", str(data))
    assert (first["stage"], first["job_id"], first["local_fake"]) == ("launched", again["job_id"], True)
    (uploaded,) = server.contents.values()
    assert (len(uploaded.splitlines()), b"held out" in uploaded) == (12, False)
    # A look moves the local server's job a phase further; the watch's own pauses are real.
    for _ in range(3):
        connect(server).status(first["job_id"])
    assert call("watch", str(plan), first["key"])["stage"] == "succeeded"
    assert call("list")["key"] == first["key"]
    assert call("cancel", str(plan), first["key"])["stage"] == "succeeded"
    assert main(["finetune", "launch", str(plan), "--data", "none.jsonl"]) == 2
    plan.write_text(plan.read_text().replace("day_usd", "daily_usd"))
    assert main(["finetune", "list"]) == 0
    assert main(["finetune", "watch", str(plan), first["key"]]) == 2
    said = capsys.readouterr()
    assert "local fake" in said.err + said.out or "daily_usd" in said.err
