"""What a verdict rests on beside its question, so that whoever has both comes to the same verdict.

A command has a catalogue with rows of one's own, outcomes so far and advisors; a state machine has what travels in a
request. Here is what they share: the rows, pairs, priors and criteria that this question's verdict is computed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from stepforge.contracts.base import Contract
from stepforge.contracts.decisions import Criterion, Decision, Method, Question
from stepforge.economics.catalogue import Catalogue, ModelRow, Pairs, teacher_row
from stepforge.economics.criteria import Advisor, Told, pooled
from stepforge.economics.decide import decide
from stepforge.economics.experience import Experience, MethodPrior
from stepforge.errors import DoesNotPay, UnknownName


class Grounds(Contract):
    """All of them, those that ship included: an environment with another release has other rows and priors.

    It is whoever asks that gives them. They decide on the advice and on nothing else: what a launch is charged, and
    which budgets hold, is in `stepforge.finetune.holding`.
    """

    models: tuple[ModelRow, ...] = ()
    """Rows of the arms' models and of teachers."""
    pairs: tuple[Pairs, ...] = ()
    priors: dict[Method, MethodPrior] = {}
    """Of the methods whose arms say no gain of their own."""
    criteria: tuple[Criterion, ...] = ()

    @classmethod
    def of(
        cls,
        question: Question,
        *,
        catalogue: Catalogue,
        experience: Experience | None = None,
        advisors: Sequence[Advisor] = (),
    ) -> Self:
        """What `decide` would read of these for this question.

        Raises UnknownName for a model that the catalogue does not have, or a criterion about another arm.
        """
        known = experience or Experience()
        asked = {arm.model: catalogue.row(arm.model) for arm in question.arms if arm.model is not None}
        pairs = tuple(pair for pair in catalogue.pairs if not asked.keys().isdisjoint(pair.students))
        taught = {(arm.model, arm.teacher) for arm in question.arms if arm.model and arm.teacher}
        # A refusal names the teachers that are left.
        teachers = {teacher_row(*one) for one in taught} | {one for pair in pairs for one in pair.teachers}
        rows = {**asked, **{one: catalogue.rows[one] for one in teachers if one in catalogue.rows}}
        return cls(
            models=tuple(rows[name] for name in sorted(rows)),
            pairs=pairs,
            priors={arm.method: known.learned(arm.method) for arm in question.arms if arm.gain is None},
            criteria=pooled(question, advisors),
        )

    def verdict(self, question: Question) -> Decision:
        """As `decide`, and raises as it does."""
        return decide(
            question,
            catalogue=Catalogue({row.id: row for row in self.models}, self.pairs),
            experience=Experience(starts=self.priors),
            advisors=(Told(self.criteria),),
        )

    def choose(self, question: Question, arm: str | None) -> Decision:
        """The verdict, which launches this arm. Raises DoesNotPay where it does not, UnknownName for no arm of it."""
        names = [one.name for one in question.arms]
        if arm not in names:
            raise UnknownName("arm of the question", str(arm), names)
        verdict = self.verdict(question)
        if (verdict.action, verdict.arm) != ("launch", arm):
            raise DoesNotPay(f"arm {arm!r} is not what the evaluator would launch: {verdict.sentence}")
        return verdict
