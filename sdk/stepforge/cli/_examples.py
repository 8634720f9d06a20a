"""Examples below the help of every command."""

from __future__ import annotations

import typer

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "stepforge run train --domain facial",
        "stepforge registry list",
        "stepforge predict --domain facial 'feel:fear with:surprise level4 felt sudden arkit :'",
    ),
    "run": ("stepforge run train --domain facial --dry-run",),
    "run train": (
        "stepforge run train --domain facial",
        "stepforge run train --domain facial --set stages.rlvr.steps=200 --detach",
        "stepforge run train --domain facial --spot --instance-type ml.g5.xlarge --instance-type ml.g6.xlarge",
        "stepforge run train --data records.jsonl --verifier my_rules:check --model ./SmolLM2-135M",
    ),
    "run evaluate": (
        "stepforge run evaluate facial/3",
        "stepforge run evaluate facial/3 --on facial/1 --set evaluation.limit=100 --dry-run",
        "stepforge run evaluate srl-0123456789ab-a0 --on dataset-0123456789ab-r0 --env dev --max-usd 5 --json",
        "stepforge run evaluate ./SmolLM2-135M --on facial/1",
    ),
    "run dataset": (
        "stepforge run dataset --domain facial --parts 4",
        "stepforge run dataset --domain facial --parts 50 --set dataset.corpus=1000000 --env dev --dry-run",
        "stepforge run dataset --data spring.jsonl --data autumn.jsonl --verifier my_rules:check --domain seasons",
    ),
    "plan": (
        "stepforge plan --domain facial",
        "stepforge plan --domain facial --env dev --max-usd 20 --json",
        "stepforge plan --job job.json",
    ),
    "submit": (
        "stepforge submit --domain facial --env dev --max-usd 20 --yes --detach",
        "stepforge submit --domain facial --dry-run",
        "stepforge submit --job job.json --yes",
    ),
    "costs": ("stepforge costs", "stepforge costs --by day --since 2026-10-01 --env dev --json"),
    "compare": ("stepforge compare facial latest", "stepforge compare train-0123456789ab-r0 latest --json"),
    "jobs": ("stepforge jobs describe rlvr-0123456789ab-a0",),
    "jobs describe": (
        "stepforge jobs describe rlvr-0123456789ab-a0",
        "stepforge jobs describe sft-0123456789ab-a0 --json",
    ),
    "prices": ("stepforge prices list",),
    "prices list": ("stepforge prices list", "stepforge prices list ml.g5.xlarge --region us-west-2"),
    "prices refresh": ("stepforge prices refresh --env dev",),
    "prices set": ("stepforge prices set ml.g5.xlarge 1.2 --env dev",),
    "prices withdraw": ("stepforge prices withdraw ml.g5.xlarge --env dev",),
    "runs": ("stepforge runs", "stepforge runs --most 5 --json"),
    "watch": ("stepforge watch", "stepforge watch latest --env dev"),
    "logs": ("stepforge logs latest -f", "stepforge logs rlvr-0123456789ab-a0"),
    "stop": ("stepforge stop latest", "stepforge stop rlvr-0123456789ab-a0"),
    "report": ("stepforge report latest --open", "stepforge report facial --out facial.html"),
    "track": (
        "stepforge track latest --to sqlite:///mlflow.db",
        "stepforge track latest --env dev --to arn:aws:sagemaker:eu-west-1:111122223333:mlflow-app/app-ABC",
    ),
    "policy": ("stepforge policy rlvr-0123456789ab-a0", "stepforge policy rlvr-0123456789ab-a0 --env dev --json"),
    "gc": ("stepforge gc", "stepforge gc --apply --keep-days 7"),
    "predict": (
        "stepforge predict --domain facial",
        "stepforge predict --domain facial 'feel:fear with:surprise level4 felt sudden arkit :'",
        "stepforge predict --domain facial --json 'feel:anger with:nothing level2 masked gradual openxr :'",
        "stepforge predict --domain facial --export arkit-json --out faces",
    ),
    "registry": ("stepforge registry list", "stepforge registry show facial"),
    "registry list": ("stepforge registry list", "stepforge registry list facial --json"),
    "registry show": ("stepforge registry show facial", "stepforge registry show facial/3"),
    "registry approve": (
        "stepforge registry approve facial --comment 'better on new kinds'",
        "stepforge registry approve facial/2 --yes --comment 'rejected by mistake'",
    ),
    "registry reject": ("stepforge registry reject facial/3 --comment 'worse on retained skills'",),
    "approvals": ("stepforge approvals list --env dev",),
    "approvals list": ("stepforge approvals list --env dev", "stepforge approvals list --json"),
    "approvals ask": ("stepforge approvals ask facial/3 --env dev", "stepforge approvals ask facial --hours 24 --wait"),
    "approvals answer": (
        "stepforge approvals answer approve-0123456789ab-r0 --yes --env dev",
        "stepforge approvals answer approve-0123456789ab-r0 --no --reason 'worse on retained skills'",
    ),
    "registry pull": ("stepforge registry pull facial/3 --out facial-3",),
    "finetune": ("stepforge finetune decide docs/decision/question.toml",),
    "finetune decide": (
        "stepforge finetune decide docs/decision/question.toml",
        "stepforge finetune decide question.json --json",
        "stepforge finetune decide question.toml --experience outcomes.json --page verdict.md --plot tornado.svg",
        "stepforge finetune decide question.toml --catalogue own.toml --criteria ours.toml --criteria theirs.json",
    ),
    "catalogue": (
        "stepforge catalogue",
        "stepforge catalogue bedrock/amazon.nova-micro-v1:0",
        "stepforge catalogue --refresh --out own.toml",
    ),
    "doctor": ("stepforge doctor", "stepforge doctor --json"),
    "local": ("stepforge local status",),
    "local up": ("stepforge local up",),
    "local run": (
        "stepforge local run -- aws stepfunctions list-state-machines",
        "stepforge local run -- python notebook.py",
    ),
    "local images": ("stepforge local images dev",),
    "local down": ("stepforge local down", "stepforge local down --yes"),
    "local status": ("stepforge local status --json",),
    "local logs": ("stepforge local logs -f",),
    "local interrupt": ("stepforge local interrupt rlvr-0123456789ab-a0",),
    "local capacity": ("stepforge local capacity ml.g5.xlarge --none", "stepforge local capacity ml.g5.xlarge --some"),
    "local reset": ("stepforge local reset --yes",),
    "finetune launch": (
        "stepforge finetune launch plan.toml --data records.jsonl",
        "stepforge finetune launch plan.toml --data records.jsonl --approve 'Ada Lovelace'",
    ),
    "finetune sample": ("stepforge finetune sample plan.toml --data records.jsonl --rows 30 --out sample.jsonl",),
    "finetune watch": ("stepforge finetune watch plan.toml sf-0123456789abcdef",),
    "finetune cancel": ("stepforge finetune cancel plan.toml sf-0123456789abcdef",),
    "finetune register": (
        "stepforge finetune register plan.toml sf-0123456789abcdef --data records.jsonl",
        "stepforge finetune register plan.toml sf-0123456789abcdef --data records.jsonl --verifier my_rules:check",
    ),
    "finetune grader": ("stepforge finetune grader my_rules:check --out grader.zip",),
    "finetune list": ("stepforge finetune list", "stepforge finetune list --env dev --json"),
    "finetune start": (
        "stepforge finetune start plan.toml --data records.jsonl --env dev",
        "stepforge finetune start plan.toml --data records.jsonl --question question.toml --arm 'GPT-4.1 mini'",
        "stepforge finetune start plan.toml --data records.jsonl --question question.toml --arm 'GPT-4.1 mini' "
        "--experience outcomes.json --criteria ours.toml",
    ),
    "finetune approve": ("stepforge finetune approve sf-0123456789abcdef --up-to 25 --by 'Ada Lovelace' --env dev",),
    "finetune refuse": ("stepforge finetune refuse sf-0123456789abcdef --by 'Ada Lovelace' --why 'too dear'",),
    "finetune stop": ("stepforge finetune stop finetune-0123456789ab-r0 --env dev",),
    "finetune compare": ("stepforge finetune compare records/3 records/2",),
    "finetune outcome": (
        "stepforge finetune outcome verdict.json --tuned records/3 --base records/2",
        "stepforge finetune outcome verdict.json --tuned tuned/rows.ndjson --base base/rows.ndjson --cost 11.40",
    ),
    "new": ("stepforge new domain castles",),
    "new domain": ("stepforge new domain castles", "stepforge new domain castles --out .."),
}
"""By the words after `stepforge`; the empty name is `stepforge` itself."""


def add_examples(app: typer.Typer, path: str = "") -> None:
    """Put the examples below the help of an app, its commands and its groups. Raises KeyError where there is none."""
    app.info.epilog = _epilog(path)
    for command in app.registered_commands:
        command.epilog = _epilog(f"{path} {command.name}".strip())
    for group in app.registered_groups:
        assert group.typer_instance is not None  # made with add_typer
        group.epilog = _epilog(f"{path} {group.name}".strip())
        add_examples(group.typer_instance, f"{path} {group.name}".strip())


def _epilog(path: str) -> str:
    # A single line break would be taken for a space.
    return "\n\n".join(["Examples:", *EXAMPLES[path]])
