"""`python -m tests.infra.permissions` writes docs/permissions.md: what each role of an environment may do.

`--check` says whether it is what the templates grant. A test does the same.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.iam import listed

from .conftest import with_more
from .merged import environment, read_stacks
from .principals import Cloud, Principal, conditions

FILE = Path(__file__).resolve().parents[2] / "docs" / "permissions.md"
HEAD = """# Who may do what

Every role of the environment `dev` and the policies for people (`viewer`, `trainer`, `approver`, `housekeeper`,
`operator`; trainer, approver and housekeeper have the viewer's beside their own), and what `staging` adds with Studio,
a repository whose workflows deploy it, and a role to tune with; read off the synthesised templates by
`python -m tests.infra.permissions`; a test fails where this file is stale. Regions and accounts are left out of ARNs,
a line that begins with NOT is an explicit deny. What a bucket, key or secret adds by its own policy stands below. That
trainers cannot approve, that only approvers answer, and the rest of the matrix is decided by an evaluator of policies
in `tests/infra`. The role of a profile of Studio has the policies of its person, and a workbench of its own.
"""
MORE = """
## What `staging` adds

With `studio.enabled`, `repository` and `tuning_role_arn` set: roles that `dev` has not.
"""


def text(dev: dict[str, Any], staging: dict[str, Any]) -> str:
    cloud, more = Cloud(dev), Cloud(staging)
    parts = [HEAD, *_principals(cloud.principals), "## Policies of resources\n"]
    for arn, policies in sorted(cloud.of_resources.items()):
        lines = [
            f"- {arn.rpartition(':')[2]}: {statement['Effect']} "
            f"{', '.join(sorted(listed(statement['Action'])))} to {_parties(statement['Principal'])}"
            f"{conditions(statement)}\n"
            for policy in policies
            for statement in policy["Statement"]
        ]
        parts.append("".join(sorted(lines)))
    added = {name: found for name, found in more.principals.items() if name not in cloud.principals}
    parts += [MORE, *_principals(added, heading="###")]
    # An asset is named by its contents: any change of a handler's code would make this page stale.
    return re.sub(r"[0-9a-f]{64}\.zip", "*.zip", "\n".join(parts))


def _principals(principals: dict[str, Principal], *, heading: str = "##") -> list[str]:
    parts = []
    for name, principal in sorted(principals.items()):
        services = sorted(
            {
                str(party)
                for statement in principal.trust.get("Statement", [])
                for parties in statement["Principal"].values()
                for party in listed(parties)
            }
        )
        trusted = f" (assumed by {', '.join(services)})" if services else ""
        parts.append(f"{heading} {name}{trusted}\n\n" + "".join(f"- {line}\n" for line in principal.lines()))
    return parts


def _parties(value: Any) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(sorted(str(party) for parties in value.values() for party in listed(parties)))


def main(arguments: list[str]) -> int:
    from cdk.app import build

    with tempfile.TemporaryDirectory() as outdir, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdk.app.settings", with_more)
        build("dev", "staging", outdir=outdir).synth()
        stacks = read_stacks(Path(outdir))
    found = text(*(environment(stacks, name) for name in ("dev", "staging")))
    if "--check" in arguments:
        return int(FILE.read_text(encoding="utf-8") != found)
    FILE.write_text(found, encoding="utf-8")
    print(f"wrote {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
