"""Supervised reinforcement learning (arXiv 2510.25992): one expert step at a time, similarity to it as the reward.

An instance is (problem and the expert's steps before k, step k), k = 1 to N - 1 of N steps as the paper has it; of a
single step there is none. The reward is the similarity of the actions alone: thoughts, numbers and titles are taken off
both. A step that does not end, or does not come after thoughts where they were asked for, has the reward -1.
As a control (the paper's "holistic" reward) the whole solution can be asked for and compared at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.contracts.solutions import without_head
from stepforge.contracts.work import SrlWork
from stepforge.errors import InvalidInput
from stepforge_jobs.engines.vllm import engine_of
from stepforge_jobs.job import Job
from stepforge_jobs.rl.rewards import FORMAT_PENALTY, similarity
from stepforge_jobs.training import asking
from stepforge_jobs.training.asking import Asker
from stepforge_jobs.training.gathering import Judged, Pool, sampling_choices
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.loop import train
from stepforge_jobs.training.stage import Start, begin, finish, fitting

Instance = tuple[Record, int]
"""A record and its step (0-based) that is asked for."""

NO_STEPS = "split 'train' has no records with steps: SRL learns expert steps. Give steps, or use RLVR alone"
ASKED = {
    "paper": "steps 1 to N - 1 of N",
    "all": "every step, the last one too",
    "whole": "the whole solution at once",
}
CHOICES = {
    "similarity": "difflib ratio of (generated, expert), autojunk off",
    "action": "thoughts before it and `N. **Title**` at its head are taken off, of the expert's step too",
    "format_failure": "no end within max_new_tokens, or no thoughts and then an action where they are asked for: -1",
}


def run(job: Job) -> None:
    """Train on the steps of split `train`. Raises InvalidInput where it has none."""
    work = job.spec.work
    assert isinstance(work, SrlWork)
    start = begin(job, work, "train", "rl")
    start.policy.asking = work.asking
    asker = start.policy.asker
    records = demonstrations(start)
    pool = pool_of(start, work)
    with engine_of(work, start.policy, [prompt for prompt, _ in pool.items]) as engine:
        stage = GrpoStage[str](
            start,
            work,
            pools=[pool],
            judge=lambda steps, completions: judge(asker, work, steps, completions),
            stops=stops_of(asker, work),
            engine=engine,
        )
        state = train(job, work, start.policy.network, stage)
    told = {**choices(work, records, len(pool.items)), "parsing": start.data.metadata.get("parsing")}
    finish(job, work, "srl", start.policy, state, {**stage.choices, **CHOICES, **told})


def demonstrations(start: Start) -> list[Record]:
    return [record for record in start.records if record.split == "train"]


def stops_of(asker: Asker, work: SrlWork) -> frozenset[int]:
    """Tokens that end a completion."""
    return frozenset({asker.codec.eos}) if work.instances == "whole" else asker.step_stops


def pool_of(start: Start, work: SrlWork) -> Pool[str]:
    """What the policy is asked and the expert's action, and in which order."""
    records = demonstrations(start)
    whole = work.instances == "whole"
    prompts, experts = whole_solutions(start, records) if whole else single_steps(start, work, records)
    runs = trajectories(instances(records, work)) if work.order == "trajectories" and not whole else None
    return Pool(list(zip(prompts, experts, strict=True)), count=work.batch_prompts, seed=work.seed, runs=runs)


def trajectories(chosen: Sequence[Instance]) -> list[list[int]]:
    """Places of the instances of each record, which come one after another."""
    return [[place for place, _ in run] for _, run in groupby(enumerate(chosen), key=lambda item: id(item[1][0]))]


def single_steps(start: Start, work: SrlWork, records: Sequence[Record]) -> tuple[list[list[int]], list[str]]:
    """What is seen before each step that is asked for, and the expert's action."""
    chosen = instances(records, work)
    return prompts_of(start, work, chosen), [without_head(record.steps[k].action) for record, k in chosen]


def whole_solutions(start: Start, records: Sequence[Record]) -> tuple[list[list[int]], list[str]]:
    """Each problem, and the actions of its expert solution, a line each."""
    solved = [record for record in records if record.steps]
    if not solved:
        raise InvalidInput(NO_STEPS)
    prompts = start.policy.asker.solutions(solved)
    targets = start.policy.codec.targets((record.solution for record in solved), end=True)
    for record, prompt, target in zip(solved, prompts, targets, strict=True):
        fitting(start.policy, record, prompt, target)
    return prompts, ["\n".join(without_head(step.action) for step in record.steps) for record in solved]


def instances(records: Sequence[Record], work: SrlWork) -> list[Instance]:
    """Step instances in the order of the records. Raises InvalidInput where there are none, with what would help."""
    if not any(record.steps for record in records):
        raise InvalidInput(NO_STEPS)
    last = 1 if work.instances == "paper" else 0
    found = [(record, k) for record in records for k in range(len(record.steps) - last)]
    if not found:
        raise InvalidInput(
            "no record of split 'train' has two steps or more, and the paper's instances are all but the last: set "
            "instances = 'all' in this stage"
        )
    return found


def prompts_of(start: Start, work: SrlWork, chosen: Sequence[Instance]) -> list[list[int]]:
    """Token ids of what is seen before each step. Raises InvalidInput for one that does not fit the model's context."""
    prompts = start.policy.asker.steps(chosen, next_title=work.next_title, window=work.window)
    actions = start.policy.codec.targets((record.steps[k].action for record, k in chosen), end=False)
    for (record, _), prompt, action in zip(chosen, prompts, actions, strict=True):
        fitting(start.policy, record, prompt, action)
    return prompts


def choices(work: SrlWork, records: Sequence[Record], count: int) -> dict[str, Any]:
    """What run.json says of this run's instances, prompts and reward."""
    seen = "all steps before it" if work.window is None else f"the last {work.window} steps before it"
    return {
        **sampling_choices(work),
        "instances": ASKED[work.instances],
        "count": count,
        "records_without_instance": sum(len(record.steps) == 1 for record in records)
        if work.instances == "paper"
        else 0,
        "context": "the problem"
        if work.instances == "whole"
        else f"the problem and {seen}{', with the title of the step itself' if work.next_title else ''}",
        "asking": work.asking,
        "system_prompt": [asking.THINK] * (work.asking == "think")
        + [asking.STEP, asking.TITLED_STEP] * (work.asking != "plain"),
        "similarity_unit": work.similarity,
        **({"order": "whole trajectories, step by step"} if work.order == "trajectories" else {}),
    }


def whole_answer(asker: Asker, completion: Sequence[int]) -> str | None:
    """A solution's text with the heads of its steps taken off; None where it did not end or the format fails."""
    answer = None if asker.refusal(completion) else asker.answer(completion)
    return None if answer is None else "\n".join(map(without_head, answer.splitlines()))


def judge(asker: Asker, work: SrlWork, experts: Sequence[str], completions: Sequence[Sequence[int]]) -> Judged:
    """Similarity of each completion's action to that of its expert's step; -1 for one without."""
    rewards: list[float] = []
    matched: list[float] = []
    for expert, completion in zip(experts, completions, strict=True):
        action = whole_answer(asker, completion) if work.instances == "whole" else asker.action(completion)
        if action is not None:
            matched.append(similarity(action, expert, unit=work.similarity))
        rewards.append(FORMAT_PENALTY if action is None else matched[-1])
    metrics = {Metric.FORMAT_FAILURES: 1.0 - len(matched) / len(rewards)}
    if matched:
        metrics[Metric.SIMILARITY] = sum(matched) / len(matched)
    return Judged(rewards=rewards, metrics=metrics)
