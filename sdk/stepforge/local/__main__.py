"""`python -m stepforge.local up | down | status | logs | reset`, for looking into the server without the CLI."""

import json
import sys
from dataclasses import asdict

from stepforge.local import down, ensure_up, logs, reset, status


def main(arguments: list[str]) -> int:
    command = arguments[0] if len(arguments) == 1 else ""
    if command == "up":
        print(ensure_up().endpoint_url)
    elif command == "down":
        print("stopped" if down() else "was not running")
    elif command == "status":
        print(json.dumps(asdict(status()), default=str))
    elif command == "logs":
        print("\n".join(logs()))
    elif command == "reset":
        reset()
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
