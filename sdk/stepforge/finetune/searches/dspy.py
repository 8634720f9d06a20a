"""dspy's COPRO: proposes instructions from those that it tried and their scores. Needs the extra `dspy`.

Khattab et al., DSPy: Compiling Declarative Language Model Calls into Self-Improving Pipelines (arXiv 2310.03714). Its
COPRO makes an instruction and nothing else, which is what a system prompt is, and draws nothing at random, so that the
same answers of the model lead to the same questions when a search is replayed.
"""

from __future__ import annotations

from typing import Any

from stepforge.errors import MissingExtra
from stepforge.finetune.keys import unlogged
from stepforge.finetune.prompts import Example, Task


class Copro:
    """`breadth` instructions in each of `depth` rounds are scored on the training examples, and on the validation
    examples those that were the best when they were tried, and at the end the best `validated` of all."""

    def __init__(self, *, breadth: int = 4, depth: int = 2, validated: int = 3) -> None:
        self._breadth, self._depth, self._validated = breadth, depth, validated

    def __call__(self, task: Task) -> None:
        try:
            import dspy
            from dspy.utils.exceptions import AdapterParseError
        except ImportError as error:
            raise MissingExtra("dspy", extra="dspy") from error
        examples = [dspy.Example(problem=e.prompt, example=e).with_inputs("problem", "example") for e in task.training]
        # One attempt and no cache: what is asked again is charged again, and the meter has to see it.
        asked = dspy.LM("stepforge/metered", engine=_Engine(task), cache=False, num_retries=0)
        copro = dspy.COPRO(
            metric=lambda example, found, trace=None: found.score, breadth=self._breadth, depth=self._depth
        )
        with unlogged(), dspy.context(lm=asked, adapter=dspy.ChatAdapter(), disable_history=True):
            try:
                best = copro.compile(
                    _student(dspy, task),
                    trainset=examples,
                    # More threads would ask in another order each time.
                    eval_kwargs={"num_threads": 1, "display_progress": False, "display_table": False},
                )
            except AdapterParseError:
                task.note = "the model proposed nothing in the form that dspy asks for"
                return
        for candidate in best.candidate_programs[: self._validated]:
            task.validate(candidate["instruction"])


class _Engine:
    """What dspy calls in the place of a provider."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def complete(self, request: Any) -> Any:
        from dspy import lm15

        said = self._task.ask(_text(request.system), "\n\n".join(_text(m.parts) or "" for m in request.messages))
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(said),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=0, output_tokens=0),
        )


class _Tried:
    """Validates what is the best on all training examples so far: the money may end before the search does."""

    def __init__(self, task: Task) -> None:
        self._task, self._best = task, -1.0
        self._scores: dict[str, list[float]] = {}

    def run(self, prompt: str, example: Example) -> float:
        ((_, score),) = self._task.run(prompt, [example])
        scores = self._scores.setdefault(prompt, [])
        scores.append(score)
        mean = sum(scores) / len(scores)
        if len(scores) == len(self._task.training) and mean > self._best:
            self._best = mean
            self._task.validate(prompt)
        return score


def _student(dspy: Any, task: Task) -> Any:
    """The program whose instruction is searched: its answers are those of the plain prompt, without dspy's fields."""
    tried = _Tried(task)

    class Student(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict(dspy.Signature("problem -> answer", task.seed_prompt))

        def forward(self, problem: str, example: Example) -> Any:
            if task.ended is None:
                try:
                    return dspy.Prediction(score=tried.run(self.predict.signature.instructions, example))
                except Exception:
                    # Kept by the task. dspy would log it, with the example.
                    if task.ended is None:
                        raise
            return dspy.Prediction(score=0.0)

    return Student()


def _text(parts: Any) -> str | None:
    if parts is None or isinstance(parts, str):
        return parts
    return "\n".join(part.text for part in parts)
