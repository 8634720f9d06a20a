"""The steps of a promotion: verify the artifact, bring up endpoints, smoke-test, stamp, clean up.

Each step may run twice with the same effect, since Step Functions retries.
"""

from __future__ import annotations

from stepforge.machines.deployment._checks import check_evaluation, check_weights, verify
from stepforge.machines.deployment._contracts import Deployment, Golden, SmokeRequest, SmokeResult, Stamp
from stepforge.machines.deployment._endpoints import (
    check_live,
    deploy_candidate,
    deploy_live,
    endpoint_state,
    look_live,
    prepare,
    remove_abandoned,
    remove_candidate,
    remove_empty,
    roll_back,
)
from stepforge.machines.deployment._lookups import OWNER_TAG, approved_later
from stepforge.machines.deployment._smoke import GOLDEN, golden, judge, smoke
from stepforge.machines.deployment._stamps import out_of_staging, stamp
from stepforge.machines.deployment._surfaces import MOVING, surface
from stepforge.machines.deployment._versions import Serving, serving, serving_name, version_of

__all__ = [
    "GOLDEN",
    "MOVING",
    "OWNER_TAG",
    "Deployment",
    "Golden",
    "Serving",
    "SmokeRequest",
    "SmokeResult",
    "Stamp",
    "approved_later",
    "check_evaluation",
    "check_live",
    "check_weights",
    "deploy_candidate",
    "deploy_live",
    "endpoint_state",
    "golden",
    "judge",
    "look_live",
    "out_of_staging",
    "prepare",
    "remove_abandoned",
    "remove_candidate",
    "remove_empty",
    "roll_back",
    "serving",
    "serving_name",
    "smoke",
    "stamp",
    "surface",
    "verify",
    "version_of",
]
