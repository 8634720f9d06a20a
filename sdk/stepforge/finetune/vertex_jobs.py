"""Vertex AI's custom jobs: a container that Google's machines run, through google-cloud-aiplatform.

Submitted once under a key that is the job's label, looked at, cancelled; what a job makes lies where its container
wrote it. `JobServiceClient` and not `aiplatform.CustomJob`: that one takes the whole process's settings, waits, prints
where the job can be seen, and repeats calls. Not covered: several worker pools, schedules, logs.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.errors import IdentityConflict, MissingExtra
from stepforge.finetune.job import State, normalise
from stepforge.finetune.keys import unreadable
from stepforge.finetune.vertex_calls import JOB_STATES, LABEL, calling, labelled, root_of, session_of, straight

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


class Container(Contract):
    """What runs, on what, for how long at most."""

    image: str
    args: tuple[str, ...] = ()
    machine_type: str = "n1-standard-4"
    most_seconds: Annotated[int, Field(ge=60)]
    """After these Vertex ends the job, and with it its charge."""
    service_account: str | None = None
    """Whom it runs as; None: Vertex's own agent, which may read no bucket of yours."""
    output_uri: str
    """`gs://bucket/prefix`, told to the container."""
    kms_key: str | None = None


class CustomJob(Contract):
    """One job as Vertex tells of it."""

    name: str
    key: str | None
    state: State
    raw_state: str
    created_at: datetime | None = None
    error: str | None = None


class VertexJobs:
    """Custom jobs of one project and location."""

    def __init__(
        self,
        *,
        project: str,
        location: str,
        credentials: Credentials,
        base_url: str | None = None,
        timeout_seconds: float = 60,
        target: str = "vertex",
    ) -> None:
        """Raises MissingExtra without google-cloud-aiplatform."""
        try:
            from google.cloud import aiplatform_v1
        except ImportError as error:
            raise MissingExtra(error.name or "google-cloud-aiplatform", extra="vertex") from error
        root = root_of(location, base_url)
        given: Any = {"credentials": credentials, "transport": "rest", "client_options": {"api_endpoint": root}}
        self._client = straight(aiplatform_v1.JobServiceClient(**given))
        self._types, self._target = aiplatform_v1, target
        self._parent = f"projects/{project}/locations/{location}"
        self._session = session_of(credentials)
        self._list_url = f"{root}/v1/{self._parent}/customJobs"
        # The library repeats what it may; a caller here does so itself, and knows how often.
        self._call: Any = {"timeout": timeout_seconds, "retry": None}

    def find(self, key: str) -> CustomJob | None:
        """The job with this key, by its label. Raises IdentityConflict where there are several."""
        found = labelled(
            self._session,
            self._list_url,
            "customJobs",
            key,
            target=self._target,
            timeout_seconds=self._call["timeout"],
        )
        if len(found) > 1:
            raise IdentityConflict(f"launch {key} has several jobs: {', '.join(found)}. Cancel all but the first")
        return self.status(found[0]) if found else None

    def submit(self, container: Container, *, key: str, display_name: str) -> CustomJob:
        """The one call that is charged, sent once: look with `find` before you send it again."""
        t = self._types
        pool = t.WorkerPoolSpec(
            replica_count=1,
            machine_spec=t.MachineSpec(machine_type=container.machine_type),
            container_spec=t.ContainerSpec(image_uri=container.image, args=list(container.args)),
        )
        spec = t.CustomJobSpec(
            worker_pool_specs=[pool],
            # A container that failed would begin anew, and be charged anew.
            scheduling=t.Scheduling(
                timeout={"seconds": container.most_seconds}, restart_job_on_worker_restart=False, disable_retries=True
            ),
            service_account=container.service_account or "",
            base_output_directory=t.GcsDestination(output_uri_prefix=container.output_uri),
        )
        job = t.CustomJob(display_name=display_name, job_spec=spec, labels={LABEL: key})
        if container.kms_key is not None:
            job.encryption_spec = t.EncryptionSpec(kms_key_name=container.kms_key)
        with calling(self._target, "customJobs.create", about_content=True):
            made = self._client.create_custom_job(parent=self._parent, custom_job=job, **self._call)
        return self._told(made, "customJobs.create")

    def status(self, name: str) -> CustomJob:
        with calling(self._target, "customJobs.get"):
            found = self._client.get_custom_job(name=name, **self._call)
        return self._told(found, "customJobs.get")

    def cancel(self, name: str) -> CustomJob:
        """Stop it, and with it its charge. What has ended stays as it ended."""
        before = self.status(name)
        if before.state.terminal:
            return before
        with calling(self._target, "customJobs.cancel"):
            self._client.cancel_custom_job(name=name, **self._call)
        return self.status(name)

    def _told(self, found: Any, call: str) -> CustomJob:
        if not found.name:
            raise unreadable(self._target, call, type(found))
        # A word that the client does not know becomes JOB_STATE_UNSPECIFIED, which is no end.
        raw = getattr(found.state, "name", None) or f"JOB_STATE_{int(found.state)}"
        return CustomJob(
            name=found.name,
            key=dict(found.labels).get(LABEL),
            state=normalise(raw, JOB_STATES),
            raw_state=raw,
            created_at=found.create_time,
            error=f"{found.error.code}: {found.error.message}" if found.error.code else None,
        )
