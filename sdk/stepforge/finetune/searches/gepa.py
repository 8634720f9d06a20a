"""gepa: reflects on what went wrong, keeps a Pareto front of prompts. Needs the extra `prompts`.

Agrawal et al., GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning (arXiv 2507.19457).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from stepforge.errors import MissingExtra
from stepforge.finetune.prompts import Example, Task


class Gepa:
    """`max_metric_calls` is gepa's own budget, in answers; the meter's counts in any case."""

    def __init__(self, *, max_metric_calls: int = 200, seed: int = 0) -> None:
        self._most, self._seed = max_metric_calls, seed

    def __call__(self, task: Task) -> None:
        try:
            import gepa
        except ImportError as error:
            raise MissingExtra("gepa", extra="prompts") from error
        gepa.optimize(
            seed_candidate={"prompt": task.seed_prompt},
            trainset=list(task.training),
            valset=list(task.validation),
            # gepa's generics leave an adapter's types open; ours are examples and answers.
            adapter=cast(Any, _Adapter(task)),
            reflection_lm=lambda prompt: task.ask(None, _text(prompt)),
            max_metric_calls=self._most,
            reflection_minibatch_size=min(3, len(task.training)),
            display_progress_bar=False,
            raise_on_exception=True,
            seed=self._seed,
            logger=_Silent(),
        )


class _Silent:
    """gepa prints prompts and answers."""

    def log(self, message: str) -> None: ...


class _Adapter:
    """gepa's adapter: a candidate is a system prompt, a score the metric's."""

    propose_new_texts = None

    def __init__(self, task: Task) -> None:
        self._task = task

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        found = self._task.run(candidate["prompt"], batch)
        outputs, scores = [text for text, _ in found], [score for _, score in found]
        traces = list(zip(batch, outputs, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=outputs, scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        rows = [
            {"Inputs": example.prompt, "Generated Outputs": output, "Feedback": _feedback(example, score)}
            for (example, output), score in zip(eval_batch.trajectories, eval_batch.scores, strict=True)
        ]
        return dict.fromkeys(components_to_update, rows)


def _text(prompt: str | list[dict[str, Any]]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(turn["content"]) for turn in prompt)


def _feedback(example: Example, score: float) -> str:
    return "right" if score >= 1 else f"scored {score:.2f}; a right answer is: {example.reference}"
