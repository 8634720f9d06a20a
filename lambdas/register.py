"""Step Functions `train`: register the model as PendingManualApproval, once."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.contracts.names import parameter
from stepforge.contracts.registry import Registered
from stepforge.machines.packages import Compared
from stepforge.machines.packages import register as register_once
from stepforge.machines.planning import read_pipeline


class Environment(Variables):
    environment: str
    serve_instance_type: str


@handles
def handler(request: Compared) -> Registered:
    env, s3 = variables(Environment), client("s3")
    # Whoever builds the images publishes them, so the address is read when it is used and not when this was deployed.
    image = client("ssm").get_parameter(Name=parameter(env.environment, "images/serve"))["Parameter"]["Value"]
    spec = read_pipeline(s3, request.state)
    return register_once(client("sagemaker"), s3, spec, request, image=image, instance_type=env.serve_instance_type)
