"""Reward function of reinforcement tunes at Bedrock and SageMaker: the verdict of the domain that a row names.

Takes a list of samples, each a row of the data with the model's answer as its last message and an `id`, and answers
with `aggregate_reward_score` for each (AWS, Implementing reward functions, Nova). It calls nothing and may do nothing.
"""

from __future__ import annotations

from typing import Any

from _runtime import configured
from stepforge_jobs.domains.grading import text_of, verdict_of


def handler(event: Any, context: Any) -> list[dict[str, Any]]:
    """A row that is not ours raises: a reward of 0 for it would be trained on."""
    with configured(__name__, context):
        samples = event if isinstance(event, list) else [event]
        return [graded(sample) for sample in samples]


def graded(sample: dict[str, Any]) -> dict[str, Any]:
    *_, answer = sample["messages"]
    found = verdict_of(sample, text_of(answer["content"]))
    metrics = [{"name": rule.rule, "value": rule.score, "type": "Metric"} for rule in found.rules]
    return {"id": sample["id"], "aggregate_reward_score": found.reward, "metrics_list": metrics}
