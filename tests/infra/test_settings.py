"""The configuration of environments: what is wrong is refused by name, with the remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cdk.settings import FOLDER, LOCAL, Settings, deployable, parse, settings
from pydantic import ValidationError

from stepforge.contracts.serving import ALARM_SECONDS
from stepforge.errors import InvalidInput, UnknownName
from stepforge.machines.rollout import Rollout, guardrails

DEV = {"region": "us-east-1"}


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_every_committed_environment_is_read(name: str) -> None:
    assert settings(name).name == name


def test_there_is_no_other_file_and_no_other_name() -> None:
    assert deployable() == ("dev", "prod", "staging")
    with pytest.raises(UnknownName, match="did you mean 'prod'"):
        settings("prd")


@pytest.mark.parametrize("name", ["account", "Dev", "d", "dev-2", "a-name-of-over-twelve"])
def test_a_name_that_no_environment_can_have_is_refused(name: str) -> None:
    """`stepforge-account` is the stack of what an account has once."""
    with pytest.raises(InvalidInput, match="not account"):
        parse(name, DEV, source="x.toml")


def test_networks_of_the_committed_environments_do_not_overlap() -> None:
    cidrs = [network.cidr for name in deployable() if (network := settings(name).network)]
    assert len(set(cidrs)) == len(cidrs) == 3


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings("dev").region = "eu-west-1"  # type: ignore[misc]


def nested(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("region", "Virginia", "`region` = 'Virginia'"),
        ("account", "1234", "`account` = '1234'"),
        ("email", "nobody", "`email` = 'nobody'"),
        ("repository", "https://github.com/a/b", "`repository`"),
        ("approvers", ["ann"], "`approvers.0` = 'ann'"),
        ("log_retention_days", 45, "7, 30, 90 or 365"),
        ("network.cidr", "8.8.0.0/16", "give private addresses"),
        ("network.cidr", "10.0.0.0/24", "from /16 to /20"),
        ("network.zones", ["us-east-1a"], "give three"),
        ("network.zones", ["eu-west-1a", "eu-west-1b", "eu-west-1c"], "not in region 'us-east-1'"),
        ("network.nat_gateways", 4, "less than or equal to 3"),
        ("budget.monthly_usd", -1, "greater than 0"),
        ("limits.hours", 0, "greater than or equal to 1"),
        ("gradual.percent", 100, "less than or equal to 99"),
        ("gradual.minutes", 0, "greater than or equal to 1"),
        ("gradual.type", "canary", "'CANARY', 'LINEAR' or 'ALL_AT_ONCE'"),
        ("limits.instance_types", ["ml.m5.*"], "every job would be denied"),
        ("train_instance_type", "g5.xlarge", "`train_instance_type` = 'g5.xlarge'"),
        ("domains", ["a b"], "cannot be a domain's name"),
        ("studio.enabled", True, "set network.nat_gateways to 1"),
        ("studio.profiles", {"ann": "owner"}, "'viewer', 'trainer' or 'approver'"),
        ("studio.profiles", {"ann": "trainer", "Ann": "viewer"}, "give each another name"),
        ("studio.profiles", {"Viewer": "trainer"}, "give each another name"),
        ("jobs_need_vpc", True, "add a [network]"),
        ("eks", True, "`eks` = True"),
        ("retention_days", 30, "did you mean `log_retention_days`"),
        ("network.nat_gateway", 1, "did you mean `nat_gateways`"),
        ("bake_seconds", 3601, "less than or equal to 3600"),
        ("bake_seconds", -1, "greater than or equal to 0"),
        ("network.cidr", "100.64.0.0/16", "give private addresses"),
        ("network.cidr", "169.254.0.0/16", "give private addresses"),
        *(
            (field, 0, f"`{field}` = 0: it should be greater than or equal to 1")
            for field in (
                "sweep_minutes",
                "serve_instances",
                "job_poll_seconds",
                "endpoint_poll_seconds",
                "finetune_first_seconds",
                "finetune_most_seconds",
            )
        ),
        ("finetune_first_seconds", 901, "exchange them"),
        *(
            ("bucket", name, "lower-case letters, digits and hyphens")
            for name in ("Mine", "my_bucket", "ab", "a.b", "-mine", "xn--mine", "a" * 64, "mine-s3alias")
        ),
        ("budget.monthly_usd", float("inf"), "finite"),
        ("budget.submission_usd", float("nan"), "`budget.submission_usd`"),
        ("tunes.job_usd", float("inf"), "finite"),
        ("domains", ["facial", "Facial"], "are the same: leave all but one out"),
        ("providers.names", ["openai", "openai"], "are the same: leave all but one out"),
        ("network.zones", ["us-east-1a", "us-east-1b", "us-east-1-bos-1a"], "give the region and a letter"),
        ("network.zones", ["us-east-1a", "us-east-1b", "us-east-1"], "give the region and a letter"),
        ("region", "xx-east-1", "`region` = 'xx-east-1'"),
        ("region", "us-upper-1", "`region` = 'us-upper-1'"),
        ("tuning_role_arn", "tuning", "`tuning_role_arn` = 'tuning'"),
        ("finetune_layer_arns", ["arn:aws:lambda:us-east-1:111122223333:layer:x"], "`finetune_layer_arns.0`"),
        ("approvers", ["arn:aws:iam::111122223333:role/*"], "`approvers.0`"),
        ("component.memory_mb", 64, "greater than or equal to 128"),
        ("component.memory_mb", 3_000_000, "three must fit an instance: take less"),
        ("component.cpus", 0.1, ".25 to 64 cpus"),
        ("regoin", "x", "did you mean `region`"),
        ("account", 111122223333, '= 111122223333: give twelve digits in quotation marks, as in "111122223333"'),
        ("approvers", "arn:aws:iam::1:role/a", 'give a list, in brackets: ["arn:aws:iam::1:role/a"]'),
        ("email", 3, "= 3: give one address"),
        ("repository", "name", 'give "owner/name"'),
        ("keep_data", "maybe", "give true or false"),
        ("serve_instances", 1.5, "give a whole number"),
        ("network", "yes", "give a table"),
        ("network.cidr", "10.1.2.3/16", '"10.1.0.0/16"'),
        ("network.cidr", "here", 'give addresses as "10.40.0.0/16" has them'),
        ("name", "test", "an environment is called as its file, 'dev'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_the_remedy(path: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse("dev", {**DEV, **nested(path, value)}, source="cdk/environments/dev.toml")
    assert str(refused.value).startswith("cdk/environments/dev.toml: ")
    assert said in str(refused.value)


def test_vllm_is_off_as_it_comes_and_for_gpus_alone() -> None:
    assert not any(settings(name).vllm for name in deployable())
    assert parse("dev", {**DEV, "vllm": True}, source="dev.toml").vllm
    with pytest.raises(InvalidInput, match=r"train_instance_type 'ml\.m5\.xlarge' has none"):
        parse("dev", {**DEV, "vllm": True, "train_instance_type": "ml.m5.xlarge"}, source="dev.toml")


def test_what_must_be_there_is_told_as_the_line_to_add() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse("dev", {}, source="dev.toml")
    assert str(refused.value) == 'dev.toml: `region` is missing: add the line region = "us-east-1"'


@pytest.mark.parametrize("key", sorted(Settings.model_fields))
def test_no_refusal_speaks_of_python(key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse("dev", {**DEV, key: object()}, source="dev.toml")
    assert not re.search("pattern|tuple|instance of|Input|pydantic|interpret", str(refused.value))


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"account.*email"):
        parse("dev", {**DEV, "account": "1", "email": "x"}, source="dev.toml")


def test_a_file_that_is_no_toml_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.toml").write_text("region = ")
    monkeypatch.setattr("cdk.settings.FOLDER", tmp_path)
    with pytest.raises(InvalidInput, match=r"broken\.toml"):
        settings("broken")


def test_the_five_values_stand_in_every_file() -> None:
    for name in deployable():
        text = (FOLDER / f"{name}.toml").read_text()
        assert all(f"{value} = " in text for value in ("account", "region", "email", "approvers", "repository"))


@pytest.mark.parametrize("seconds", [0, 60, 179])
def test_a_bake_that_ends_before_the_alarm_can_fire_is_refused_but_on_a_laptop(seconds: int) -> None:
    with pytest.raises(InvalidInput, match="give at least 180"):
        parse("dev", {"region": "us-east-1", "bake_seconds": seconds}, source="dev.toml")
    assert parse("dev", {"region": "us-east-1", "bake_seconds": 180}, source="dev.toml").bake_seconds == 180
    assert LOCAL.model_copy(update={"bake_seconds": seconds}).bake_seconds == seconds
    assert type(LOCAL).model_validate(LOCAL.model_dump() | {"bake_seconds": seconds}).bake_seconds == seconds


def test_prod_has_a_canary_and_every_environment_a_time_in_which_its_alarm_turns_a_version_back() -> None:
    for name in deployable():
        found = settings(name)
        rollout = Rollout(instances=found.serve_instances, strategy=found.rollout, bake_seconds=found.bake_seconds)
        policy = guardrails("alarm", rollout)["BlueGreenUpdatePolicy"]
        assert policy["TerminationWaitInSeconds"] >= 3 * ALARM_SECONDS, name
        assert policy["TrafficRoutingConfiguration"]["Type"] == ("CANARY" if name == "prod" else "ALL_AT_ONCE")
    assert (settings("prod").serve_instances, settings("prod").bake_seconds) == (2, 300)
