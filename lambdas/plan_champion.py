"""Step Functions `train`: the champion's evaluation on the challenger's test data, where there is none yet."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.machines.packages import ChampionPlan, plan_champion
from stepforge.machines.planning import PlanRequest, finish, pipeline_job_request, put_spec


class Environment(Variables):
    bucket: str
    key_arn: str
    environment: str = ""


@handles
def handler(request: PlanRequest) -> ChampionPlan:
    env, s3 = variables(Environment), client("s3")
    spec, state = finish(s3, request)
    champion, job = plan_champion(client("sagemaker"), s3, spec, state)
    arn = None if champion is None else champion["ModelPackageArn"]
    if job is None:
        return ChampionPlan(state=state, champion_arn=arn)
    put_spec(s3, job, bucket=env.bucket, key_arn=env.key_arn)
    due = pipeline_job_request(job, spec, bucket=env.bucket, environment=env.environment, run=request.run)
    return ChampionPlan(state=state, champion_arn=arn, job=due)
