"""A domain's `verify` as the grader of a provider's reinforcement tune: from a row of its data and a completion.

The row has `record_id`, `verifier`, `reference_answer` and `messages`, as our data for OpenAI's protocol and Bedrock.
A domain whose prompt says the whole problem gets its scenario from there. Not covered: users' own verifiers, and
domains that need more of a record than its prompt and its answer.
"""

from __future__ import annotations

from typing import Any

from stepforge.contracts.records import Provenance, Record
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.domains import load_domain
from stepforge_jobs.domains.base import Askable


def verdict_of(item: dict[str, Any], completion: str) -> Verdict:
    """Raises UnknownName for a domain that does not ship, KeyError for a row that is not ours."""
    verifier, reference = str(item["verifier"]), item.get("reference_answer")
    domain = load_domain(verifier.partition("@")[0])
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
