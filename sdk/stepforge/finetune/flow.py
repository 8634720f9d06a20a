"""The steps of the machine `finetune`, each of which may run twice with the same effect: Step Functions retries.

No step holds anything: what was asked is a request in S3, what was spent is in the ledger, and a `Flow` goes from state
to state. A job is looked at once a step, so that days of training hold no function.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stepforge.artifacts import read_bytes
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import Keys, package_group
from stepforge.contracts.records import Record
from stepforge.contracts.registry import ExternalLineage, PackageMetadata
from stepforge.economics.grounds import Grounds
from stepforge.errors import (
    ApprovalRefused,
    IntegrityError,
    InvalidInput,
    JobFailed,
    MissingExtra,
    OverBudget,
    ProviderUnavailable,
    Stopped,
    Throttled,
)
from stepforge.finetune.entries import Entry, Stage, day_of
from stepforge.finetune.evaluation import DECODINGS, Answer, Verify, ask, identity, write_evaluation
from stepforge.finetune.holding import shipped
from stepforge.finetune.job import Tuned
from stepforge.finetune.launching import check, launch
from stepforge.finetune.personal import check_asked
from stepforge.finetune.plan import AnthropicSettings, OpenAISettings, VertexSettings
from stepforge.finetune.provider import ChecksServing, Deployed, Labels, Provider
from stepforge.finetune.registering import register_external
from stepforge.finetune.request import Ended, Flow, Output, Request, Start, Tools
from stepforge.finetune.spec import launch_key
from stepforge.finetune.watching import billed, cancel

logger = logging.getLogger(__name__)
GROWTH = 1.5


def decide(tools: Tools, start: Start, judges: Callable[[str], object]) -> Flow:
    """Everything that can be said before money is spent: the verdict, the checks, the price, the budgets.

    `judges` raises where nobody can judge answers of a domain: what cannot be judged is not paid for.
    Raises DoesNotPay, UnknownName, InvalidInput, AddressRefused, ModelGone, OverBudget.
    """
    request = tools.request(start)
    if {request.spec.environment, request.plan.environment} != {tools.environment}:
        raise InvalidInput(
            f"the request is for environment {request.spec.environment!r}, but this is {tools.environment!r}: change "
            "`environment` in the plan, or start it with --env of the other"
        )
    judges(request.domain)
    if request.question is not None:
        grounds = request.grounds or Grounds.of(request.question, catalogue=shipped())
        grounds.choose(request.question, request.arm)
    check_asked(_heldout(tools, request), request.plan.personal, system=request.plan.system_sent)
    provider, spec = tools.provider(request), request.spec
    if isinstance(request.plan.provider, AnthropicSettings | OpenAISettings | VertexSettings):
        request.plan.provider.check_machine(request.plan.optimiser)
    if isinstance(provider, ChecksServing):
        provider.check_serving(spec)
    check(provider, spec, shutdown=request.shutdown, needed_until=request.needed_until)
    terms = tools.held(request, provider, counts=True)
    expected = provider.estimate(terms.spec, terms.price, hours=request.plan.hours)
    key = launch_key(spec, provider.target)
    entry = tools.ledger.reserve(key, spec, provider.target, expected, terms.budgets)
    if terms.why_asked:
        logger.info("a person is asked, whatever it costs: launch=%s why=%s", key, terms.why_asked)
    return Flow(
        start=start,
        key=key,
        stage=entry.stage,
        estimate_usd=str(expected.high_usd),
        wait_seconds=tools.first_seconds,
        releases=isinstance(provider, Deployed),
    )


def launch_once(tools: Tools, flow: Flow) -> Flow:
    """Send it, or adopt what was sent. `sending` means that another holds the turn: come back.

    Raises JobFailed for what was given up meanwhile: a function may begin after its execution was stopped, and must not
    set money aside anew. Raises ApprovalRefused for what nobody has agreed to in the ledger, however it came here.
    """
    entry, request = tools.ledger.entry(flow.key), tools.request(flow.start)
    if entry.stage == Stage.REFUSED:
        raise JobFailed(f"launch {flow.key} was given up and nothing was sent: {entry.note}. Start it again")
    provider = tools.provider(request)
    terms = tools.held(request, provider)
    if entry.stage == Stage.RESERVED:
        _hold_again(tools, entry)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in (request.spec.training, request.spec.validation):
            if file is None:
                continue
            data = tools.get("data", file.sha256)
            if len(data) != file.bytes:
                raise IntegrityError(f"{file.filename} has {len(data)} bytes, but the request says {file.bytes}")
            (folder / file.filename).write_bytes(data)
        done = launch(
            provider,
            request.spec,
            folder,
            ledger=tools.ledger,
            budgets=terms.budgets,
            price=terms.price,
            hours=request.plan.hours,
            shutdown=request.shutdown,
            needed_until=request.needed_until,
            tries=3,
        )
    if done.stage == Stage.NEEDS_APPROVAL:
        raise ApprovalRefused(
            f"launch {flow.key} was let go on without a name that agrees to its cost: nothing was sent. Start it "
            "again, and use `stepforge finetune approve`"
        )
    return flow.model_copy(update={"stage": done.stage})


def _hold_again(tools: Tools, entry: Entry) -> None:
    """A person agrees to one launch, and to the plan's budgets: the environment's hold for what is agreed to as well.

    Raises OverBudget.
    """
    if tools.limits is None:
        return
    day, spent = day_of(entry.reserved_at), tools.ledger.spent
    sums = ((None, tools.limits.environment_usd), (day, tools.limits.day_usd))
    for when, most in sums:
        if (usd := spent(entry.environment, day=when)) > most:
            raise OverBudget(
                f"launch {entry.key}: with it {usd:,.2f} USD are spent or promised{f' on {when}' if when else ''}, but "
                f"environment {entry.environment!r} may spend {most:,.2f}: nothing was sent. Have [tunes] raised in "
                "cdk/environments"
            )


def look(tools: Tools, flow: Flow) -> Flow:
    """One look at the job. A provider that cannot be asked is asked again at the next.

    Books the cost at the end. Raises Stopped where it was cancelled, JobFailed where it ended without a model.
    """
    entry = tools.ledger.entry(flow.key)
    if entry.stage == Stage.LAUNCHED:
        assert entry.job_id is not None
        request = tools.request(flow.start)
        provider = tools.provider(request)
        try:
            job = provider.status(entry.job_id)
        except (Throttled, ProviderUnavailable):
            return _later(tools, flow)
        price = tools.held(request, provider).price
        entry = tools.ledger.record(flow.key, job, actual_usd=billed(job, price))
    if entry.stage == Stage.CANCELLED:
        raise Stopped(f"launch {flow.key}, job {entry.job_id}, was cancelled: nothing more is charged")
    if entry.stage in (Stage.FAILED, Stage.EXPIRED, Stage.REFUSED):
        # The provider's words may quote the data, and what is raised here is logged.
        why = "why stands in the ledger: `stepforge finetune list --shared --json`" if entry.note else "no reason given"
        raise JobFailed(f"launch {flow.key}, job {entry.job_id}, {entry.stage}: {why}")
    return _later(tools, flow.model_copy(update={"stage": entry.stage}))


def _later(tools: Tools, flow: Flow) -> Flow:
    pause = min(tools.most_seconds, max(tools.first_seconds, int(flow.wait_seconds * GROWTH)))
    return flow.model_copy(update={"wait_seconds": pause})


def retrieve(tools: Tools, flow: Flow) -> Flow:
    """The model, ready to be called. Raises NotReady while it is being deployed."""
    entry = tools.ledger.entry(flow.key)
    assert entry.job_id is not None
    request = tools.request(flow.start)
    provider = tools.provider(request)
    if isinstance(provider, Deployed):
        tuned = provider.deploy(entry.job_id, trial=True, tags=request.cost_tags)
    else:
        tuned = provider.retrieve(entry.job_id)
    return flow.model_copy(update={"tuned": tuned})


def evaluate(
    tools: Tools, flow: Flow, verify: Verify, *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> Flow:
    """Ask for answers for as long as there is time, and judge them once all are there."""
    request, tuned = tools.request(flow.start), _tuned(flow)
    records = _heldout(tools, request)
    folder, began = Keys.finetune("evaluations", flow.key), clock()
    found: list[Answer] = []
    answers = ask(
        tools.provider(request),
        tuned,
        records,
        system=request.plan.system_sent,
        personal=request.plan.personal,
        max_tokens=request.max_tokens,
        start=flow.asked,
    )
    try:
        for answer in answers:
            found.append(answer)
            if clock() - began >= seconds:
                break
    except (Throttled, ProviderUnavailable):
        if not found:
            raise
    if found:
        part = b"".join(canonical_json(answer) + b"\n" for answer in found)
        tools.put(f"{folder}/parts/{flow.asked:08d}.ndjson", part)
    flow = flow.model_copy(update={"asked": flow.asked + len(found)})
    if flow.asked < len(records) * len(DECODINGS):
        return flow
    whole = _answers(tools, f"{folder}/parts/", len(records) * len(DECODINGS))
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary)
        manifest, _ = write_evaluation(
            written,
            tuned,
            records,
            whole,
            verify,
            spec_sha256=flow.start.request_sha256,
            manifest_sha256=request.heldout_sha256,
        )
        # Sampled answers differ from time to time, so each evaluation has a folder of its own; the manifest comes last.
        target = f"{folder}/{manifest.sha256[:16]}"
        for path in sorted(written.iterdir(), key=lambda path: path.name == "manifest.json"):
            tools.put(f"{target}/{path.name}", path.read_bytes())
    ref = ArtifactRef(uri=f"s3://{tools.bucket}/{target}/", sha256=manifest.sha256)
    return flow.model_copy(update={"evaluation": ref})


def _heldout(tools: Tools, request: Request) -> list[Record]:
    lines = tools.get("heldout", request.heldout_sha256).splitlines()
    return [Record.model_validate_json(line) for line in lines]


def release(tools: Tools, flow: Flow) -> Flow:
    """Remove the endpoint of the evaluation. What is registered is where the model answers once it is promoted."""
    entry, provider = tools.ledger.entry(flow.key), tools.provider(tools.request(flow.start))
    if entry.job_id is None or not isinstance(provider, Deployed):
        return flow
    provider.undeploy(entry.job_id, trial=True)
    if flow.tuned is None:
        return flow
    handle = provider.retrieve(entry.job_id).handle
    return flow.model_copy(update={"tuned": flow.tuned.model_copy(update={"handle": handle})})


def _answers(tools: Tools, prefix: str, count: int) -> list[Answer]:
    """In the order of asking: a step that was repeated has overwritten its part, or left a longer one before it."""
    pages = tools.s3.get_paginator("list_objects_v2").paginate(Bucket=tools.bucket, Prefix=prefix)
    answers: list[Answer] = []
    for key in sorted(entry["Key"] for page in pages for entry in page.get("Contents", [])):
        start = int(key.removeprefix(prefix).partition(".")[0])
        lines = read_bytes(tools.s3, f"s3://{tools.bucket}/{key}").splitlines()
        answers[start:] = [Answer.model_validate_json(line) for line in lines]
    return answers[:count]


def register(tools: Tools, flow: Flow) -> Output:
    """A package beside our own, once."""
    request, tuned, entry = tools.request(flow.start), _tuned(flow), tools.ledger.entry(flow.key)
    assert flow.evaluation is not None
    metadata, lineage = lineage_of(flow.start, request, tuned, entry, flow.evaluation)
    group = package_group(request.domain, tools.environment)
    registered, comparison = register_external(
        tools.sagemaker, tools.s3, group=group, metadata=metadata, lineage=lineage
    )
    provider = tools.provider(request)
    about = {"stepforge-group": group, "stepforge-version": str(registered.version)}
    label(provider, tuned, {**about, "stepforge-key": flow.key})
    return Output(
        key=flow.key,
        registered=registered,
        comparison=comparison,
        cost_usd=str(entry.cost_usd),
        local_fake=tuned.local_fake,
    )


def label(provider: Provider, tuned: Tuned, labels: Mapping[str, str]) -> None:
    """Label the model in the provider's own registry, where there is one and its client is here.

    The client of Vertex's registry is large, and a layer may lack it. What is missed is for people who look there: our
    registry has it all.
    """
    if not isinstance(provider, Labels):
        return
    try:
        provider.label(tuned, labels)
    except MissingExtra as error:
        logger.warning("the model is not labelled at its provider: model=%s error=%s", tuned.model, error)


def lineage_of(
    start: Start, request: Request, tuned: Tuned, entry: Entry, evaluation: ArtifactRef
) -> tuple[PackageMetadata, ExternalLineage]:
    """What a package says of where its model comes from."""
    metadata = PackageMetadata(
        pipeline_sha256=start.request_sha256,
        model_sha256=identity(tuned),
        evaluation_sha256=evaluation.sha256,
        evaluation_uri=evaluation.uri,
        dataset_sha256=request.spec.training.sha256,
        training_job_arn=tuned.job_id,
        domain=request.domain,
    )
    lineage = ExternalLineage(
        external_provider=tuned.provider,
        external_job=tuned.job_id,
        external_model=tuned.model,
        external_handle=tuned.handle,
        external_base=request.spec.base_model,
        external_key=entry.key,
        external_request_uri=start.request_uri,
        external_cost_usd=str(entry.cost_usd),
        external_local_fake="yes" if tuned.local_fake else "no",
    )
    return metadata, lineage


def give_up(tools: Tools, flow: Flow) -> Flow:
    """Nobody agreed to the cost, or it was never sent: the money is free again."""
    return flow.model_copy(update={"stage": tools.ledger.withdraw(flow.key, "not approved, or given up").stage})


def stop(tools: Tools, start: Start) -> Ended:
    """Stop a launch wherever it stands, and with it its charge. For executions that were stopped or timed out."""
    request = tools.request(start)
    provider = tools.provider(request)
    entry = cancel(provider, tools.ledger, launch_key(request.spec, provider.target))
    deploys = False
    if entry.job_id is not None and isinstance(provider, Deployed):
        provider.undeploy(entry.job_id, trial=True)
        deploys = entry.stage == Stage.SUCCEEDED
    return Ended(entry, deploys)


def _tuned(flow: Flow) -> Tuned:
    assert flow.tuned is not None
    return flow.tuned
