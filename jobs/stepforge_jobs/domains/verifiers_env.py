"""Environments of the package `verifiers` as records and a verifier of one's own.

    python -m stepforge_jobs.domains.verifiers_env my-env --out records.jsonl

writes the tasks of an installed environment as records, and a file `my_rules.py` with the two lines

    from stepforge_jobs.domains.verifiers_env import environment_verifier
    verifier = environment_verifier("my-env")

makes its rewards the verifier: `stepforge run train --data records.jsonl --verifier my_rules:verifier --model PATH`.

This speaks the API of verifiers 0.4 (`verifiers.v1`: tasksets, tasks, rewards that read a trace). A completion becomes
a trace of one turn, which the environment's own `Task.score` judges without a runtime, as `vf-replay` does.
Not covered, and refused with the reason: several turns or agents, tools, containers, images, language models that
judge where the settings show them, and the older API (`load_environment`, `Rubric`).
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from stepforge.contracts.base import canonical_json
from stepforge.contracts.records import Record
from stepforge.contracts.rewards import RuleResult, Verdict
from stepforge.contracts.user_records import ShortRecord
from stepforge.errors import InvalidInput, StepforgeError

INSTALL = "install it: pip install 'stepforge[verifiers]'"
TOLERANCE = 1e-9
_RUNTIME_HOOKS = ("setup", "finalize", "stage_verifier")


def records_from_environment(
    environment: str, *, limit: int | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[ShortRecord]:
    """The tasks of an environment, at most `limit`, in its own order. They name no verifier: a run fills that in.

    `environment` is the name of an installed package, `settings` are fields of its taskset's configuration.
    Raises InvalidInput where the environment or one of its tasks cannot be used here.
    """
    vf, taskset = _load(environment, settings)
    if limit is None and not taskset.bounded:
        raise InvalidInput(f"environment {environment!r} has no end: give a limit")
    for task in taskset if limit is None else taskset.take(limit):
        _refuse_task(environment, task)
        prompt = "\n\n".join(message.content for message in _messages(vf, environment, task))
        # Not exclude_defaults: it would drop the role that tells a message from another.
        plain = task.data.model_dump(mode="json", include=task.data.model_fields_set)
        if task.data_type().model_validate(plain) != task.data:
            raise InvalidInput(
                f"task {task.data.idx} of {environment!r} does not survive being written as JSON: its rewards could "
                "not be asked again. Make every field of its TaskData plain data"
            )
        answer = getattr(task.data, "answer", None)
        yield ShortRecord(
            prompt=prompt,
            answer=str(answer) if isinstance(answer, str | int | float) else None,
            scenario={"environment": environment, "task": plain},
        )


def environment_verifier(
    environment: str, *, accept_at: float = 1.0, settings: Mapping[str, Any] | None = None
) -> Callable[[Record, str], Verdict]:
    """A verifier that asks the environment's rewards, with their weights.

    The verdict's reward is the weighted sum over the largest sum there can be, cut to [0, 1]; a completion is accepted
    where that is at least `accept_at`. The rules are the rewards, none of them hard. A reward with a negative weight is
    a penalty: its rule's score is 1 where it does not apply. Raises InvalidInput where the environment cannot be used.
    """
    if not 0 < accept_at <= 1:
        raise InvalidInput(f"accept_at is {accept_at!r}: give a share of the largest reward, above 0 and at most 1")
    vf, taskset = _load(environment, settings)
    task_type = taskset.task_type()
    state_type = import_module("verifiers.v1.state").state_cls(task_type)
    version = vf.VersionInfo(version=import_module("verifiers").__version__)

    def verify(record: Record, completion: str) -> Verdict:
        if record.scenario.get("environment") != environment:
            raise InvalidInput(
                f"record {record.id!r} is not of the environment {environment!r}: its scenario has the keys "
                f"{sorted(record.scenario)}. Write the records with `python -m {_MODULE} {environment}`"
            )
        task = task_type(task_type.data_type().model_validate(record.scenario["task"]), taskset.config.task)
        asked = _messages(vf, environment, task)
        nodes = [vf.MessageNode(message=m, parent=i - 1 if i else None) for i, m in enumerate(asked)]
        answer = vf.AssistantMessage(content=completion)
        nodes.append(vf.MessageNode(message=answer, parent=len(asked) - 1, sampled=True))
        trace = vf.Trace(
            task=vf.TraceTask(type=task_type.__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
            nodes=nodes,
            state=state_type(),
            verifiers=version,
            is_completed=True,
            ok=True,
        )
        asyncio.run(task.score(trace))
        return _verdict(trace.rewards, accept_at=accept_at)

    return verify


def _verdict(rewards: Mapping[str, Any], *, accept_at: float) -> Verdict:
    """Raises InvalidInput where a score is no number up to 1, or no weight is positive."""
    rules: list[RuleResult] = []
    total = largest = 0.0
    for name, reward in rewards.items():
        if reward is None or not math.isfinite(reward.score) or reward.score > 1:
            score = None if reward is None else reward.score
            raise InvalidInput(f"reward {name!r} is {score!r}: scores must be numbers of at most 1; scale it")
        total += reward.score * reward.weight
        largest += max(reward.weight, 0.0)
        score = max(reward.score, 0.0)
        rules.append(
            RuleResult(
                rule=name,
                score=score if reward.weight >= 0 else 1 - score,
                hard=False,
                message=f"{reward.score:g} x {reward.weight:g}",
            )
        )
    if largest <= 0:
        raise InvalidInput(f"no reward has a positive weight, given {sorted(rewards)}: there is nothing to learn")
    share = total / largest
    return Verdict(
        accepted=share >= accept_at - TOLERANCE,
        reward=min(max(share, 0.0), 1.0),
        partial=sum(rule.score for rule in rules) / len(rules),
        rules=tuple(rules),
    )


# ── What can be used here ────────────────────────────────────────────────────────────────────────


def _load(environment: str, settings: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The library and the environment's taskset. Raises InvalidInput where one is missing or cannot be used."""
    try:
        vf: Any = import_module("verifiers.v1")
    except ImportError as error:
        raise InvalidInput(f"the package verifiers (0.4) cannot be imported ({error}): {INSTALL}") from error
    try:
        config = vf.taskset_config_type(environment).model_validate({"id": environment, **(settings or {})})
        taskset = vf.load_taskset(config)
        environment_type, harness = vf.environment_class(environment), vf.default_harness_id(environment)
    except ModuleNotFoundError as error:
        raise InvalidInput(f"environment {environment!r} cannot be imported: {error}") from error
    except (AttributeError, TypeError) as error:
        raise InvalidInput(
            f"environment {environment!r} exports no Taskset ({error}): environments of the older API "
            "(`load_environment`) are not covered; move it to a Taskset of verifiers 0.4"
        ) from error
    except ValueError as error:
        raise InvalidInput(f"environment {environment!r} cannot be loaded: {error}") from error
    if reason := _unsuitable(vf, taskset, environment_type, harness, environment):
        raise InvalidInput(f"environment {environment!r} cannot be used here: {reason}")
    return vf, taskset


def _unsuitable(vf: Any, taskset: Any, environment_type: type, harness: str, name: str) -> str | None:
    """Why an environment is more than prompts and rewards that read one answer; None where it is not."""
    task_type, config = taskset.task_type(), taskset.config.task
    probe = task_type(task_type.data_type().model_construct(), config)
    if environment_type is not vf.SingleAgentEnv:
        return f"it brings its own {environment_type.__name__}, with several turns or agents; here a model answers once"
    if harness == name:
        return "it brings its own harness; here a model answers once"
    if taskset.toolsets(taskset.config) or task_type.toolsets(config):
        return "it has tools; here a model answers once, without tools"
    if task_type.NEEDS_CONTAINER:
        return "its tasks need a container"
    if overridden := [hook for hook in _RUNTIME_HOOKS if getattr(task_type, hook) is not getattr(vf.Task, hook)]:
        return f"its tasks prepare a runtime ({', '.join(overridden)}); here answers are judged without one"
    if config.judges:
        return f"the judges {[judge.id for judge in config.judges]} ask a language model over the network"
    if asks := [field for field, value in config if isinstance(value, vf.BaseClientConfig)]:
        return f"its settings {asks} are for a language model over the network"
    rewards = probe.hooks("reward")
    if not rewards:
        return "it has no rewards: there is nothing to learn"
    if needs := [fn.__name__ for fn in (*rewards, *probe.hooks("metric")) if _needs_runtime(fn)]:
        return f"{needs} need a runtime; here answers are judged without one"
    return None


def _needs_runtime(function: Callable[..., Any]) -> bool:
    parameter = inspect.signature(function).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _refuse_task(environment: str, task: Any) -> None:
    data = task.data
    needs = [name for name in ("image", "workdir", "skills", "artifacts") if getattr(data, name)]
    if needs:
        raise InvalidInput(
            f"task {data.idx} of {environment!r} has {needs}: here answers are judged without a container"
        )


def _messages(vf: Any, environment: str, task: Any) -> list[Any]:
    """What a model is given before it answers, as messages of plain text: the system prompt, then the user's."""
    data = task.data
    given = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else list(data.prompt or [])
    messages = [] if data.system_prompt is None else [vf.SystemMessage(content=data.system_prompt)]
    for message in given:
        parts = message.content if isinstance(message.content, list) else []
        if message.role not in ("system", "user"):
            raise InvalidInput(
                f"task {data.idx} of {environment!r} begins with a message of the role {message.role!r}: "
                "conversations are not covered; put what was said into one prompt"
            )
        if any(part.type != "text" for part in parts):
            raise InvalidInput(f"task {data.idx} of {environment!r} shows an image: only text is covered")
        messages.append(type(message)(content="\n".join(p.text for p in parts) if parts else message.content))
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise InvalidInput(f"task {data.idx} of {environment!r} has no prompt: somebody else opens the conversation")
    return messages


# ── Command line ─────────────────────────────────────────────────────────────────────────────────

_MODULE = "stepforge_jobs.domains.verifiers_env"


def write_records(
    environment: str, out: Path, *, limit: int | None = None, settings: Mapping[str, Any] | None = None
) -> int:
    """Write the records of an environment to a new file, and return how many. A failure leaves no file."""
    if out.exists():
        raise InvalidInput(f"{str(out)!r} exists already: give another --out")
    if not out.parent.is_dir():
        raise InvalidInput(f"{str(out.parent)!r} is not a folder: make it first")
    aside = out.with_name(f".{out.name}.tmp")
    count = 0
    try:
        with aside.open("wb") as stream:
            for record in records_from_environment(environment, limit=limit, settings=settings):
                stream.write(canonical_json(record.model_dump(mode="json", exclude_defaults=True)) + b"\n")
                count += 1
        if not count:
            raise InvalidInput(f"environment {environment!r} has no tasks")
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an environment's tasks as records. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=main.__doc__)
    parser.add_argument("environment", help="name of the installed environment")
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as records.jsonl")
    parser.add_argument("--limit", type=int, help="most tasks; needed where the environment has no end")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the taskset")
    given = parser.parse_args(arguments)
    try:
        settings = dict(_setting(item) for item in given.set)
        count = write_records(given.environment, given.out, limit=given.limit, settings=settings)
    except StepforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{count} records: {given.out}")
    return 0


def _setting(item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals:
        raise InvalidInput(f"--set {item!r} has no value: write it as KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


if __name__ == "__main__":
    sys.exit(main())
