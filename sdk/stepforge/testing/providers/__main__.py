"""`python -m stepforge.testing.providers openai [PORT]`: a local server of one protocol, until it is interrupted."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress

from stepforge.testing.providers import LocalAnthropic, LocalBedrock, LocalOpenAI, LocalProvider, LocalVertex

SERVERS: dict[str, type[LocalProvider]] = {
    "openai": LocalOpenAI,
    "vertex": LocalVertex,
    "bedrock": LocalBedrock,
    "anthropic": LocalAnthropic,
}


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2 or arguments[0] not in SERVERS or not all(map(str.isdigit, arguments[1:])):
        print(f"usage: python -m stepforge.testing.providers {{{','.join(SERVERS)}}} [PORT]", file=sys.stderr)
        return 2
    port = int(arguments[1]) if len(arguments) == 2 else 0
    with SERVERS[arguments[0]](port=port) as server, suppress(KeyboardInterrupt):
        # A ledger outlives a server: the next one on this port must not give out the ids of the last one's jobs.
        server._counter = int(time.time())
        print(f"{server.url} speaks {arguments[0]}; it trains nothing and charges nothing", flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
