"""What Bedrock and SageMaker have in common as providers. boto3 is part of the base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from stepforge.contracts.names import split_uri
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from stepforge.finetune import job as jobs
from stepforge.finetune.job import Estimate, Job, Prepared, State
from stepforge.finetune.keys import failure, is_loopback, unlogged, unreadable
from stepforge.finetune.spec import ProviderName, TuneSpec
from stepforge.finetune.uploads import checked_bytes


def is_taken(refusal: ProviderRefused) -> bool:
    """Whether the name or the token is another job's already: ours, from another machine."""
    return any(code in str(refusal) for code in ("ConflictException", "ResourceInUse"))


class AwsCustomization(ABC):
    """A provider's half that the two share: clients, uploads, looking for what was launched, errors in our words."""

    name: ProviderName
    remembers_seconds = 0.0
    """A second call with the same token or name is the same job, by AWS's own promise."""
    _absent: tuple[str, ...]
    """Words of a refusal that mean that there is no such thing."""

    def __init__(
        self,
        session: Any,
        services: Sequence[str],
        *,
        role_arn: str,
        folder_uri: str,
        kms_key: str | None,
        endpoint_url: str | None,
    ) -> None:
        from botocore.config import Config

        # Repeats are the launcher's and the state machine's: they look for what was done before they send it again.
        config = Config(retries={"mode": "standard", "total_max_attempts": 1}, user_agent_extra="stepforge")
        self._clients = {
            service: session.client(service, endpoint_url=endpoint_url, config=config) for service in services
        }
        self._role, self._folder_uri, self._kms_key = role_arn, folder_uri, kms_key
        self.local = is_loopback(endpoint_url)
        self._pause = 0.1 if self.local else 15.0
        """Seconds between two looks at what is being deployed."""
        self.target = f"{self.name}:{role_arn.split(':')[4]}:{session.region_name}" + (
            f":{endpoint_url}" if endpoint_url else ""
        )

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        return jobs.estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        uris = [
            self._put(f"{self._folder_uri.rstrip('/')}/{f.filename}", checked_bytes(folder / f.filename, f.sha256))
            for f in (spec.training, spec.validation)
            if f is not None
        ]
        return Prepared(training=uris[0], validation=uris[1] if len(uris) > 1 else None)

    def find(self, key: str, prepared: Prepared) -> Job | None:
        del prepared
        try:
            return self.status(key)
        except ProviderRefused as refusal:
            if not self._is_absent(refusal):
                raise
            return None

    @abstractmethod
    def status(self, job_id: str) -> Job: ...

    @abstractmethod
    def _stop(self, job_id: str) -> None: ...

    def cancel(self, job_id: str) -> Job:
        before = self.status(job_id)
        if before.state.terminal:
            return before
        try:
            self._stop(job_id)
        except ProviderRefused:
            if not self.status(job_id).state.terminal:  # it may have ended between the two calls
                raise
        return self.status(job_id)

    def _made(self, arn: str, key: str) -> Job:
        """What was made, even where it cannot be described at once."""
        try:
            return self.status(arn)
        except (ProviderRefused, ProviderUnavailable):
            return Job(provider=self.name, id=arn, key=key, state=State.UNKNOWN, raw_state="not described yet")

    def _is_absent(self, refusal: ProviderRefused) -> bool:
        return any(words.lower() in str(refusal).lower() for words in self._absent)

    def _put(self, uri: str, data: bytes) -> str:
        bucket, key = split_uri(uri)
        with self._calling("PutObject", about_content=True):
            self._clients["s3"].put_object(Bucket=bucket, Key=key, Body=data)
        return uri

    @contextmanager
    def _calling(self, call: str, *, about_content: bool = False) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
        from botocore.parsers import ResponseParserError

        try:
            with unlogged():
                yield
        except ClientError as error:
            code = str(error.response["Error"].get("Code", ""))
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if "Throttl" in code or code == "TooManyRequestsException":
                status = 429
            elif code in ("ConflictException", "ResourceInUse"):
                status = 400  # the name or token is taken: nothing was done
            message = str(error.response["Error"].get("Message", ""))
            raise failure(
                self.target, call, status=status, code=code, message=message, about_content=about_content
            ) from None
        except ParamValidationError as error:
            raise InvalidInput(f"{self.target} {call}: {' '.join(str(error).split())[:300]}") from None
        except (BotoCoreError, ResponseParserError) as error:
            raise failure(self.target, call, status=None, code=type(error).__name__) from None
        except (KeyError, TypeError) as error:
            raise unreadable(self.target, call, type(error)) from None


def session_for(region: str | None, endpoint_url: str | None) -> Any:
    """A session of its own, with the service models of the first: megabytes of JSON that each would read again.

    A local server looks at no credentials, and nobody's own are sent to it.
    """
    import boto3
    from botocore.session import get_session

    core = get_session()
    core.register_component("data_loader", _loader())
    if is_loopback(endpoint_url):
        region = region or core.get_config_variable("region") or "us-east-1"
        return boto3.Session("local", "local", botocore_session=core, region_name=region)
    return boto3.Session(botocore_session=core, region_name=region)


@cache
def _loader() -> Any:
    from botocore.session import get_session

    return get_session().get_component("data_loader")
