"""The local AWS: a server on loopback that runs the very machines, handlers and jobs that run on AWS.

`ensure_up()` starts it where it does not run. S3, Step Functions, Lambda, EventBridge, KMS, Secrets Manager, SSM and
CloudFormation come from ministack with the mends in `backend/`; SageMaker is the service in `sagemaker/`.
Loopback only; every request must be signed with the key that lies in a file of the user's own.
"""

from stepforge.local.activity import Activity, activity
from stepforge.local.capacity import set_capacity
from stepforge.local.images import Image, entrypoint, register_images
from stepforge.local.lifecycle import LocalAws, LocalStatus, down, ensure_up, logs, reach, reset, status

__all__ = [
    "Activity",
    "Image",
    "LocalAws",
    "LocalStatus",
    "activity",
    "down",
    "ensure_up",
    "entrypoint",
    "logs",
    "reach",
    "register_images",
    "reset",
    "set_capacity",
    "status",
]
