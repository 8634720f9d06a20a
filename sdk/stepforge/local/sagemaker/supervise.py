"""Runs one command and ends it, with all that it started, when the server goes away.

`python supervise.py DESCRIPTOR COMMAND...`: DESCRIPTOR is a socket to the server. `T` on it sends SIGTERM to the
command, `K` SIGKILL to its group; its end, which the kernel brings about whatever kills the server, is `K` too. The
answer is the command's exit code as subprocess counts it (negative for a signal). Standard library only: it
starts in some milliseconds.
"""

import contextlib
import os
import signal
import socket
import sys
import threading


def main(arguments: list[str]) -> None:
    server = socket.socket(fileno=int(arguments[0]))
    pid = os.fork()
    if pid == 0:
        server.close()
        os.setsid()
        try:
            os.execvp(arguments[1], arguments[1:])
        except OSError as error:
            sys.stderr.write(f"cannot run {arguments[1]!r}: {error}\n")
            sys.stderr.flush()
            os._exit(127)

    def kill_group() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def obey() -> None:
        while True:
            try:
                order = server.recv(1)
            except OSError:
                order = b""
            if order == b"T":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            else:
                kill_group()
                if not order:
                    return

    threading.Thread(target=obey, daemon=True).start()
    # The command's process id stays taken until it is waited for, so the group is ended first.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    kill_group()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        server.sendall(str(code).encode())


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main(sys.argv[1:])
