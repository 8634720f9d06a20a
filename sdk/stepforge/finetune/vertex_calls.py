"""What all that is asked of Vertex AI has in common: states of jobs, lists by label, errors of Google's clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stepforge.errors import ProviderRefused
from stepforge.finetune.addresses import Secrets, credentials_for, hold_own
from stepforge.finetune.job import State
from stepforge.finetune.keys import failure, is_loopback, unlogged, unreadable

LABEL = "stepforge-key"
MOST_LISTED = 2_000
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
JOB_STATES = {
    "JOB_STATE_QUEUED": State.QUEUED,
    "JOB_STATE_PENDING": State.QUEUED,
    "JOB_STATE_RUNNING": State.RUNNING,
    "JOB_STATE_UPDATING": State.RUNNING,
    "JOB_STATE_PAUSED": State.RUNNING,
    "JOB_STATE_CANCELLING": State.CANCELLING,
    "JOB_STATE_SUCCEEDED": State.SUCCEEDED,
    # The client goes on polling in this state; it has ended, and what it made can be used.
    "JOB_STATE_PARTIALLY_SUCCEEDED": State.SUCCEEDED,
    "JOB_STATE_FAILED": State.FAILED,
    "JOB_STATE_CANCELLED": State.CANCELLED,
    "JOB_STATE_EXPIRED": State.EXPIRED,
}


def root_of(location: str, base_url: str | None) -> str:
    """The address of the service in a location, without a slash at its end.

    >>> root_of("us-central1", None), root_of("global", None), root_of("global", "http://127.0.0.1:1/")
    ('https://us-central1-aiplatform.googleapis.com', 'https://aiplatform.googleapis.com', 'http://127.0.0.1:1')
    """
    return (base_url or f"https://{'' if location == 'global' else f'{location}-'}aiplatform.googleapis.com").rstrip(
        "/"
    )


def credentials_of(secrets: Secrets | None, name: str | None, *, base_url: str | None) -> Any:
    """google-auth's credentials, of the secret of this name where it is the state machine that asks.

    None: those that Google's own tools would find. A local server looks at none, and nobody's own are sent to it.
    """
    if is_loopback(base_url):
        from google.oauth2.credentials import Credentials

        return Credentials(token="local")
    if secrets is not None and name is not None:
        import google.auth

        about = credentials_for(secrets, name, address=base_url)
        found, _ = google.auth.load_credentials_from_dict(about, scopes=[SCOPE])
        return found
    if secrets is not None:
        hold_own(base_url)
    return None


def session_of(credentials: Any) -> Any:
    """google-auth's session. What is sent goes to the address that was given, and to none that it names."""
    from google.auth.transport.requests import AuthorizedSession

    session = AuthorizedSession(credentials)
    session.max_redirects = 0
    return session


def storage_of(project: str, credentials: Any, base_url: str | None) -> Any:
    """A client of Cloud Storage that asks nothing but what it is asked."""
    from google.cloud import storage

    client = storage.Client(
        project=project,
        credentials=credentials,
        _http=session_of(credentials),
        client_options={"api_endpoint": base_url} if base_url else None,
    )
    # For spans of OpenTelemetry it would ask for the bucket in a thread of its own, where our filter of logs is not.
    client._bucket_metadata_cache = None
    return client


def straight(client: Any) -> Any:
    """A generated client of Google's that follows to no other address either."""
    client.transport._session.max_redirects = 0
    return client


@contextmanager
def calling(target: str, call: str, *, about_content: bool = False) -> Iterator[None]:
    """Failures of google-auth, requests and Google's generated clients in our words; their log lines are held back."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        with unlogged():
            yield
    except GoogleAPICallError as error:
        raise failure(
            target, call, status=int(error.code or 500), message=str(error.message or ""), about_content=about_content
        ) from None
    except requests.TooManyRedirects as error:
        status = error.response.status_code if error.response is not None else None
        raise failure(target, call, status=status, code="TooManyRedirects", about_content=True) from None
    except (requests.RequestException, TransportError) as error:
        raise failure(target, call, status=None, code=type(error).__name__) from None
    except GoogleAuthError as error:
        raise ProviderRefused(
            f"{target} {call}: no credentials ({type(error).__name__}): `gcloud auth application-default login`, or "
            "give a service account"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(target, call, type(error)) from None


def labelled(session: Any, url: str, rows: str, key: str, *, target: str, timeout_seconds: float) -> list[str]:
    """Names of the jobs with this key, of the list at `url` whose field is `rows`, such as `customJobs`.

    Read without the clients, which take an answer of any shape for an empty list: a launch would be sent twice.
    """
    try:
        return _pages(session, url, rows, key, f'labels.{LABEL}="{key}"', target, timeout_seconds)
    except ProviderRefused:
        # Where filters are not taken, the whole list is read.
        return _pages(session, url, rows, key, "", target, timeout_seconds)


def _pages(session: Any, url: str, rows: str, key: str, filter_: str, target: str, seconds: float) -> list[str]:
    found, read, token, call = [], 0, "", f"{rows}.list"
    while True:
        query = {"pageSize": "100", "pageToken": token, "filter": filter_}
        with calling(target, call):
            answer = session.get(url, params={k: v for k, v in query.items() if v}, timeout=seconds)
        if answer.status_code != 200:
            raise failure(target, call, status=answer.status_code, about_content=True)
        with calling(target, call):
            page = answer.json()
        listed = page.get(rows, []) if isinstance(page, dict) else None
        if not isinstance(listed, list) or set(page) - {rows, "nextPageToken"}:
            raise unreadable(target, call, page)
        with calling(target, call):
            found += [str(row["name"]) for row in listed if (row.get("labels") or {}).get(LABEL) == key]
        read, token = read + len(listed), str(page.get("nextPageToken") or "")
        if not token or read >= MOST_LISTED:
            return found
