"""Serve the model of SAGEMAKER_BASE_DIR/model: `python -m stepforge_jobs.serving` (SageMaker appends `serve`).

Listens on SAGEMAKER_BIND_TO_PORT or 8080: on all interfaces in a container, on loopback alone where SAGEMAKER_BASE_DIR
says that it is none. With STEPFORGE_MODEL_SHA256 the manifest must have that digest. SIGTERM stops it. Logs
JSON lines to stdout, and neither prompts nor completions (docs/logs.md).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback

from stepforge import logs
from stepforge.errors import InvalidInput
from stepforge_jobs.directories import verified_model
from stepforge_jobs.job import base_dir
from stepforge_jobs.main import OFFLINE
from stepforge_jobs.unprivileged import drop_root

logger = logging.getLogger("stepforge_jobs.serving")


def main() -> int:
    """Load, listen until SIGTERM, return the exit code; 1 where the model is refused, with the reason on stderr."""
    os.environ.update(OFFLINE)
    try:
        port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
        folder = base_dir() / "model"
        manifest = verified_model(folder, expected_sha256=os.environ.get("STEPFORGE_MODEL_SHA256"))
        from stepforge_jobs.serving.server import Model, serve

        model = Model.load(folder, manifest)
        host = "127.0.0.1" if "SAGEMAKER_BASE_DIR" in os.environ else "0.0.0.0"
        server = serve(model, host=host, port=port)
    except Exception as error:  # noqa: BLE001 - the boundary of the process: the last line of its log is the reason
        print(logs.redact(f"{traceback.format_exc()}{type(error).__name__}: {error}"), file=sys.stderr)
        return 1
    # shutdown waits for serve_forever, which runs in this thread: it must be called from another.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    logger.info("listening", extra={"port": server.server_port, "model_sha256": model.sha256})
    server.serve_forever()
    server.server_close()
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["serve"]):
        raise InvalidInput(f"arguments {sys.argv[1:]!r}: only 'serve' is understood")
    # A model is only read.
    drop_root(written=())
    logs.configure("stepforge.serving", level_file=base_dir() / "log-level")
    sys.exit(main())
