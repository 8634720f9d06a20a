"""Where a key from Secrets Manager may go. A request names the address; what was stored with the key decides.

A secret is the key alone, which goes to its vendor's own address and nowhere else, or JSON that names another:
`{"api_key": "...", "base_url": "https://me.openai.azure.com/openai/v1"}`. Credentials of Google may have a `base_url`
beside their own fields. Loopback is this machine, where no vendor is, and is taken in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from stepforge.errors import AddressRefused, InvalidInput
from stepforge.finetune.keys import is_loopback

Secrets = Callable[[str], str]
"""From a secret's name to its value. Without it keys are found as a person's are."""


def key_for(secrets: Secrets, name: str, *, address: str | None, own: str) -> SecretStr:
    """The key, where it may go to `address` (None: `own`, the vendor's). Raises AddressRefused, InvalidInput."""
    hold_form(address)
    value = secrets(name).strip()
    about = _fields(value, name) if value.startswith("{") else {"api_key": value}
    _hold(address, about.get("base_url"), own=own, secret=name)
    if not isinstance(key := about.get("api_key"), str):
        raise InvalidInput(f"secret {name!r} is JSON without api_key: store the key alone, or api_key and base_url")
    return SecretStr(key)


def credentials_for(secrets: Secrets, name: str, *, address: str | None) -> dict[str, Any]:
    """Google's credentials, where they may go to `address` (None: Google's own). Raises as `key_for`."""
    hold_form(address)
    about = _fields(secrets(name), name)
    _hold(address, about.pop("base_url", None), own=None, secret=name)
    return about


def hold_own(address: str | None) -> None:
    """Of calls with a role's credentials: no address but AWS's or Google's own. Raises AddressRefused."""
    hold_form(address)
    if address is not None and not is_loopback(address):
        raise AddressRefused(
            f"{address!r} is not where the environment's own credentials go: leave base_url and endpoint_url out"
        )


def hold_known(address: str | None, *, own: str, named: str | None, variable: str) -> None:
    """Of calls with a person's own key: no address but the vendor's `own`, or the one that the person `named` in
    `variable`. Raises AddressRefused."""
    hold_form(address)
    if is_loopback(address) or _same(address or own, own) or _same(address, named):
        return
    raise AddressRefused(
        f"{address!r} is named by the request that this model was tuned by, not by you, and your key would go there: "
        f"if you trust it, set {variable} to it. Nothing was sent"
    )


def hold_form(address: str | None) -> None:
    """Before anything is read: what clients read differently is no address. Raises AddressRefused."""
    if address is None:
        return
    if not address.isascii() or not address.isprintable() or any(mark in address for mark in " \\@#?"):
        raise AddressRefused(f"{address!r} is no plain address: give https://HOST/PATH, without names or questions")
    if not address.startswith("https://") and not is_loopback(address):
        raise AddressRefused(f"{address!r} is not encrypted, and no key is sent there: give an address with https://")


def _hold(address: str | None, stored: Any, *, own: str | None, secret: str) -> None:
    if is_loopback(address) or _same(address or own, stored or own):
        return
    raise AddressRefused(
        f"the key in secret {secret!r} was not stored for {address or own!r}: leave base_url out, or have who keeps "
        'keys store it as {"api_key": "...", "base_url": "..."} with this address (docs/secrets.md). Nothing was sent'
    )


def _same(one: str | None, other: Any) -> bool:
    return one == other or (isinstance(other, str) and one is not None and one.rstrip("/") == other.rstrip("/"))


def _fields(value: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        # From nothing: what JSON says of a value quotes it.
        raise InvalidInput(f"secret {name!r} is no JSON object: store it again (docs/secrets.md)") from None
    return found
