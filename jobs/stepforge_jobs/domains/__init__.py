"""The domains that ship, and how any domain is found by name."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from stepforge.errors import InvalidInput, UnknownName
from stepforge_jobs.domains.base import Askable, Domain, Exportable, Previewable

__all__ = ["DOMAINS", "Askable", "Domain", "Exportable", "Previewable", "domain_names", "load_domain"]

DOMAINS: dict[str, str] = {
    "facial": "stepforge_jobs.domains.facial:DOMAIN",
    "records": "stepforge_jobs.domains.user:DOMAIN",
}


def domain_names() -> list[str]:
    """Names of the domains that ship and of those that installed packages bring."""
    return sorted({*DOMAINS, *(point.name for point in entry_points(group="stepforge.domains"))})


def load_domain(name: str) -> Domain:
    """Import a domain. Raises UnknownName, or InvalidInput where what was found is not a domain."""
    target = DOMAINS.get(name) or next(
        (p.value for p in entry_points(group="stepforge.domains") if p.name == name), None
    )
    if target is None:
        raise UnknownName("domain", name, domain_names())
    domain: Domain = load_object(target, Domain)
    return domain


def load_object(target: str, kind: type) -> Any:
    """Import `package.module:NAME` and check that it has what `kind` asks for."""
    module, _, attribute = target.partition(":")
    if not attribute:
        raise InvalidInput(f"{target!r} names no object: write it as package.module:NAME")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"{target!r} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        # Foreign code: one that calls exit(0) would end the job as a success without a result.
        raise InvalidInput(f"{target!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise InvalidInput(f"{target!r} is a {type(found).__name__} without all that {kind.__name__} needs")
    return found
