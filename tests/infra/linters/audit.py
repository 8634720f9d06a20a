"""parliament over the policies on stdin, a JSON object by name; a JSON list of findings. Runs where parliament is."""

from __future__ import annotations

import json
import sys

from parliament import analyze_policy_string, enhance_finding


def main() -> None:
    found = set()
    for name, document in json.load(sys.stdin).items():
        for finding in analyze_policy_string(json.dumps(document)).findings:
            enhance_finding(finding)
            found.add((name, finding.issue, str(finding.detail)))
    json.dump(sorted(found), sys.stdout)


if __name__ == "__main__":
    main()
