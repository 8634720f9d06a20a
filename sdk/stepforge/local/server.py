"""The server: `python -m stepforge.local.server`, as `stepforge.local.ensure_up()` starts it.

One process: the front, the SageMaker service, and ministack called in-process, so that the backend has no port.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import time

import stepforge
from stepforge import logs
from stepforge.installation.home import home
from stepforge.local.lifecycle import code_folders
from stepforge.local.state import ACCOUNT_ID, REGION, Layout, write_private

logger = logging.getLogger("stepforge.local")


def main() -> int:
    logging.getLogger("persistence").setLevel(logging.WARNING)
    layout = Layout.of(home())
    layout.create()
    logs.configure(
        "stepforge.local",
        sink=layout.log_file,
        max_bytes=20_000_000,
        backups=2,
        rotated=_point_streams,
        level_file=layout.root / "log-level",
    )
    alive = layout.alive_lock.open("ab")
    if not _take(alive.fileno()):
        logger.error("another server holds %s", layout.alive_lock)
        return 1
    layout.server_file.unlink(missing_ok=True)
    shutil.rmtree(layout.temporary, ignore_errors=True)
    layout.temporary.mkdir(mode=0o700, exist_ok=True)
    listener = _listen(layout)
    port = listener.getsockname()[1]
    _configure_backend(layout, port)
    try:
        asyncio.run(_serve(layout, listener, port))
    finally:
        layout.server_file.unlink(missing_ok=True)
    return 0


def _take(descriptor: int) -> bool:
    """Others look at the lock for an instant to see who lives, so a first refusal means little."""
    for _ in range(100):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _point_streams(descriptor: int) -> None:
    """What is printed past the loggers follows to the new file."""
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _listen(layout: Layout) -> socket.socket:
    """The port of last time where it is free, so that what was told of an address stays true."""
    remembered = layout.root / "port"
    wanted = int(remembered.read_text()) if remembered.exists() else 0
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", wanted))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    remembered.write_text(str(listener.getsockname()[1]))
    return listener


def _configure_backend(layout: Layout, port: int) -> None:
    """ministack reads its settings from the environment when it is imported; the process got a trimmed one."""
    key = layout.access_key()
    os.environ.update(
        {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "localhost",
            "MINISTACK_ACCOUNT_ID": ACCOUNT_ID,
            "MINISTACK_REGION": REGION,
            "PERSIST_STATE": "1",
            "STATE_DIR": str(layout.backend_state),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(layout.objects),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "LAMBDA_EXECUTOR": "local",
            "LOG_LEVEL": "WARNING",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": key.id,
            "AWS_SECRET_ACCESS_KEY": key.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    )


async def _serve(layout: Layout, listener: socket.socket, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    from stepforge.local.backend import check_version

    check_version()
    from ministack.app import app

    from stepforge.local.backend import sessions, training
    from stepforge.local.backend.install import install
    from stepforge.local.front import Front
    from stepforge.local.sagemaker.service import SageMakerService

    checkpoints = install(layout)
    url = f"http://127.0.0.1:{port}"
    sagemaker = SageMakerService(layout, endpoint_url=url, checkpoint=checkpoints.now, publish=training.publish)
    training.install(sagemaker)
    front = Front(app, sagemaker, layout.access_key(), changed=checkpoints.changed, session=sessions.key)

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 2
    config.loglevel = "WARNING"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    closing = asyncio.Event()
    serving = asyncio.create_task(serve(front, config, shutdown_trigger=closing.wait))  # type: ignore[arg-type]
    await _ready(serving)
    checkpoints.start()
    sagemaker.start()
    write_private(
        layout.server_file,
        {
            "pid": os.getpid(),
            "port": port,
            "started": time.time(),
            "version": stepforge.__version__,
            "runs": code_folders(),
        },
    )
    logger.info("ready on port %d", port)
    await stop.wait()
    # The door stays open meanwhile: through it the last checkpoints of the jobs that are cut off get into S3.
    await asyncio.to_thread(sagemaker.stop)
    closing.set()
    await serving
    sagemaker.close()


async def _ready(serving: asyncio.Task[None]) -> None:
    """Wait until the server takes connections; raise what it failed with."""
    port = int(os.environ["GATEWAY_PORT"])
    while True:
        if serving.done():
            serving.result()
            raise RuntimeError("the server ended before it was ready")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


if __name__ == "__main__":
    sys.exit(main())
