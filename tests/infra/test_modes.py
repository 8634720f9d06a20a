"""What the mode of serving changes in the cloud: grants as narrow as those of the mode that is the default."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Synth
from .principals import REGION, Cloud

Json = Any
STEM = f"{REGION}:000000000000"
GROUP = "stepforge-facial"
ENDPOINT = f"arn:aws:sagemaker:{STEM}:endpoint/{GROUP}"
COMPONENT = f"arn:aws:sagemaker:{STEM}:inference-component/{GROUP}"
TOPIC = f"arn:aws:sns:{STEM}:answers"
OBJECTS = "arn:aws:s3:::stepforge-local/inference"


@pytest.fixture(scope="module")
def clouds(synth: Synth, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cloud]:
    """By the rules that a deployment is held to: a finding of theirs stops the synth."""
    import cdk.app
    from cdk.settings import LOCAL, Asynchronous

    found = {"realtime": Cloud(synth.templates["local"])}
    with pytest.MonkeyPatch.context() as patch:
        for mode in ("async", "components"):
            settings = LOCAL.model_copy(update={"serve_mode": mode, "asynchronous": Asynchronous(success_topic=TOPIC)})
            patch.setattr(cdk.app, "settings", lambda _, settings=settings: settings)
            (template,) = cdk.app.templates(cdk.app.build("local", outdir=str(tmp_path_factory.mktemp(mode)))).values()
            found[mode] = Cloud(template)
    return found


def test_in_each_mode_who_asks_may_ask_in_that_way_alone(clouds: dict[str, Cloud]) -> None:
    people = {"FunctionsSmoke", "viewer", "trainer", "approver", "housekeeper"}
    asked = {
        mode: [
            cloud.who_may("sagemaker:InvokeEndpoint", ENDPOINT),
            cloud.who_may("sagemaker:InvokeEndpoint", COMPONENT),
            cloud.who_may("sagemaker:InvokeEndpointAsync", ENDPOINT),
        ]
        for mode, cloud in clouds.items()
    }
    assert asked == {
        "realtime": [people, set(), set()],
        "async": [set(), set(), people],
        "components": [people, people, set()],
    }


def test_an_asynchronous_request_is_written_by_who_asks_and_answered_by_the_endpoints_role(
    clouds: dict[str, Cloud],
) -> None:
    cloud = clouds["async"]
    askers = {"FunctionsSmoke", "viewer", "trainer", "housekeeper"}
    # Who approves writes no object.
    assert cloud.who_may("s3:PutObject", f"{OBJECTS}/requests/x") == askers
    assert cloud.who_may("s3:GetObject", f"{OBJECTS}/requests/x") == {"RolesServing"}
    for kind in ("answers", "failures"):
        assert cloud.who_may("s3:PutObject", f"{OBJECTS}/{kind}/x") == {"RolesServing"}
        assert cloud.who_may("s3:GetObject", f"{OBJECTS}/{kind}/x") == {*askers, "approver"}
    assert cloud.who_may("sns:Publish", TOPIC) == {"RolesServing"}
    for mode in ("realtime", "components"):
        assert clouds[mode].who_may("s3:PutObject", f"{OBJECTS}/requests/x") == set()
        assert clouds[mode].who_may("sns:Publish", TOPIC) == set()


def test_components_are_made_by_the_promotions_handler_alone_and_in_no_other_mode(clouds: dict[str, Cloud]) -> None:
    for verb in ("Create", "Update"):
        for mode, cloud in clouds.items():
            may = cloud.who_may(f"sagemaker:{verb}InferenceComponent", COMPONENT)
            assert may == ({"FunctionsDeploy"} if mode == "components" else set())
    cloud = clouds["components"]
    foreign = COMPONENT.replace("stepforge-", "other-")
    assert cloud.who_may("sagemaker:CreateInferenceComponent", foreign) == set()
    # The sweep deletes what a stopped promotion left live and somebody rejected then; an operator, what a change of
    # the mode left.
    deletes = {"FunctionsDeploy", "FunctionsOnApproval", "operator"}
    assert cloud.who_may("sagemaker:DeleteInferenceComponent", COMPONENT) == deletes
    candidate = f"{COMPONENT}-candidate"
    assert cloud.who_may("sagemaker:DeleteInferenceComponent", candidate) == deletes


def test_requests_and_answers_go_after_a_week_and_alarms_watch_what_answers(clouds: dict[str, Cloud]) -> None:
    def rules(mode: str) -> list[Json]:
        (bucket,) = [r for r in clouds[mode].resources.values() if r["Type"] == "AWS::S3::Bucket"]
        found = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
        return [(rule["Prefix"], rule["ExpirationInDays"]) for rule in found if rule.get("Id") == "inference"]

    assert (rules("async"), rules("realtime")) == ([("inference/", 7)], [])

    def watched(mode: str) -> list[str]:
        alarms = [r["Properties"] for r in clouds[mode].resources.values() if r["Type"] == "AWS::CloudWatch::Alarm"]
        (alarm,) = [alarm for alarm in alarms if alarm["AlarmName"] == f"{GROUP}-5xx"]
        return sorted(dimension["Name"] for dimension in alarm["Dimensions"])

    assert watched("components") == ["InferenceComponentName"]
    assert watched("realtime") == watched("async") == ["EndpointName", "VariantName"]
