"""`python -m cdk.local_template` writes sdk/stepforge/local/template.json: the environment `local`, deployed without
Node.js. Run it after every change below cdk/ or statemachines/; a test fails where it was forgotten.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from cdk.app import build, templates
from cdk.code import ROOT

PATH = ROOT / "sdk" / "stepforge" / "local" / "template.json"


def text(plain: dict[str, Any]) -> str:
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def main(path: Path = PATH) -> None:
    with tempfile.TemporaryDirectory() as outdir:
        path.write_text(text(templates(build("local", outdir=outdir))["stepforge-local"]), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
