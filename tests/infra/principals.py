"""Who may do what in a synthesised template: its roles and people with concrete ARNs, and the decision on a request."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.support.iam import Decision, Request, decide, listed

Json = Any
ACCOUNT, REGION = "123456789012", "us-east-1"
_KINDS = {
    "AWS::IAM::Role": "arn:aws:iam::{account}:role/{name}",
    "AWS::KMS::Key": "arn:aws:kms:{region}:{account}:key/{name}",
    "AWS::S3::Bucket": "arn:aws:s3:::{name}",
    "AWS::DynamoDB::Table": "arn:aws:dynamodb:{region}:{account}:table/{name}",
    "AWS::Lambda::Function": "arn:aws:lambda:{region}:{account}:function:{name}",
    "AWS::StepFunctions::StateMachine": "arn:aws:states:{region}:{account}:stateMachine:{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:{region}:{account}:{name}",
    "AWS::SNS::Topic": "arn:aws:sns:{region}:{account}:{name}",
    "AWS::SecretsManager::Secret": "arn:aws:secretsmanager:{region}:{account}:secret:{name}",
    "AWS::ECR::Repository": "arn:aws:ecr:{region}:{account}:repository/{name}",
    "AWS::CodeBuild::Project": "arn:aws:codebuild:{region}:{account}:project/{name}",
    "AWS::IAM::ManagedPolicy": "arn:aws:iam::{account}:policy/{name}",
    "AWS::SageMaker::MlflowApp": "arn:aws:sagemaker:{region}:{account}:mlflow-app/{name}",
    "AWS::Events::Rule": "arn:aws:events:{region}:{account}:rule/{name}",
    "AWS::Logs::LogGroup": "arn:aws:logs:{region}:{account}:log-group:{name}:*",
    "AWS::CloudTrail::Trail": "arn:aws:cloudtrail:{region}:{account}:trail/{name}",
}
_NAMES = tuple(f"{of}Name" for of in ("Function", "StateMachine", "Queue", "Topic", "Bucket", "Table", "LogGroup",
                                      "Role", "Repository", "ManagedPolicy", ""))  # fmt: skip
_PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}
_REFS_ARE_ARNS = (
    "AWS::IAM::ManagedPolicy",
    "AWS::StepFunctions::StateMachine",
    "AWS::SNS::Topic",
    "AWS::SecretsManager::Secret",
)
_HASH = re.compile(r"[0-9A-F]{8}$")


@dataclass
class Cloud:
    """A template as it would be deployed, as far as policies see it."""

    template: Json

    @cached_property
    def resources(self) -> dict[str, Json]:
        found: dict[str, Json] = self.template["Resources"]
        return found

    def arn(self, start: str) -> str:
        """Of the one resource with an ARN whose logical id is `start` and a hash."""
        found = [n for n, r in self.resources.items() if _HASH.sub("", n) == start and r["Type"] in _KINDS]
        assert len(found) == 1, f"{start!r} is {found}"
        return self._arn(found[0])

    def _arn(self, logical: str) -> str:
        resource = self.resources[logical]
        return _KINDS[resource["Type"]].format(account=ACCOUNT, region=REGION, name=self._name(logical))

    def _name(self, logical: str) -> str:
        properties = self.resources[logical].get("Properties", {})
        given = next((properties[key] for key in _NAMES if isinstance(properties.get(key), str)), None)
        return given or _HASH.sub("", logical).lower()

    def plain(self, value: Json) -> Json:
        """With what only a deployment knows filled in."""
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref":
                return self._ref(argument)
            if function == "Fn::GetAtt":
                return self._attribute(*argument)
            if function == "Fn::Join":
                return argument[0].join(str(self.plain(part)) for part in argument[1])
            if function == "Fn::Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda m: str(self._ref(m[1])), str(listed(argument)[0]))
        return {key: self.plain(item) for key, item in value.items()}

    def _attribute(self, logical: str, name: str) -> str:
        if logical not in self.resources:
            return "?"
        # What policies read of the other kinds are ids that they are given.
        return self._arn(logical) if self.resources[logical]["Type"] in _KINDS else f"{logical}-{name}".lower()

    def _ref(self, logical: str) -> str:
        if logical in _PSEUDO:
            return _PSEUDO[logical]
        if logical not in self.resources:
            return logical.lower()
        kind = self.resources[logical]["Type"]
        return self._arn(logical) if kind in _REFS_ARE_ARNS else self._name(logical)

    @cached_property
    def principals(self) -> dict[str, Principal]:
        """Roles by their place in the tree (`FunctionsStamp`, `MachinesTrain`), people by their policies."""
        found: dict[str, Principal] = {}
        by_role: dict[str, list[Json]] = {}
        for resource in self.resources.values():
            if resource["Type"] in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
                for role in resource["Properties"].get("Roles", []):
                    # By name alone where it is somebody else's role that CDK adds a policy to.
                    name = role if isinstance(role, str) else role.get("Ref", "")
                    by_role.setdefault(name, []).append(resource["Properties"]["PolicyDocument"])
        for logical, resource in self.resources.items():
            properties = resource.get("Properties", {})
            if resource["Type"] == "AWS::IAM::Role":
                documents = [*by_role.get(logical, []), *(p["PolicyDocument"] for p in properties.get("Policies", []))]
                for attached in properties.get("ManagedPolicyArns", []):
                    documents.append(self.resources[attached["Ref"]]["Properties"]["PolicyDocument"])
                name = _HASH.sub("", logical).removesuffix("Role")
                trust = self.plain(properties["AssumeRolePolicyDocument"])
                found[name] = Principal(self._arn(logical), [self.plain(d) for d in documents], trust)
            elif resource["Type"] == "AWS::IAM::ManagedPolicy" and logical.startswith("People"):
                name = _HASH.sub("", logical).removeprefix("People").lower()
                found[name] = Principal(
                    f"arn:aws:iam::{ACCOUNT}:role/{name}", [self.plain(properties["PolicyDocument"])]
                )
        # The roles have the policies of these people and no other: test_environments says so.
        for role in ("Approver", "Housekeeper", "Operator"):
            found.pop(role, None)
        for person in ("trainer", "approver", "housekeeper"):
            # They have the viewer's policy beside their own.
            found[person].policies.extend(found["viewer"].policies)
        return found

    @cached_property
    def of_resources(self) -> dict[str, list[Json]]:
        """ARN to the policies of the resource itself."""
        found: dict[str, list[Json]] = {}
        for logical, resource in self.resources.items():
            properties = resource.get("Properties", {})
            if resource["Type"] == "AWS::KMS::Key":
                found.setdefault(self._arn(logical), []).append(self.plain(properties["KeyPolicy"]))
            elif resource["Type"] == "AWS::S3::BucketPolicy":
                arn = f"arn:aws:s3:::{self.plain(properties['Bucket'])}"
                found.setdefault(arn, []).append(self.plain(properties["PolicyDocument"]))
            elif resource["Type"] == "AWS::SecretsManager::ResourcePolicy":
                arn = str(self.plain(properties["SecretId"]))
                found.setdefault(arn, []).append(self.plain(properties["ResourcePolicy"]))
        return found

    def decide(self, who: str, action: str, resource: str, **context: Any) -> Decision:
        """`context` has condition keys with `__` for `:`. Calls are by TLS unless it says otherwise."""
        return self.decide_for(self.principals[who], action, resource, **context)

    def decide_for(self, principal: Principal, action: str, resource: str, **context: Any) -> Decision:
        """As `decide`, for anybody in the account."""
        keys = {"aws:securetransport": "true", "s3:tlsversion": "1.3", "aws:principalarn": principal.arn}
        keys |= {key.replace("__", ":").lower(): value for key, value in context.items()}
        owner = resource if ":s3:::" not in resource else resource.split("/", 1)[0]
        return decide(
            Request(action, resource, keys, principal.arn),
            identity=principal.policies,
            resource=self.of_resources.get(owner, []),
            key_policy=":kms:" in resource,
        )

    def granted(self, action: str, resource: str) -> set[str]:
        """Whom their own policies allow it, whatever the resource's policy says."""
        return {
            who
            for who, principal in self.principals.items()
            if decide(Request(action, resource, {}, principal.arn), identity=principal.policies) == "allow"
        }

    def who_may(self, action: str, resource: str, **context: Any) -> set[str]:
        return {who for who in self.principals if self.decide(who, action, resource, **context) == "allow"}


@dataclass
class Principal:
    arn: str
    policies: list[Json]
    trust: Json = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The actions on each resource, with their conditions: what a reviewer reads."""
        found: dict[tuple[bool, str, str], set[str]] = {}
        for policy in self.policies:
            for statement in listed(policy["Statement"]):
                for resource in listed(statement["Resource"]):
                    key = (statement["Effect"] == "Deny", _short(resource), conditions(statement))
                    found.setdefault(key, set()).update(listed(statement["Action"]))
        return [
            f"{'NOT ' if denied else ''}{', '.join(sorted(actions))} on {resource}{how}"
            for (denied, resource, how), actions in sorted(found.items())
        ]


def conditions(statement: Json) -> str:
    """` if ...`, or nothing where there are none."""
    said = "; ".join(
        f"{operator} {key} {' | '.join(map(str, listed(value)))}"
        for operator, keys in sorted(statement.get("Condition", {}).items())
        for key, value in sorted(keys.items())
    )
    return f" if {said}" if said else ""


def _short(arn: str) -> str:
    return arn.replace(f":{REGION}:{ACCOUNT}:", ":::").replace(f"::{ACCOUNT}:", ":::").removeprefix("arn:aws:")
