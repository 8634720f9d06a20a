"""Lines without any secret: real ones of runs, tests and builds, and made-up ones with what looks like a secret."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable
from pathlib import Path

Random = random.Random
Line = Callable[[Random], str]
_FOLDER = Path(__file__).parent


def of_runs(half: str) -> list[str]:
    return (_FOLDER / f"runs_{half}.txt").read_text().splitlines()


def _hex(r: Random, length: int) -> str:
    return "".join(r.choice("0123456789abcdef") for _ in range(length))


def _digits(r: Random, length: int) -> str:
    return "".join(r.choice(string.digits) for _ in range(length))


def _date(r: Random) -> str:
    return f"20{r.randrange(20, 40)}-{r.randrange(1, 13):02}-{r.randrange(1, 29):02}"


def _time(r: Random) -> str:
    return f"{r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}"


def _uuid(r: Random) -> str:
    return str(uuid.UUID(int=r.getrandbits(128), version=4))


def _arn(r: Random) -> str:
    what = r.choice(["training-job/srl-", "model-package/stepforge-facial/", "endpoint/stepforge-"])
    return f"arn:aws:sagemaker:eu-central-1:{_digits(r, 12)}:{what}{_hex(r, 12)}"


TUNING: list[Line] = [
    lambda r: f"{_date(r)} {_time(r)},{_digits(r, 3)} INFO states execution started: {_arn(r)}",
    lambda r: f"sha256:{_hex(r, 64)} ok",
    lambda r: f'{{"event": "progress", "stage": "srl", "step": {r.randrange(999)}, "loss": {r.random():.17g}}}',
    lambda r: f"REPORT RequestId: {_uuid(r)} Duration: {r.random() * 1e4:.2f} ms Billed Duration: {_digits(r, 4)} ms",
    lambda r: f"s3://stepforge-{_digits(r, 12)}-eu-central-1/jobs/rlvr-{_hex(r, 12)}-a0/model/weights-{_digits(r, 5)}",
    lambda r: f"commit {_hex(r, 40)}",
    lambda r: f"seed={r.getrandbits(63)} step={_digits(r, 8)} tokens={_digits(r, 9)}",
    lambda r: f"at {r.random() * 2e9:.6f} (epoch), ns={r.randrange(10**18, 2 * 10**18)}",
    lambda r: f"grad_norm={r.random():.16f} lr={r.random() / 1e5:.16e} kl={-r.random():.9f}",
    lambda r: f"completion_tokens={_digits(r, 6)} pad_token=<pad> eos_token_id={_digits(r, 5)} max_tokens: 9",
    lambda r: f'  File "/home/user/app/client_{_digits(r, 3)}.py", line {r.randrange(999)}, in get_secret',
    lambda r: f"    password = os.environ['DB_PASSWORD_{r.randrange(9)}']",
    lambda r: f"pid {_digits(r, 5)} rss {_digits(r, 10)} bytes, free {_digits(r, 12)}",
    lambda r: f"epoch {r.randrange(99)} | {r.random():.4f} | {_digits(r, 3)} {_digits(r, 3)} {_digits(r, 4)}",
    lambda r: f"[{', '.join(str(r.randrange(50_000)) for _ in range(12))}]",
    lambda r: f"GET /v1/jobs/{_uuid(r)}?page={r.randrange(99)}&since={_date(r)} 200 {_digits(r, 4)}",
    lambda r: f"10.0.{r.randrange(255)}.{r.randrange(255)}:{_digits(r, 4)} connected, token count {_digits(r, 3)}",
    lambda r: f"INFO botocore.credentials Found credentials in environment variables. attempt {r.randrange(9)}",
    lambda r: f"secret arn:aws:secretsmanager:us-east-1:{_digits(r, 12)}:secret:app-{_hex(r, 6)} was rotated",
    lambda r: f"digest mismatch: given {_hex(r, 64)}, recorded {_hex(r, 64)}",
    lambda r: f"torch==2.{r.randrange(20)}.0 transformers==5.{r.randrange(40)}.1 numpy=={_digits(r, 1)}.4.6",
    lambda r: f"+{r.random():.6f} -{r.random():.6f} ({_digits(r, 3)}/{_digits(r, 4)})",
    lambda r: f'etag "{_hex(r, 32)}-{r.randrange(20)}" size {_digits(r, 10)}',
    lambda r: f"image {_digits(r, 12)}.dkr.ecr.us-east-1.amazonaws.com/stepforge-train@sha256:{_hex(r, 64)}",
]

HELD_OUT: list[Line] = [
    lambda r: f"START RequestId: {_uuid(r)} Version: $LATEST",
    lambda r: f"{_date(r)}T{_time(r)}.{_digits(r, 6)}Z shard-{_digits(r, 5)}-of-{_digits(r, 5)}.ndjson",
    lambda r: f"tensor([{', '.join(f'{r.gauss(0, 3):.4f}' for _ in range(8))}])",
    lambda r: f"| {r.choice(['sft', 'srl'])} | {_digits(r, 4)} | {r.random():.3f} | ${r.random() * 90:.2f} |",
    lambda r: f"blake2b {_hex(r, 128)}",
    lambda r: f"index {_hex(r, 7)}..{_hex(r, 7)} 100644",
    lambda r: f"@@ -{r.randrange(999)},{r.randrange(99)} +{r.randrange(999)},{r.randrange(99)} @@ def redact(text):",
    lambda r: f"+{_date(r)} {_time(r)} added, token budget {_digits(r, 5)}",
    lambda r: f"cuda:0 {_digits(r, 5)}MiB / {_digits(r, 5)}MiB, {r.randrange(99)} C, key={_hex(r, 12)}",
    lambda r: f"stream srl-{_hex(r, 12)}-a0/algo-1-{_digits(r, 10)}",
    lambda r: f"x-amzn-requestid: {_uuid(r)}",
    lambda r: f"Traceback: TypeError: login() missing 1 required argument: 'password' (call {_digits(r, 4)})",
    lambda r: f"    def connect(self, user: str, password: str | None = None, token: Token = t{r.randrange(9)}):",
    lambda r: f"{{'input_tokens': {_digits(r, 6)}, 'output_tokens': {_digits(r, 5)}, 'cost_usd': {r.random():.12f}}}",
    lambda r: f"nextToken absent after {_digits(r, 3)} pages; secret_name=prod/db/{r.randrange(9)}",
    lambda r: f"perplexity {r.random() * 1e3:.13f} at token {_digits(r, 10)}",
    lambda r: (
        f"arn:aws:states:us-east-1:{_digits(r, 12)}:execution:stepforge-train:train-{_hex(r, 12)}-r{r.randrange(9)}"
    ),
    lambda r: f"{_digits(r, 13)} {_digits(r, 13)} {_digits(r, 16)} cycles",
    lambda r: f"wheel numpy-2.{r.randrange(9)}.6-cp311-manylinux_2_27_x86_64.whl sha256={_hex(r, 64)}",
    lambda r: f"range {_digits(r, 9)}-{_digits(r, 9)}/{_digits(r, 10)}",
    lambda r: f"seeds: {r.getrandbits(53)} {r.getrandbits(53)}",
    lambda r: f"version v{r.randrange(9)}.{r.randrange(30)}.{r.randrange(30)}+{_date(r).replace('-', '')}",
    lambda r: f"<endoftext> 0x{_hex(r, 16)} at 0x7f{_hex(r, 10)}",
    lambda r: f"uploaded 4 files, {_digits(r, 8)} bytes, md5 {_hex(r, 32)}, phone home: off, cell {r.randrange(40)}",
    lambda r: f"basic authentication is off; bearer of request {_digits(r, 6)}; session {_date(r)}",
]
