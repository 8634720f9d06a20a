"""A domain's `verify` as the grader of a provider's reinforcement tune: from a row of its data and a completion.

The row has `record_id`, `verifier`, `reference_answer` and `messages`, as our data for OpenAI's protocol and Bedrock.
A domain whose prompt says the whole problem gets its scenario from there. A row for a user's own verifier has the
whole record.
"""

from __future__ import annotations

from typing import Any

from stepforge.contracts.records import Provenance, Record
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.domains import load_domain
from stepforge_jobs.domains.base import Askable, Domain


def verdict_of(item: dict[str, Any], completion: str, *, domain: Domain | None = None) -> Verdict:
    """By `domain`, or by the one that the row names.

    Raises UnknownName for one that does not ship, KeyError for a row that is not ours.
    """
    if "record" in item:
        record = Record.model_validate_json(item["record"])
        return (domain or load_domain(record.domain)).verify(record, completion)
    verifier, reference = str(item["verifier"]), item.get("reference_answer")
    domain = domain or load_domain(verifier.partition("@")[0])
    prompt = next(text_of(said["content"]) for said in reversed(item["messages"]) if said["role"] == "user")
    record = Record(
        id=str(item["record_id"]),
        domain=domain.name,
        source="user",
        split="rl",
        group="graded",
        prompt=prompt,
        scenario=domain.scenario(prompt) if isinstance(domain, Askable) else {},
        answer=None if reference is None else str(reference),
        verifier=verifier,
        provenance=Provenance(generator="grader@1"),
    )
    return domain.verify(record, completion)


def text_of(content: Any) -> str:
    """Of a message: text, or a list of parts with text."""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
