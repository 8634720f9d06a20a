"""Personal data in what a paid tune sends: told, refused, or replaced and judged again, before anything is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stepforge.cli._output import say
from stepforge.errors import InvalidInput
from stepforge.finetune.datasets import Item, expert_answer, record_of, redacted_item
from stepforge.finetune.evaluation import Verify
from stepforge.finetune.judging import Judge
from stepforge.finetune.pairs import heldout, trained
from stepforge.finetune.people import KINDS, Kind, kinds_in
from stepforge.finetune.personal import CHOICES, SYSTEM, spoken
from stepforge.finetune.plan import Plan

RECORDS = "records"


def cleared(plan: Plan, items: Sequence[Item], domain: str) -> list[Item]:
    """The records, where the plan lets them go to the provider: those that are held out by their prompts.

    Says what is kept or replaced, by kind. Raises InvalidInput naming records that hold personal data the plan refuses,
    and an expert's answer that its verifier accepts, and does not with placeholders.
    """
    kept = list(items)
    found = plan.personal_data(kept)
    in_system = kinds_in(plan.system or "")
    if plan.personal == "redact":
        # Of a held-out record an answer is not sent, and yet the tuned model is judged by it as it was learnt.
        judged_by = [record for record in heldout(kept) if redacted_item(record) != record]
        _judge_again(plan, [*(item for item in trained(kept) if record_of(item).id in found), *judged_by], domain)
    if not found and not in_system:
        return kept
    words = _words(found, in_system)
    if plan.personal == "refuse":
        raise InvalidInput(f"{words}, and would go to {plan.provider.type}: {CHOICES}")
    if plan.personal == "keep":
        say(f'{words}: sent to {plan.provider.type} as it is (personal = "keep")')
        return kept
    say(f'{words}: placeholders are sent in its place (personal = "redact")')
    return kept


def _words(found: dict[str, tuple[Kind, ...]], in_system: tuple[Kind, ...]) -> str:
    counts = Counter(kind for kinds in found.values() for kind in kinds)
    by_kind = ", ".join(f"{kind} in {counts[kind]:,}" for kind in KINDS if counts[kind])
    parts = [f"{SYSTEM} holds personal data ({', '.join(in_system)})"] if in_system else []
    if found:
        first, more = spoken(next(iter(found))), len(found) - 1
        rest = f" and {more:,} more hold" if more else " holds"
        parts.append(f"record {first!r}{rest} personal data ({by_kind})")
    return ", and ".join(parts)


def _judge_again(plan: Plan, items: Sequence[Item], domain: str) -> None:
    """Raises InvalidInput where placeholders make an accepted answer a wrong one: it would be learnt, or judged by."""
    own = getattr(getattr(plan.provider, "prompts", None) or plan.provider, "verifier", None) or plan.verifier
    own = own if own is not None and ":" in own else None
    asked = [(item, said) for item in items if (said := expert_answer(item)) and _can_be_judged(item, domain, own)]
    if not asked:
        return
    with Judge(domain, own) as judge:
        for item, said in asked:
            _check(item, said, judge)


def _check(item: Item, said: str, verify: Verify) -> None:
    after = redacted_item(item)
    if not verify(record_of(item), said).accepted or verify(record_of(after), expert_answer(after)).accepted:
        return
    raise InvalidInput(
        f"record {spoken(record_of(item).id)!r}: its expert's answer is accepted, and is not with placeholders in the "
        "place of personal data: write the record without them, or leave it out"
    )


def _can_be_judged(item: Item, domain: str, own: str | None) -> bool:
    return own is not None or domain != RECORDS or record_of(item).answer is not None
