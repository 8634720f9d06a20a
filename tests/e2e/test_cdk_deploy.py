"""`cdk deploy` for real: the CDK CLI, the environment `dev`, real jobs; on the local AWS in place of an account.

The tests go on from each other: one environment is deployed, works, is found unchanged, and is torn down.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepforge.artifacts import read_file
from stepforge.contracts.names import endpoint_name, package_group
from stepforge.contracts.registry import TrainOutput
from stepforge.local.state import ACCOUNT_ID, REGION
from tests.e2e.homes import ROOT, TINY, Home
from tests.e2e.resources import Deployment, Resource

pytestmark = pytest.mark.slow
Json = Any
GROUP = package_group("facial", "dev")
KEPT = ("data", "secrets", "images", "studio")
PARTS = ("-data", "-network", "-secrets", "-images", "", "-studio", "-operations")
CHANGES = {
    # The five values of one's own.
    '# account = "111122223333"': f'account = "{ACCOUNT_ID}"',
    "# email =": "email =",
    "# approvers =": "approvers =",
    "# repository =": "repository =",
    # Beyond the committed file: what dev saves money on, so that every type of resource is deployed.
    "nat_gateways = 0": "nat_gateways = 1",
    "provider_egress = false": "provider_egress = true",
    "interface_endpoints = false": "interface_endpoints = true",
    "[studio]\n": '[studio]\nenabled = true\nprofiles = {research = "trainer"}\n',
    # An endpoint is up within a second here.
    "log_retention_days = 30\n": "log_retention_days = 30\nendpoint_poll_seconds = 1\n",
}


@dataclass(frozen=True)
class Dev:
    """`home`: whose local AWS stands for the account. `deployed`: what the CLI printed."""

    home: Home
    deployment: Deployment
    deployed: str

    def client(self, service: str) -> Any:
        return self.deployment.client(service)

    def cdk(self, *arguments: str, code: int = 0) -> str:
        return cdk(self.home, *arguments, code=code)

    def stepforge(self, *arguments: str) -> Json:
        """A command on the environment `dev`, as anybody types it who has credentials for its account."""
        return self.home.cli("local", "run", "--", sys.executable, "-m", "stepforge.cli", *arguments, "--env", "dev")

    def ended(self, machine: str, *, seconds: float = 480) -> Json:
        """The newest execution of a machine, once it has ended."""
        states = self.client("stepfunctions")
        arn = f"arn:aws:states:{REGION}:{ACCOUNT_ID}:stateMachine:stepforge-dev-{machine}"
        started = until(lambda: states.list_executions(stateMachineArn=arn)["executions"], seconds=30)
        described = until(
            lambda: (
                (d := states.describe_execution(executionArn=started[0]["executionArn"]))["status"] != "RUNNING" and d
            ),
            seconds=seconds,
        )
        assert described["status"] == "SUCCEEDED", (described.get("error"), described.get("cause"))
        assert described["stateMachineAliasArn"] == f"{arn}:live"
        return json.loads(described["output"])


def cdk(home: Home, *arguments: str, code: int = 0) -> str:
    process = home.start("local", "run", "--", sys.executable, "-m", "cdk.cli", *arguments, cwd=home.checkout)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (process.returncode, out[-3000:], err[-6000:])
    return out + err


def until(read: Callable[[], Any], *, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := read()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    root = tmp_path_factory.mktemp("cdk")
    checkout = root / "checkout"
    for name in ("cdk", "sdk", "jobs", "statemachines", "lambdas", "containers"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cdk.json", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, checkout)
    (ROOT / ".wheels").mkdir(exist_ok=True)
    (checkout / ".wheels").symlink_to(ROOT / ".wheels")
    settings = checkout / "cdk" / "environments" / "dev.toml"
    text = settings.read_text()
    for old, new in CHANGES.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    settings.write_text(text)
    home = Home(root / "home", checkout)
    try:
        cdk(home, "bootstrap", f"aws://{ACCOUNT_ID}/{REGION}")
        asked = ("--all", "-c", "env=dev", "--require-approval", "never")
        # Kept: another synthesis is wanted for the comparison alone.
        deployed = cdk(home, "deploy", *asked, "--output", "deployed")
        home.cli("local", "images", "dev")
        yield Dev(home, Deployment(home.aws()), deployed)
    finally:
        home.down()


@pytest.fixture(scope="module")
def trained(dev: Dev) -> TrainOutput:
    recipe = dev.home.folder / "small.toml"
    # As long as an answer of the endpoint may be.
    recipe.write_text(TINY.read_text().replace("max_new_tokens = 20", "max_new_tokens = 64"))
    dev.stepforge("run", "train", "--domain", "facial", "--recipe", str(recipe), "--detach")
    return TrainOutput.model_validate(dev.ended("train"))


def test_the_cli_deploys_every_stack_with_the_roles_of_its_bootstrap(dev: Dev) -> None:
    stacks = dev.deployment.stacks()
    assert sorted(stacks) == sorted(["stepforge-account", *(f"stepforge-dev{part}" for part in PARTS)])
    assert {stack["StackStatus"] for stack in stacks.values()} == {"CREATE_COMPLETE"}
    # The CLI says so where it goes on with the credentials that it was given.
    assert "could not be used to assume" not in dev.deployed


def test_everything_that_was_deployed_is_in_its_service_or_recorded(dev: Dev) -> None:
    found = dev.deployment.resources
    kinds = Counter(resource.type for resource in found)
    assert len(found) > 270
    assert len(kinds) > 45
    missing = []
    for resource in found:
        try:
            dev.deployment.look_up(resource)
        except ClientError as error:
            missing.append((resource.type, resource.physical_id, str(error)))
    assert missing == []


def one(dev: Dev, kind: str, **properties: Json) -> Resource:
    (found,) = (r for r in dev.deployment.of(kind) if all(r.properties.get(k) == v for k, v in properties.items()))
    return found


def key_arn(dev: Dev, alias: str) -> str:
    return dev.client("kms").describe_key(KeyId=alias)["KeyMetadata"]["Arn"]


def test_studio_is_recorded_inside_the_network_with_its_key(dev: Dev) -> None:
    (domain,) = dev.deployment.recorded("AWS::SageMaker::Domain")
    subnets = dev.client("ec2").describe_subnets(SubnetIds=domain["SubnetIds"])["Subnets"]
    assert domain["DomainId"] == one(dev, "AWS::SageMaker::Domain").physical_id
    assert re.fullmatch(r"d-[0-9a-z]{12}", domain["DomainId"])
    assert (domain["AppNetworkAccessType"], domain["AuthMode"]) == ("VpcOnly", "IAM")
    assert domain["VpcId"] == one(dev, "AWS::EC2::VPC").physical_id
    assert len({subnet["AvailabilityZone"] for subnet in subnets}) == 3
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets)
    assert domain["KmsKeyId"] == key_arn(dev, "alias/stepforge-dev-studio")
    idle = domain["DefaultUserSettings"]["JupyterLabAppSettings"]["AppLifecycleManagement"]["IdleSettings"]
    assert idle == {"IdleTimeoutInMinutes": 60, "LifecycleManagement": "ENABLED"}
    (profile,) = dev.deployment.recorded("AWS::SageMaker::UserProfile")
    assert (profile["UserProfileName"], profile["DomainId"]) == ("research", domain["DomainId"])
    assert profile["UserProfileArn"].endswith(f":user-profile/{domain['DomainId']}/research")


def test_mlflow_is_recorded_over_the_data_bucket_and_registers_nothing(dev: Dev) -> None:
    (app,) = dev.deployment.recorded("AWS::SageMaker::MlflowApp")
    bucket = dev.client("ssm").get_parameter(Name="/stepforge/dev/bucket")["Parameter"]["Value"]
    assert app["ArtifactStoreUri"] == f"s3://{bucket}/mlflow"
    assert app["ModelRegistrationMode"] == "AutoModelRegistrationDisabled"
    # Fn::GetAtt gave it to the role of Studio.
    role = "stepforge-dev-studio-research"
    statements = dev.client("iam").list_role_policies(RoleName=role)["PolicyNames"]
    documents = [
        dev.client("iam").get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in statements
    ]
    granted = [s for d in documents for s in d["Statement"] if "sagemaker:CallMlflowAppApi" in s["Action"]]
    assert [statement["Resource"] for statement in granted] == [app["Arn"]]


def test_what_an_account_has_once_watches_it(dev: Dev) -> None:
    (analyzer,) = dev.deployment.recorded("AWS::AccessAnalyzer::Analyzer")
    assert (analyzer["AnalyzerName"], analyzer["Type"]) == ("stepforge", "ACCOUNT")
    cloudtrail = dev.client("cloudtrail")
    trail = cloudtrail.get_trail(Name="stepforge")["Trail"]
    assert trail["IsMultiRegionTrail"]
    assert trail["LogFileValidationEnabled"]
    assert trail["KmsKeyId"] == key_arn(dev, "alias/stepforge-account-trail")
    assert cloudtrail.get_trail_status(Name="stepforge")["IsLogging"]
    provider = one(dev, "AWS::IAM::OIDCProvider").physical_id
    known = dev.client("iam").get_open_id_connect_provider(OpenIDConnectProviderArn=provider)
    assert known["ClientIDList"] == ["sts.amazonaws.com"]
    trusted = dev.client("iam").get_role(RoleName="stepforge-dev-deploy")["Role"]["AssumeRolePolicyDocument"]
    assert trusted["Statement"][0]["Principal"] == {"Federated": provider}


def test_what_jobs_and_endpoints_print_goes_into_groups_with_an_end_and_a_key(dev: Dev, trained: TrainOutput) -> None:
    logs = dev.client("logs")
    for name, days, alias in (
        ("/aws/sagemaker/TrainingJobs", 365, "alias/stepforge-account-trail"),
        (f"/aws/sagemaker/Endpoints/{endpoint_name(GROUP)}", 30, "alias/stepforge-dev-logs"),
        (f"/aws/sagemaker/Endpoints/{endpoint_name(GROUP, candidate=True)}", 30, "alias/stepforge-dev-logs"),
    ):
        groups = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        (group,) = (group for group in groups if group["logGroupName"] == name)
        assert (group["retentionInDays"], group["kmsKeyId"]) == (days, key_arn(dev, alias)), name
    # The group that the stack made is the one that the jobs write into.
    assert logs.describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")["logStreams"]


def test_the_writes_below_jobs_have_a_trail(dev: Dev) -> None:
    trail = dev.client("cloudtrail").get_trail(Name="stepforge-dev-writes")["Trail"]
    assert trail["LogFileValidationEnabled"]
    (deployed,) = (r for r in dev.deployment.of("AWS::CloudTrail::Trail") if r.stack == "stepforge-dev-data")
    assert deployed.properties["EventSelectors"][0]["ReadWriteType"] == "WriteOnly"


def test_the_budget_warns_and_stops_what_starts_jobs(dev: Dev) -> None:
    budgets, topic = dev.client("budgets"), f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:stepforge-dev-alerts"
    budget = budgets.describe_budget(AccountId=ACCOUNT_ID, BudgetName="stepforge-dev")["Budget"]
    assert float(budget["BudgetLimit"]["Amount"]) == 300
    told = budgets.describe_notifications_for_budget(AccountId=ACCOUNT_ID, BudgetName="stepforge-dev")
    thresholds = {(n["NotificationType"], n["Threshold"]) for n in told["Notifications"]}
    assert thresholds == {("ACTUAL", 80.0), ("ACTUAL", 100.0), ("FORECASTED", 100.0)}
    for notification in told["Notifications"]:
        asked = {"AccountId": ACCOUNT_ID, "BudgetName": "stepforge-dev", "Notification": notification}
        subscribers = budgets.describe_subscribers_for_notification(**asked)["Subscribers"]
        assert subscribers == [{"SubscriptionType": "SNS", "Address": topic}]
    (action,) = dev.deployment.recorded("AWS::Budgets::BudgetsAction")
    assert (action["ActionThreshold"], action["ApprovalModel"]) == ({"Type": "PERCENTAGE", "Value": 100}, "AUTOMATIC")
    held = action["Definition"]["IamActionDefinition"]
    dev.client("iam").get_policy(PolicyArn=held["PolicyArn"])
    known = {role.physical_id: role.logical_id for role in dev.deployment.of("AWS::IAM::Role")}
    stems = ["FunctionsDeployRole", "FunctionsFinetuneRole", "MachinesRunJobRole"]
    by_machines, people = held["Roles"][:3], held["Roles"][3:]
    assert sorted(known[role].rstrip("0123456789ABCDEF") for role in by_machines) == stems
    assert people == ["stepforge-dev-studio-research"]


def test_jobs_have_no_way_out_and_providers_one_address(dev: Dev) -> None:
    ec2, vpc = dev.client("ec2"), one(dev, "AWS::EC2::VPC").physical_id
    (flow,) = ec2.describe_flow_logs(Filters=[{"Name": "resource-id", "Values": [vpc]}])["FlowLogs"]
    assert (flow["TrafficType"], flow["LogDestination"]) == ("ALL", "/stepforge/dev/network")
    jobs = dev.client("ssm").get_parameter(Name="/stepforge/dev/network/subnets")["Parameter"]["Value"].split(",")
    tables = ec2.describe_route_tables()["RouteTables"]
    ours = [t for t in tables if {a.get("SubnetId") for a in t["Associations"]} & set(jobs)]
    assert len(ours) == 3
    assert not [r for t in ours for r in t["Routes"] if r.get("DestinationCidrBlock") == "0.0.0.0/0"]
    group = dev.client("ssm").get_parameter(Name="/stepforge/dev/network/security-groups")["Parameter"]["Value"]
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [[p["GroupId"] for p in r["UserIdGroupPairs"]] for r in found["IpPermissions"]] == [[group]]
    endpoints = {e["ServiceName"] for e in ec2.describe_vpc_endpoints()["VpcEndpoints"]}
    assert {f"com.amazonaws.{REGION}.{name}" for name in ("s3", "sagemaker.api", "kms", "lambda")} <= endpoints


def test_train_runs_real_jobs_with_the_network_and_key_of_the_environment(dev: Dev, trained: TrainOutput) -> None:
    sagemaker = dev.client("sagemaker")
    names = [job["TrainingJobName"] for job in sagemaker.list_training_jobs()["TrainingJobSummaries"]]
    assert Counter(name.partition("-")[0] for name in names) == dict.fromkeys(
        ("dataset", "gate", "sft", "srl", "evaluate"), 1
    )
    wanted = dev.client("ssm").get_parameter(Name="/stepforge/dev/network/subnets")["Parameter"]["Value"]
    key = dev.client("ssm").get_parameter(Name="/stepforge/dev/key-arn")["Parameter"]["Value"]
    for name in names:
        job = sagemaker.describe_training_job(TrainingJobName=name)
        assert job["TrainingJobStatus"] == "Completed"
        assert ",".join(job["VpcConfig"]["Subnets"]) == wanted
        assert job["OutputDataConfig"]["KmsKeyId"] == key
        assert job["ResourceConfig"]["InstanceType"] == "ml.g5.xlarge"
        image = job["AlgorithmSpecification"]["TrainingImage"]
        assert re.fullmatch(r".*/stepforge-dev-(data|train-cuda)@sha256:[0-9a-f]{64}", image)
    package = sagemaker.describe_model_package(ModelPackageName=trained.package_arn)
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["ModelPackageGroupName"] == GROUP


def test_an_approval_in_the_registry_serves_the_weights_that_were_evaluated(dev: Dev, trained: TrainOutput) -> None:
    sagemaker = dev.client("sagemaker")
    sagemaker.update_model_package(ModelPackageArn=trained.package_arn, ModelApprovalStatus="Approved")
    dev.ended("promote", seconds=240)
    rows = read_file(dev.client("s3"), trained.evaluation.artifact, "rows.ndjson").splitlines()
    expected = {row["prompt"]: row["completion"] for row in map(json.loads, rows) if row["decoding"] == "greedy"}
    assert len(set(expected.values())) > 1
    answer = dev.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint_name(GROUP),
        ContentType="application/json",
        Body=json.dumps({"records": [{"prompt": prompt} for prompt in expected]}),
    )
    said = json.loads(answer["Body"].read())
    assert dict(zip(expected, said["completions"], strict=True)) == expected
    assert said["model_sha256"] == trained.stages[-1].artifact.sha256
    stage = sagemaker.describe_model_package(ModelPackageName=trained.package_arn)["ModelLifeCycle"]
    assert (stage["Stage"], stage["StageStatus"]) == ("Production", "Serving")
    (listed,) = dev.stepforge("registry", "list")
    assert listed["state"] == "Production"


class Provider:
    """Stands in for a provider's API: takes the keys in `valid`, whatever is asked."""

    def __init__(self) -> None:
        self.valid: set[str] = set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.headers.get("x-api-key") in provider.valid else 401)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def provider(dev: Dev) -> Iterator[Provider]:
    """The deployed function, with its own code and layer, asks this server instead of Anthropic's."""
    functions, name, found = dev.client("lambda"), "stepforge-dev-rotate-anthropic", Provider()
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    functions.update_function_configuration(
        FunctionName=name, Environment={"Variables": {**variables, "BASE_URL": found.url}}
    )
    yield found
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
    found.close()


def test_a_key_that_a_person_hands_in_is_rotated_by_the_function(dev: Dev, provider: Provider) -> None:
    secrets, ssm, name = dev.client("secretsmanager"), dev.client("ssm"), "stepforge/dev/anthropic"
    place = "/stepforge-keys/dev/anthropic"

    def rotate(key: str) -> None:
        ssm.put_parameter(
            Name=place, Type="SecureString", KeyId="alias/stepforge-dev-secrets", Value=key, Overwrite=True
        )
        secrets.rotate_secret(SecretId=name)
        until(lambda: "AWSPENDING" not in stages(), seconds=60)

    def stages() -> dict[str, str]:
        versions = secrets.describe_secret(SecretId=name)["VersionIdsToStages"]
        return {stage: version for version, found in versions.items() for stage in found}

    def handed_in() -> Json:
        return ssm.describe_parameters(ParameterFilters=[{"Key": "Name", "Values": [place]}])["Parameters"]

    def value(stage: str) -> str:
        return secrets.get_secret_value(SecretId=name, VersionStage=stage)["SecretString"]

    # The function's own code and packages, and not those of this checkout.
    shipped = dev.client("lambda").get_function(FunctionName="stepforge-dev-rotate-anthropic")["Configuration"]
    assert [layer["Arn"].rpartition(":")[0] for layer in shipped["Layers"]] == [
        r.physical_id.rpartition(":")[0]
        for r in dev.deployment.of("AWS::Lambda::LayerVersion")
        if r.stack == "stepforge-dev-secrets"
    ]
    provider.valid = {"first-key", "second-key"}
    rotate("first-key")
    assert value("AWSCURRENT") == "first-key"
    until(lambda: not handed_in(), seconds=60)
    rotate("second-key")
    assert (value("AWSCURRENT"), value("AWSPREVIOUS")) == ("second-key", "first-key")
    rotate("a-key-that-the-provider-refuses")
    assert (value("AWSCURRENT"), value("AWSPREVIOUS")) == ("second-key", "first-key")


def test_an_alarm_tells_the_topic_and_who_subscribes_hears_it(dev: Dev) -> None:
    sqs, sns, alarm = dev.client("sqs"), dev.client("sns"), "stepforge-dev-rotation-anthropic"
    queue = sqs.create_queue(QueueName="listener")["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:stepforge-dev-alerts"
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn, ReturnSubscriptionArn=True)

    def heard() -> Json:
        messages = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", [])
        return [json.loads(json.loads(message["Body"])["Message"]) for message in messages]

    try:
        for state in ("ALARM", "OK"):
            dev.client("cloudwatch").set_alarm_state(AlarmName=alarm, StateValue=state, StateReason="a trial")
            (told,) = until(heard, seconds=20)
            assert (told["AlarmName"], told["NewStateValue"]) == (alarm, state)
            assert told["AlarmDescription"].startswith("the key for anthropic was not rotated")
            for message in sqs.receive_message(QueueUrl=queue).get("Messages", []):
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    finally:
        sns.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
        sqs.delete_queue(QueueUrl=queue)


def test_after_all_that_nothing_differs_and_a_deployment_changes_nothing(dev: Dev) -> None:
    said = dev.cdk("diff", "--all", "-c", "env=dev", "--fail")
    assert said.count("There were no differences") == 8
    before = {name: stack["LastUpdatedTime"] for name, stack in dev.deployment.stacks().items()}
    said = dev.cdk("deploy", "--all", "--app", "deployed", "--require-approval", "never")
    assert said.count("(no changes)") == 8
    assert {name: stack["LastUpdatedTime"] for name, stack in dev.deployment.stacks().items()} == before


def test_the_tear_down_removes_all_but_what_is_kept(dev: Dev) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert "python -m cdk.cli destroy 'stepforge-dev*' -c env=dev" in page
    destroy = ("destroy", "stepforge-dev*", "--app", "deployed", "--force")
    assert "cannot be deleted while TerminationProtection is enabled" in dev.cdk(*destroy, code=1)
    for part in KEPT:
        dev.client("cloudformation").update_termination_protection(
            StackName=f"stepforge-dev-{part}", EnableTerminationProtection=False
        )
    dev.cdk(*destroy)
    assert list(dev.deployment.stacks()) == ["stepforge-account"]
    kept = {"AWS::S3::Bucket", "AWS::KMS::Key", "AWS::SecretsManager::Secret", "AWS::ECR::Repository",
            "AWS::DynamoDB::Table", "AWS::SageMaker::Domain", "AWS::SageMaker::ModelPackageGroup"}  # fmt: skip
    gone = {"AWS::StepFunctions::StateMachineVersion", "AWS::StepFunctions::StateMachineAlias",
            "AWS::Lambda::Function", "AWS::StepFunctions::StateMachine", "AWS::IAM::Role", "AWS::SSM::Parameter",
            "AWS::EC2::VPC", "AWS::Events::Rule", "AWS::CloudWatch::Alarm", "AWS::SageMaker::MlflowApp"}  # fmt: skip
    for resource in dev.deployment.resources:
        if resource.stack == "stepforge-account":
            continue
        if resource.type in kept:
            dev.deployment.look_up(resource)
        elif resource.type in gone:
            with pytest.raises((ClientError, AssertionError)):
                dev.deployment.look_up(resource)


def test_a_deployment_after_a_tear_down_takes_back_what_was_kept_by_its_name(dev: Dev, trained: TrainOutput) -> None:
    """As the page says of the local AWS: beside a new bucket and new keys. On AWS it stops at these names."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert "takes what was kept by its name, a test tears down and deploys again" in page
    (old,) = (r.physical_id for r in dev.deployment.of("AWS::S3::Bucket") if r.logical_id.startswith("DataBucket"))
    images = dev.client("ecr").list_images(repositoryName="stepforge-dev-serve")["imageIds"]
    spend = dev.client("dynamodb")
    spend.put_item(TableName="stepforge-dev-spend", Item={"pk": {"S": "launch"}, "sk": {"S": "kept"}})
    dev.cdk("deploy", "--all", "--app", "deployed", "--require-approval", "never")
    again = Deployment(dev.home.aws())
    assert sorted(again.stacks()) == sorted(["stepforge-account", *(f"stepforge-dev{part}" for part in PARTS)])
    assert {stack["StackStatus"] for stack in again.stacks().values()} == {"CREATE_COMPLETE"}
    for resource in again.resources:
        again.look_up(resource)
    (new,) = (r.physical_id for r in again.of("AWS::S3::Bucket") if r.logical_id.startswith("DataBucket"))
    assert new != old
    assert dev.client("s3").list_objects_v2(Bucket=old, Prefix="jobs/")["KeyCount"] > 0
    # The local AWS makes secrets and the table anew; a key is handed in as after a first deployment.
    secret = dev.client("secretsmanager").get_secret_value(SecretId="stepforge/dev/anthropic")
    assert secret["SecretString"] == ""
    package = dev.client("sagemaker").describe_model_package(ModelPackageName=trained.package_arn)
    assert package["ModelApprovalStatus"] == "Approved"
    assert dev.client("ecr").list_images(repositoryName="stepforge-dev-serve")["imageIds"] == images
    kept = spend.get_item(TableName="stepforge-dev-spend", Key={"pk": {"S": "launch"}, "sk": {"S": "kept"}})
    assert "Item" not in kept
