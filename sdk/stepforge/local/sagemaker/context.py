"""What the parts of the service share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stepforge.errors import InvalidInput
from stepforge.exposure import refuse_secrets
from stepforge.local import code
from stepforge.local.images import Role, registered, repository
from stepforge.local.sagemaker.errors import ServiceError, validation
from stepforge.local.sagemaker.objects import Objects
from stepforge.local.sagemaker.shapes import shaped, with_times
from stepforge.local.sagemaker.store import Store
from stepforge.local.state import ACCOUNT_ID, REGION, Layout

Json = Any
_CODE_VARIABLES = frozenset(
    [
        "BASH_ENV",
        "ENV",
        "PATH",
        "PYTHONBREAKPOINT",
        "PYTHONEXECUTABLE",
        "PYTHONHOME",
        "PYTHONINSPECT",
        "PYTHONPATH",
        "PYTHONPLATLIBDIR",
        "PYTHONPYCACHEPREFIX",
        "PYTHONSTARTUP",
        "PYTHONUSERBASE",
        "PYTHONWARNINGS",
    ]
)
_LOADER_PREFIXES = ("LD_", "DYLD_")
"""What the dynamic loaders of Linux and macOS read."""


@dataclass
class Context:
    layout: Layout
    store: Store
    endpoint_url: str
    checkpoint: Callable[[], None]
    """Saves the backend's state; returns when it is on disk."""
    jobs_wanted: threading.Event = field(default_factory=threading.Event)
    events_wanted: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def arn(kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT_ID}:{kind}/{name}"

    def jobs_changed(self) -> None:
        self.jobs_wanted.set()

    @cached_property
    def _session(self) -> Any:
        import boto3

        key = self.layout.access_key()
        return boto3.session.Session(key.id, key.secret, region_name=REGION)

    @cached_property
    def s3(self) -> Any:
        return self._session.client("s3", endpoint_url=self.endpoint_url)

    @cached_property
    def sns(self) -> Any:
        return self._session.client("sns", endpoint_url=self.endpoint_url)

    @cached_property
    def cloudwatch(self) -> Any:
        return self._session.client("cloudwatch", endpoint_url=self.endpoint_url)

    @cached_property
    def objects(self) -> Objects:
        return Objects(self.s3)

    @cached_property
    def cloudwatch_logs(self) -> Any:
        return self._session.client("logs", endpoint_url=self.endpoint_url)

    def command(self, address: str, role: Role) -> list[str]:
        """What to start for an image. Raises ValidationException for one that is not registered for that."""
        images = registered(self.layout)
        image = images.get(repository(address))
        command = None if image is None else image.command(role)
        if command is None:
            able = sorted(name for name, known in images.items() if known.command(role))
            raise validation(
                f"image {address!r} is not registered to {role} here. Registered: {', '.join(able) or 'none'}. "
                "Register it with stepforge.local.register_images"
            )
        return command

    def variables(self, address: str) -> dict[str, str]:
        """What a registered image sets in the environment of its process."""
        image = registered(self.layout).get(repository(address))
        return {} if image is None else image.environment

    @staticmethod
    def check_variables(given: dict[str, str]) -> None:
        """Raises ValidationException for a variable that decides which code a process loads, and for a secret."""
        refused = sorted(name for name in given if name in _CODE_VARIABLES or name.startswith(_LOADER_PREFIXES))
        if refused:
            raise validation(
                f"Environment variable {refused[0]!r} would run any code: leave it out, or register an image that "
                "starts with it"
            )
        check_no_secrets(given, "Environment variable")

    def check_pinned(self, address: str) -> None:
        """Raises ValidationException where the sources are no longer those that the address was made from."""
        image = registered(self.layout).get(repository(address))
        if image is None or not image.pinned:
            return
        current = code.image_digest(code.codes())
        if not address.endswith(f"@sha256:{current}"):
            raise validation(
                f"the code of image {address!r} was changed since the run was started, and is {current[:12]} now: "
                "start the run again, and what the change does not touch is adopted"
            )

    def post_event(self, detail_type: str, arn: str, document: Json, describe: str) -> None:
        """An event whose detail is what `describe` answers, times in milliseconds since the epoch."""
        detail = with_times(describe, shaped(describe, document), lambda seconds: int(seconds * 1000))
        extra = {key: value for key, value in document.items() if key == "UpdatedModelPackageFields"}
        tags = {tag["Key"]: tag["Value"] for tag in self.store.tags(arn)}
        self.store.post({"detail_type": detail_type, "resource": arn, "detail": {**detail, **extra, "Tags": tags}})
        self.events_wanted.set()


def check_no_secrets(given: dict[str, str], what: str) -> None:
    """Raises ValidationException for one. AWS itself takes it, and shows it to whoever may describe the job."""
    try:
        refuse_secrets(given, what=what)
    except InvalidInput as error:
        raise validation(str(error)) from error


def idempotent(context: Context, operation: str, request: Json, run: Callable[[], Json]) -> Json:
    """Run once for each ClientToken: a repeated call gets the first answer, another request under it a conflict."""
    token = request.get("ClientToken")
    if token is None:
        return run()
    plain = json.dumps(request, sort_keys=True)
    with context.store.transaction():
        if (known := context.store.answer(operation, token)) is not None:
            if known[0] != plain:
                raise ServiceError(
                    "ConflictException", f"ClientToken {token!r} was used for another {operation} request"
                )
            return json.loads(known[1])
        answer = run()
        context.store.remember(operation, token, plain, json.dumps(answer))
        return answer
