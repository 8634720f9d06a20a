"""The instance types that SageMaker trains on, as the installed botocore knows them: nothing is asked of AWS."""

from __future__ import annotations

from functools import cache

from stepforge.errors import UnknownName


@cache
def known_types() -> frozenset[str]:
    """Reads botocore's model of SageMaker, which takes about .1 s."""
    from botocore.session import get_session

    model = get_session().get_service_model("sagemaker")
    return frozenset(model.shape_for("TrainingInstanceType").enum)


def check_known(instance_type: str) -> None:
    """Raises UnknownName for a type that no training job can have. One that is newer needs a newer botocore."""
    known = known_types()
    if instance_type in known:
        return
    family = instance_type.rpartition(".")[0]
    same = [name for name in known if name.startswith(f"{family}.")]
    raise UnknownName("instance type", instance_type, same or {name.rpartition(".")[0] + ".*" for name in known})
