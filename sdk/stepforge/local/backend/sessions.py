"""STS: the keys of its sessions, which upstream hands out and the front did not know."""

from __future__ import annotations

import ministack.services.sts as sts

from stepforge.local.state import AccessKey


def key(access_key_id: str) -> AccessKey | None:
    """The key of a session under way. None where there is no such session, or no longer.

    Roles' permissions are not evaluated: who assumes a role may do what the key of the local AWS may do.
    """
    session = sts._sessions.get(access_key_id)
    if session is None or sts._session_expired(session):
        return None
    return AccessKey(access_key_id, session["SecretAccessKey"], session["SessionToken"])
