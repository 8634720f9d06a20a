"""Input and output held to the shapes that botocore has of SageMaker.

Errors follow https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html (ValidationException).
"""

from __future__ import annotations

import functools
import re
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape
from botocore.validate import ParamValidator

from stepforge.local.sagemaker.errors import ServiceError, validation

Json = Any


@functools.cache
def service_model() -> ServiceModel:
    return botocore.session.get_session().get_service_model("sagemaker")


@functools.cache
def operation(name: str) -> OperationModel:
    """Raises ServiceError for an operation that SageMaker does not have."""
    if name not in service_model().operation_names:
        raise ServiceError("UnknownOperationException", f"SageMaker has no operation {name!r}")
    return service_model().operation_model(name)


@functools.cache
def modelled_errors() -> frozenset[str]:
    return frozenset(shape.name for shape in service_model().error_shapes)


def validate(name: str, params: Json) -> None:
    """Raises ValidationException for a parameter that is unknown, missing, of a wrong type or out of its bounds."""
    shape = operation(name).input_shape
    if not isinstance(params, dict):
        raise ServiceError("SerializationException", "the request is not a JSON object")
    report = ParamValidator().validate(params, shape)
    if report.has_errors():
        raise validation(f"Invalid parameters of {name}: {report.generate_report()}")
    problems = list(_constraints(shape, params, ""))
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
        raise validation(f"{count}: {'; '.join(problems)}")


def _constraints(shape: Shape, value: Json, path: str) -> Any:
    """Patterns, maxima and enumerations, which botocore's validator leaves to the service."""
    if isinstance(shape, StructureShape):
        for name, member in value.items():
            if name in shape.members:
                yield from _constraints(shape.members[name], member, f"{path}.{name}" if path else name)
    elif isinstance(shape, ListShape):
        for index, item in enumerate(value):
            yield from _constraints(shape.member, item, f"{path}[{index}]")
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            yield from _constraints(shape.key, key, f"{path} key")
            yield from _constraints(shape.value, item, f"{path}.{key}")
    bounds = shape.metadata
    size = value if isinstance(value, int | float) else len(value) if isinstance(value, str | list | dict) else None
    if "max" in bounds and size is not None and not isinstance(value, bool) and size > bounds["max"]:
        yield f"Value at '{path}' failed to satisfy constraint: Member must be at most {bounds['max']}, given {size}"
    if isinstance(value, str):
        failed = f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy"
        allowed = getattr(shape, "enum", [])
        if allowed and value not in allowed:
            yield f"{failed} enum value set: {allowed}"
        pattern = bounds.get("pattern")
        if pattern and not _compiled(pattern).fullmatch(value):
            yield f"{failed} regular expression pattern: {pattern}"


_MARKS = "!-/:-@\\[-`{-~\u00a1-\u00bf\u2000-\u2bff\u3000-\u303f"
_JAVA = {
    r"\p{Alnum}": "A-Za-z0-9",
    r"\p{L}": r"\w",
    r"\p{N}": r"\d",
    r"\p{Z}": r"\s",
    r"\p{M}": "\u0300-\u036f",
    r"\p{P}": _MARKS,
    r"\p{S}": _MARKS,
    r"\uD800\uDC00-\uDBFF\uDFFF": "\U00010000-\U0010ffff",
}


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Java's classes of characters by Python's nearest, and without the quantifiers of `$` that the model has."""
    for java, python in _JAVA.items():
        pattern = pattern.replace(java, python)
    return re.compile(re.sub(r"\$\{\d+,\d+\}", "$", pattern))


def shaped(name: str, value: Json) -> Json:
    """Only what the operation's output has. None where it has no output."""
    shape = operation(name).output_shape
    return {} if shape is None else _trim(shape, value)


def _trim(shape: Shape, value: Json) -> Json:
    if isinstance(shape, StructureShape):
        return {n: _trim(shape.members[n], v) for n, v in value.items() if n in shape.members and v is not None}
    if isinstance(shape, ListShape):
        return [_trim(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {key: _trim(shape.value, item) for key, item in value.items()}
    return value


def with_times(name: str, value: Json, convert: Any) -> Json:
    """An output with its times (seconds since the epoch) converted, for those who write them in another way."""
    shape = operation(name).output_shape
    return value if shape is None else _convert(shape, value, convert)


def _convert(shape: Shape, value: Json, convert: Any) -> Json:
    if isinstance(shape, StructureShape):
        return {name: _convert(shape.members[name], member, convert) for name, member in value.items()}
    if isinstance(shape, ListShape):
        return [_convert(shape.member, item, convert) for item in value]
    if isinstance(shape, MapShape):
        return {key: _convert(shape.value, item, convert) for key, item in value.items()}
    return convert(value) if shape.type_name == "timestamp" else value
