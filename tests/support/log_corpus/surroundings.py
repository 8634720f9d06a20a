"""Where secrets turn up. Nothing of the held-out half is in the other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

Random = random.Random
Place = Callable[[str, Random], str]


def _in(template: str) -> Place:
    """With {} for the secret, {json} and {repr} for it within those."""

    def place(secret: str, _: Random) -> str:
        return (
            template.replace("{json}", json.dumps(secret)[1:-1])
            .replace("{repr}", repr(secret)[1:-1])
            .replace("{}", secret)
        )

    return place


def _all(*templates: str) -> list[Place]:
    return [_in(template) for template in templates]


ANYWHERE = {
    "tuning": _all(
        "{}",
        "received {} from the caller",
        "value={}",
        '{"level":"INFO","message":"got {json}"}',
        "ValueError: cannot use '{repr}' here",
        "2026-11-22 08:48:03,123 INFO app: user={} status=200",
        "  (see {}), retrying",
        "['{repr}', 12, None]",
        "Traceback (most recent call last):\n  File \"app.py\", line 3, in main\n    call('{repr}')\nRuntimeError: {}",
        "config: {'value': '{repr}', 'timeout': 5}",
    ),
    "held_out": _all(
        "E1122 08:48:03.123456       1 server.go:42] rejected: {}",
        "| user | {} | 2026-11-22 |",
        "<td>{}</td>",
        "INSERT INTO events VALUES (17, '{}', now());",
        "input_value='{repr}', input_type=str]",
        "10.0.0.7 - - [22/Nov/2026:08:48:03 +0000] \"GET /v1/x?q={} HTTP/1.1\" 200 512",
        "cause: {\\\"Payload\\\": \\\"{json}\\\"}",
        "KeyError: '{repr}'",
        "\tat com.acme.Main.run(Main.java:12) arg={};",
        "first,{},third",
        "please rotate {}.",
        "msg=\"login of {json}\" dur=3ms",
    ),
}  # fmt: skip

NAMED = {
    "tuning": _all(
        "password={}",
        "DB_PASSWORD={}",
        '{"password": "{json}", "user": "x"}',
        "{'api_key': '{repr}', 'model': 'm'}",
        "connecting with secret_key={} to host",
        "OPENAI_API_KEY={}",
        "x-api-key: {}",
        'client_secret: "{json}"',
        "--password {}",
        "--api-key={}",
        "password is '{repr}'",
        '{\\"secret\\": \\"{json}\\"}',
        "Config(user='x', password='{repr}', port=3)",
    ),
    "held_out": _all(
        "export WANDB_API_KEY={}",
        "  master_password: {}",
        "<clientSecret>{}</clientSecret>",
        "spring.datasource.password={}",
        "curl -u admin:{} https://example.org/",
        "ENV SECRET_KEY={}",
        "[auth]\npasswd = {}\n",
        "environ({'PGPASSWORD': '{repr}', 'HOME': '/root'})",
        "ALTER USER x WITH PASSWORD '{}';",
        "jdbc:sqlserver://db:1433;user=sa;password={};encrypt=true",
        "mysql: connected with pwd={}; ok",
        '"secretString":"{\\"dbPassword\\":\\"{json}\\"}"',
        "$env:AZURE_CLIENT_SECRET = \"{}\"",
        "login ann password {} account x",
        "-e ANTHROPIC_API_KEY={} -e X=1",
    ),
}  # fmt: skip

BEARER = {
    "tuning": _all(
        "Authorization: Bearer {}",
        "{'Authorization': 'Bearer {repr}'}",
        '{"authorization":"Bearer {json}"}',
        "sending bearer {}",
        "headers=[('Authorization', 'Bearer {repr}')]",
        "curl -H 'Authorization: Bearer {}' https://example.org",
    ),
    "held_out": _all(
        "> authorization: bearer {}",
        "b'Authorization': b'Bearer {repr}'",
        "Proxy-Authorization: Bearer {}",
        "wget --header=\"Authorization: Bearer {}\" https://example.org",
        "got 401 for Bearer {} (expired)",
        "header: {\\\"Authorization\\\": \\\"Bearer {json}\\\"}",
    ),
}  # fmt: skip

BASIC = {
    "tuning": _all("Authorization: Basic {}", "{'Authorization': 'Basic {repr}'}", "using Basic {} as given"),
    "held_out": _all(
        "> Authorization: basic {}",
        "Proxy-Authorization: Basic {}",
        "h.Set(\"Authorization\", \"Basic {}\")",
    ),
}  # fmt: skip

TOKEN = {
    "tuning": _all(
        "token={}",
        '{"access_token": "{json}", "expires_in": 3600}',
        "refresh_token: {}",
        "Set-Cookie: session={}; HttpOnly",
        "{'X-Amz-Security-Token': '{repr}'}",
        "?token={}&page=2",
    ),
    "held_out": _all(
        "GET /callback?state=1&access_token={} HTTP/1.1",
        "Cookie: sid={}; theme=dark",
        "TaskToken: {}",
        "export VAULT_TOKEN={}",
        '{"credentials":{"sessionToken":"{json}"}}',
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature={}&X-Amz-Expires=60",
    ),
}  # fmt: skip

URL = {
    "tuning": _all(
        "postgresql://app:{}@db.internal:5432/stepforge",
        "redis://:{}@127.0.0.1:6379/0",
        "cloning https://ann:{}@github.com/x/y.git",
        "DSN='mysql+pymysql://root:{repr}@localhost/db'",
    ),
    "held_out": _all(
        "amqps://worker:{}@mq.example.org/%2f refused",
        "mongodb+srv://ann:{}@cluster0.mongodb.net/?retryWrites=true",
        "--index-url https://__token__:{}@pypi.example.org/simple",
        '{"url":"ftp://u:{json}@files.example.org/a"}',
        "OperationalError: could not connect to postgres://svc:{}@10.0.0.5/app",
    ),
}  # fmt: skip

AZURE = {
    "tuning": _all(
        "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={};EndpointSuffix=core.windows.net",
        "AZURE_STORAGE_KEY={}",
        "key {} was refused",
    ),
    "held_out": _all(
        "Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={}",
        '{"accountKey": "{json}"}',
        "got {} from the vault",
    ),
}  # fmt: skip

PEM = {
    "tuning": _all(
        "{}",
        "loaded key:\n{}\nand its certificate",
        '{"private_key": "{json}", "client_email": "x"}',
        "Credentials(private_key='{repr}')",
    ),
    "held_out": _all(
        "{\\\"type\\\": \\\"service_account\\\", \\\"pk\\\": \\\"{json}\\\"}",
        "ssh: cannot parse {}",
        "env KEY={}\nOTHER=1",
        "- |\n{}\n- next",
    ),
}  # fmt: skip

_OWN_PLACES: dict[str, dict[str, list[Place]]] = {
    "password": NAMED,
    "hex_key": NAMED,
    "bearer": BEARER,
    "basic": BASIC,
    "token": TOKEN,
    "url_password": URL,
    "azure_account_key": AZURE,
    "pem": PEM,
}


def of(kind: str, half: str) -> list[Place]:
    """Places for a kind of secret: those with a format of their own turn up anywhere."""
    return _OWN_PLACES.get(kind, ANYWHERE)[half]
