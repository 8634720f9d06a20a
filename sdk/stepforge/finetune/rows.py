"""One row in each provider's format, from a record and its texts; and what no text of a row may have in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepforge.contracts.records import Record
from stepforge.errors import InvalidInput
from stepforge.finetune.spec import Format, Method
from stepforge.logs import keys_in

RESERVED = ("User:", "Bot:", "Assistant:", "System:", "<image>", "<video>", "[EOS]")
"""In a prompt these make a Nova job fail (Amazon Nova, preparing data for understanding models)."""
Row = dict[str, Any]


def check(record: Record, text: str) -> None:
    """Raises InvalidInput naming the record."""
    if not text.strip():
        raise InvalidInput(f"record {record.id!r} has an empty prompt or completion: leave it out")
    if "\0" in text:
        raise InvalidInput(f"record {record.id!r} has the character NUL: take it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = error.start
        raise InvalidInput(
            f"record {record.id!r} has half a surrogate pair at character {where}: take it out"
        ) from None
    if found := keys_in(text):
        raise InvalidInput(
            f"record {record.id!r} holds what looks like a key ({found[0]}): take it out, and have the key changed"
        )


def check_reserved(record: Record, texts: list[str]) -> None:
    """Raises InvalidInput where a prompt would make a Nova job fail."""
    for text in texts:
        found = next((word for word in RESERVED if word in text), None)
        if found is not None:
            raise InvalidInput(f"record {record.id!r}: {found!r} in a prompt makes a Nova job fail: write it otherwise")


def _openai(method: Method, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    asked = [*([_say("system", system)] if system else []), _say("user", record.prompt)]
    if method == "sft":
        return {"messages": [*asked, _say("assistant", answers[0])]}
    if method == "distillation":
        return {"messages": [*asked, *(_say("assistant", text) for text in answers)]}
    if method == "dpo":
        preferred, rejected = ([_say("assistant", text)] for text in answers)
        return {"input": {"messages": asked}, "preferred_output": preferred, "non_preferred_output": rejected}
    return {
        "messages": asked,
        "reference_answer": answers[0],
        "record_id": record.id,
        "verifier": record.verifier,
    }


def _vertex(method: Method, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    row: Row = {"contents": [_part("user", record.prompt)]}
    if system and method == "dpo":
        raise InvalidInput(f"record {record.id!r}: Vertex's preference rows have no system instruction: leave it out")
    if system:
        row["systemInstruction"] = _part("system", system)
    if method == "sft":
        row["contents"].append(_part("model", answers[0]))
    elif method == "dpo":
        scores = zip((1.0, 0.0), answers, strict=True)
        row["completions"] = [{"score": score, "completion": _part("model", text)} for score, text in scores]
    elif method == "distillation":
        row["contents"] += [_part("model", text) for text in answers]
    else:
        references = {"reference_answer": answers[0], "record_id": record.id, "verifier": record.verifier}
        row["references"] = references
    return row


def _bedrock(method: Method, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    turns = (("user", record.prompt), *(("assistant", text) for text in answers))
    row: Row = {"schemaVersion": "bedrock-conversation-2024"}
    if system:
        row["system"] = [{"text": system}]
    row["messages"] = [{"role": role, "content": [{"text": text}]} for role, text in turns]
    return row


def _sagemaker(method: Method, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    asked = [*([_say("system", system)] if system else []), _say("user", record.prompt)]
    if method == "rft":
        return {
            "data_source": record.domain,
            "prompt": asked,
            "ability": record.domain,
            "reward_model": {"style": "rule", "ground_truth": answers[0]},
            "extra_info": {"record_id": record.id, "verifier": record.verifier},
        }
    prompt = f"{system}\n\n{record.prompt}" if system else record.prompt
    if method == "dpo":
        return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    return {"prompt": prompt, "completion": answers[0]}


def _prompt(method: Method, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    """For our own search: nothing but the prompts of calls leaves."""
    check(record, record.model_dump_json())
    return {"system": system, "record": record.model_dump(mode="json")}


WRITERS: dict[Format, Callable[[Method, Record, str | None, tuple[str, ...]], Row]] = {
    "openai": _openai,
    "vertex": _vertex,
    "bedrock": _bedrock,
    "sagemaker": _sagemaker,
    "prompt": _prompt,
}


def _say(role: str, text: str) -> Row:
    return {"role": role, "content": text}


def _part(role: str, text: str) -> Row:
    return {"role": role, "parts": [{"text": text}]}
