"""What a secret looks like in a text: one rule a kind, each linear in the text's length.

Linear because every repetition is possessive or bounded, and because a pattern that begins with one starts only where
a word does. Formats are those that the providers document; `_names` judges `name=value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from stepforge.logs._names import Kind, is_secret, kind_of


def mark(what: str) -> str:
    """What stands in a line instead of a secret."""
    return f"[redacted:{what}]"


class Pattern:
    """A regular expression that is compiled when it is first used: all of them cost 30 ms, and few lines need many."""

    def __init__(self, text: str, flags: int = 0) -> None:
        self._text, self._flags = text, flags

    def __getattr__(self, name: str) -> Any:
        value = getattr(re.compile(self._text, self._flags), name)
        setattr(self, name, value)
        return value


class Rule(NamedTuple):
    hints: tuple[str, ...]
    """The rule is tried where one of these is in the text in lower case; always where there are none."""
    apply: Callable[[str], str]


def _sub(what: str, pattern: str, *hints: str) -> Rule:
    compiled, marked = Pattern(pattern), mark(what)
    return Rule(hints, lambda text: compiled.sub(lambda _: marked, text))


# ── Keys in several lines, and what stands in addresses and headers ──────────────────────────────

_PEM_BEGIN = Pattern(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = Pattern(r"-----END [A-Z0-9 ]{0,60}-----")


def _pem(text: str) -> str:
    """To the key's end, or to the text's: a key that is cut off is one too."""
    kept, position = [], 0
    while (begin := _PEM_BEGIN.search(text, position)) is not None:
        end = _PEM_END.search(text, begin.end())
        kept += [text[position : begin.start()], mark("private-key")]
        position = len(text) if end is None else end.end()
    return "".join([*kept, text[position:]])


_URL = Pattern(
    r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*+://)(?P<user>[^\s/@:?#\"'<>]*+)"
    r":(?P<password>[^\s/\"'<>]{1,512}|(?!\d{1,5}/)[^\s\"'<>@]{1,512})@"
)
_URL_USER = Pattern(r"(?<=://)[A-Za-z0-9_.~%+-]{20,512}+(?=@)")


def _url(text: str) -> str:
    if "@" not in text:
        return text
    text = _URL.sub(lambda found: f"{found['scheme']}{found['user']}:{mark('password')}@", text)
    return _URL_USER.sub(mark("token"), text)


_HEADER = Pattern(
    r"(?i)(?<![A-Za-z0-9])(?P<name>(?:proxy-|x-)?authorization|(?:set-)?cookie)"
    r"(?P<between>\\?[\"']?,?\s{0,3}:\s{0,3}(?:b(?=[\"']))?\\?[\"']?|[\"'],\s{0,3}b?[\"'])(?P<value>[^\r\n\"'\\]++)"
)


def _header(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        value = found["value"].strip()
        # A sentence about the header, not the header.
        if value[:1].islower() and value.replace(" ", "").isalpha() and " " in value and len(value) < 80:
            first = value.split(" ")[0]
            if first not in ("bearer", "basic", "token", "digest", "negotiate"):
                return found[0]
        if value.startswith("[") and not value.startswith("[redacted:"):
            return found[0]
        return f"{found['name']}{found['between']}{mark('header')}"

    return _HEADER.sub(replace, text)


_SCHEME = Pattern(
    r"(?i)(?<![A-Za-z0-9])(?P<scheme>bearer|basic|token|apikey)(?P<between>\s{1,3}|%20|\+)"
    r"(?P<value>[A-Za-z0-9._~+/-]{8,}+=*+)"
)


def _scheme(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        value = found["value"]
        mixed = value.lower() != value and value.upper() != value
        digits = sum(character.isdigit() for character in value)
        least = {"bearer": 8, "basic": 8}.get(found["scheme"].lower(), 20)
        made = len(value) >= least and mixed and (digits or len(value) >= 12 or value.endswith("="))
        made = made or (digits >= 2 and len(value) >= max(least, 12) and not _DATED.match(value))
        return f"{found['scheme']}{found['between']}{mark('bearer-token')}" if made else found[0]

    return _SCHEME.sub(replace, text)


_DATED = Pattern(r"\d{4}-\d\d|[\d.,/-]++$|(?:arn|s3|https?)[:/]")

# ── name = value ─────────────────────────────────────────────────────────────────────────────────

_VALUE = (
    r"(?:b?\\{1,7}\"(?P<escaped>[^\"\\]{1,2048}+)"
    r"|[bfru]?\"(?P<double>(?:[^\"\\]|\\.){1,2048}+)"
    r"|[bfru]?'(?P<single>(?:[^'\\]|\\.){1,2048}+)"
    r"|(?P<bare>[^\s,;&\"'<>\\()\[\]{}][^\s,;&\"'<>\\]{0,2047}+))"
)
_PAIR = Pattern(
    r"(?s)(?<![A-Za-z0-9_.])(?<![A-Za-z0-9_.]-)(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,100}+)"
    r"(?P<between>\\{0,7}[\"'`]?\]?\s{0,3}(?:=>|:=|=|:(?:[ \t]{0,3}[|>][+-]?(?=[ \t]{0,3}\n))?|%3[Dd])\s{0,3}"
    r"|[\"'],\s{0,2})"
)
_AFTER = Pattern(rf"(?s){_VALUE}")
_OPTION = Pattern(rf"(?s)(?<![A-Za-z0-9-])--?(?P<name>[A-Za-z][A-Za-z0-9_-]{{1,60}}+)(?P<between>\s{{1,3}}){_VALUE}")
_ELEMENT = Pattern(r"<(?P<name>[A-Za-z][A-Za-z0-9_.:-]{0,60}+)>(?P<bare>[^<>]{1,2048}+)(?=</)(?P<between>)")
_NAMED = Pattern(
    r"(?si)\"(?:name|key|parameterkey)\\?\":\s{0,2}\\?\"(?P<name>[A-Za-z0-9_./-]{1,80}+)\\?\",\s{0,2}"
    r"\\?\"(?:string)?(?:parameter)?value\\?(?P<between>\":\s{0,2})\\?\"(?P<double>(?:[^\"\\]|\\.){1,2048}+)"
)
_NEXT_WORD = Pattern(r" [a-z]")
_CLOSING = Pattern(r"[)\]}.:]++$")


def _hidden(text: str, name: str, between: str, found: re.Match[str]) -> tuple[int, int, str] | None:
    """Where in the text the secret stands and what takes its place; None where the value is none."""
    kind = kind_of(name)
    if kind is None:
        return None
    group = next(group for group in ("escaped", "double", "single", "bare") if found.groupdict().get(group) is not None)
    value, start = found[group], found.start(group)
    if group == "bare":
        value = _CLOSING.sub("", value) if "(" not in value and "[" not in value else value
        if not value or _is_prose_or_code(text, between, value, start + len(value)):
            return None
    if not is_secret(kind, value, name=name, quoted=group != "bare"):
        return None
    return start, start + len(value), mark(_LABEL[kind])


_LABEL: dict[Kind, str] = {
    "secret": "secret",
    "perhaps": "secret",
    "header": "header",
    "phone": "phone",
    "number": "secret",
}


def _is_prose_or_code(text: str, between: str, value: str, end: int) -> bool:
    """`secret: could not be read` is a sentence, `token=next(tokens)` is code."""
    if "(" in value or "[" in value:
        return value.translate(_NO_BRACKETS).isidentifier()
    says = ":" in between or not between.strip()
    return says and value.isalpha() and value.islower() and bool(_NEXT_WORD.match(text, end))


_NO_BRACKETS = str.maketrans("", "", "()[].,:")


def _pairs(text: str) -> str:
    kept: list[str] = []
    position = search = 0
    while (pair := _PAIR.search(text, search)) is not None:
        # A value that is kept may hold pairs of its own ("cause": "password=..."): what follows a name is read again.
        search = pair.end()
        # An ARN says `:secret:` before a name, and our own marks say `[redacted:token]`.
        before = text[max(0, pair.start() - 10) : pair.start()]
        no_name = before == "[redacted:" or (pair["between"] == ":" and before.endswith(":"))
        value = None if no_name or not kind_of(pair["name"]) else _AFTER.match(text, search)
        if value is not None and (hidden := _hidden(text, pair["name"], pair["between"], value)):
            kept += [text[position : hidden[0]], hidden[2]]
            position = search = hidden[1]
    text = "".join([*kept, text[position:]])
    for pattern in (_OPTION, _ELEMENT, _NAMED):
        text = pattern.sub(_replace_value, text)
    for pattern in _SPOKEN:
        text = pattern.sub(_replace_spoken, text)
    return text


def _replace_value(found: re.Match[str]) -> str:
    if (hidden := _hidden(found.string, found["name"], found["between"], found)) is None:
        return found[0]
    whole, start = found[0], found.start()
    return whole[: hidden[0] - start] + hidden[2] + whole[hidden[1] - start :]


_SPOKEN = (
    Pattern(
        r"(?i)(?P<before>\b(?:password|passphrase|passwd|secret|api[ _-]?key|access[ _-]?key|token)\s{1,2}"
        r"(?:is|was|to|of)?\s{0,2})(?P<quote>[\"'`])(?P<value>[^\"'`\s]{4,512}+)(?=[\"'`])"
    ),
    Pattern(
        r"(?i)(?P<before>\b(?:password|passphrase|passwd|secret(?: key)?|api[ _-]?key|access[ _-]?key|token)"
        r"\s{1,2}(?:is|was|to):?\s{1,2}|\blogin\s{1,2}\S{1,100}\s{1,2}password\s{1,2}"
        r"|\b(?:api[ _-]?key|secret key|access[ _-]?key|secret access key|password|provided|token):?\s{1,2}"
        r"(?=\S{0,80}\d))"
        r"(?P<quote>)(?P<value>[^\s\"'`,;<>()\[\]{}]{6,512}+)"
    ),
    Pattern(r"(?P<before>(?<!\S)(?:-u|--user)[ =][\"']?[^\s:\"']{1,100}:)(?P<quote>)(?P<value>[^\s\"']{1,512}+)"),
)


def _replace_spoken(found: re.Match[str]) -> str:
    value, before = found["value"].rstrip(".:"), found["before"]
    sure = bool(found["quote"]) or "-u" in before or "login" in before.lower()
    made = any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and not _REFERENCE.match(value)
    if not (made or sure) or not is_secret("secret", value, quoted=bool(found["quote"])):
        return found[0]
    return f"{before}{found['quote']}{mark('secret')}{found['value'][len(value) :]}"


_REFERENCE = Pattern(r"(?i)arn:|s3:|https?:|[a-z0-9_-]++=|/|\.|~|\d{4}-\d\d|v?\d++(?:\.\d++)*+\w?$|[0-9a-f]{1,7}$")

# ── Keys with a prefix of their own ──────────────────────────────────────────────────────────────

_START = r"(?<![A-Za-z0-9])"
_PREFIXED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("jwt", r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{4,}+(?:\.[A-Za-z0-9_-]*+){0,3}", ("eyj",)),
    ("aws-key", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])", ("akia", "asia", "abia", "acca")),
    ("aws-token", r"(?:FwoGZXIvYXdz|FQoGZXIvYXdz|FwoDYXdz|IQoJb3JpZ2lu)[A-Za-z0-9/+=%]{30,}+",
     ("fwogzx", "fqogzx", "fwodyxdz", "iqojb3")),
    ("google-key", r"AIza[A-Za-z0-9_-]{35}", ("aiza",)),
    ("google-key", r"AQ\.Ab[A-Za-z0-9_-]{30,}+", ("aq.ab",)),
    ("google-token", r"ya29\.[A-Za-z0-9_.-]{20,}+", ("ya29.",)),
    ("google-token", r"1//[A-Za-z0-9_-]{30,}+", ("1//",)),
    ("google-secret", r"GOCSPX-[A-Za-z0-9_-]{20,}+", ("gocspx-",)),
    ("azure-secret", r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}(?![A-Za-z0-9_~-])", ("q~",)),
    ("azure-key", r"[A-Za-z0-9]{52}(?:JQQJ9|AAAA|ACDb|AzFu|AzSe|APIM)[A-Za-z0-9+/]{20,40}={0,2}",
     ("jqqj9", "aaaa", "acdb", "azfu", "azse", "apim")),
    ("api-key", r"sk-(?:proj-|svcacct-|admin-|ant-[a-z0-9]{2,12}-|or-v1-)?[A-Za-z0-9_-]{20,}+", ("sk-",)),
    ("api-key", r"(?:hf|r8|gsk|fw|pplx|nvapi|xai|tgp|dop_v1|doo_v1|glsa|lin_api|dckr_pat|co|sk|rk|pk|whsec|shpat|figd|"
     r"lsv2_pt|lsv2_sk|tvly|ntn|sbp|wandb_v1|key)[_-](?:live_|test_|v1_|jobs_)?[A-Za-z0-9]{20,}+[A-Za-z0-9_-]*+",
     ("hf_", "r8_", "gsk_", "fw_", "pplx-", "nvapi-", "xai-", "tgp_", "dop_v1_", "doo_v1_", "glsa_", "lin_api_",
      "dckr_pat_", "co_", "sk_", "rk_", "pk_", "whsec_", "shpat_", "figd_", "lsv2_", "tvly-", "ntn_", "sbp_",
      "wandb_v1_", "key-")),
    ("api-key", r"api_org_[A-Za-z]{30,}+", ("api_org_",)),
    ("github-token", r"gh[pousr]_[A-Za-z0-9]{30,}+|github_pat_[A-Za-z0-9_]{30,}+", ("gh", "github_pat_")),
    ("gitlab-token", r"gl(?:pat|dt|rt|ptt|cbt|ft|soat)-[A-Za-z0-9_.-]{18,}+", ("gl",)),
    ("slack-token", r"xox[abceoprs]-[A-Za-z0-9-]{10,}+|xapp-\d-[A-Za-z0-9-]{20,}+", ("xox", "xapp-")),
    ("webhook", r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}+", ("hooks.slack.com",)),
    ("api-key", r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}+|SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+"
     r"|dapi[0-9a-f]{32}|(?:SK|AC)[0-9a-f]{32}(?![0-9a-f])", ("npm_", "pypi-", "sg.", "dapi", "sk", "ac")),
    ("vault-token", r"hv[sbr]\.[A-Za-z0-9_-]{20,}+", ("hvs.", "hvb.", "hvr.")),
)  # fmt: skip


def _prefixed() -> list[Rule]:
    return [_sub(what, _START + f"(?:{pattern})", *hints) for what, pattern, hints in _PREFIXED]


_AWS_SECRET = Pattern(r"(?<![A-Za-z0-9/+_-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_-])")
_AZURE_KEY = Pattern(r"(?<![A-Za-z0-9/+_-])[A-Za-z0-9/+]{86}==(?![A-Za-z0-9/+=])")
_PEM_LINE = Pattern(r"(?m)^[A-Za-z0-9/+]{64}$")


def _unnamed(text: str) -> str:
    """40 base64 characters are an AWS secret key, 88 an Azure account key, a line of 64 is the inside of a PEM file.

    Digests are hexadecimal and never mix the cases; paths of these very lengths hardly ever hold so many capitals.
    """
    if len(text) < 40:
        return text

    def mixed(found: re.Match[str], what: str) -> str:
        value = found[0]
        capitals = sum(character.isupper() for character in value)
        small = sum(character.islower() for character in value)
        digits = any(character.isdigit() for character in value)
        return mark(what) if digits and capitals >= 3 and small >= 3 and value.count("/") <= 4 else value

    text = _AWS_SECRET.sub(lambda found: mixed(found, "aws-secret"), text)
    text = _PEM_LINE.sub(lambda found: mixed(found, "private-key"), text)
    return _AZURE_KEY.sub(mark("azure-key"), text)


# ── People ───────────────────────────────────────────────────────────────────────────────────────

_EMAIL = Pattern(
    r"(?<![\w.%+'-])(?P<local>[\w.%+'-]++)(?:@|%40)"
    r"(?P<domain>[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.(?P<top>[^\W\d_]{2,24}))(?![\w-])"
)
_NOT_DOMAINS = {"png", "jpg", "jpeg", "gif", "svg", "webp", "internal", "py", "js", "json", "toml", "yaml", "whl", "gz"}


def _email(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        about = found["local"].strip("'").lower() == "git" or found["top"].lower() in _NOT_DOMAINS
        return found[0] if about else mark("email")

    return _EMAIL.sub(replace, text)


_CARD = Pattern(
    r"(?<![\w.+/-])"
    r"(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3[47]\d{2}([ -])\d{6}\2\d{5}|3\d{3}([ -])\d{6}\3\d{4})"
    r"(?![\w/]|-\d|\.\d)"
)
_ISSUERS = Pattern(
    r"4\d{12}(?:\d{3})?(?:\d{3})?$|5[1-5]\d{14}$|2(?:2[2-9]|[3-6]\d|7[01])\d{13}$|2720\d{12}$|3[47]\d{13}$"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}$|35(?:2[89]|[3-8]\d)\d{12}$|3(?:0[0-5]|[68]\d)\d{11}$|62\d{14,17}$"
)


def is_card(digits: str) -> bool:
    """Whether an issuer hands out such numbers and the check digit holds (ISO/IEC 7812-1, Luhn)."""
    if not _ISSUERS.match(digits):
        return False
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _card(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        return mark("card") if is_card(re.sub(r"[ -]", "", found[0])) else found[0]

    return _CARD.sub(replace, text)


# The literal comes before its lookbehind: a search for a literal is ten times faster.
_PHONES = (
    Pattern(r"\+(?<![\w+.]\+)[1-9](?:[ ().-]{0,2}\d){7,14}+(?:\+[1-9](?:[ ().-]{0,2}\d){7,14}+)*+(?!\w)"),
    Pattern(r"00(?<![\w+.-]00)[1-9]\d?\d?[ -](?:[ ().-]{0,2}\d){6,12}+(?!\w)"),
    Pattern(
        r"[(2-9](?<![\w.+/-].)(?:(?<=\()[2-9]\d\d\) ?[2-9]\d\d[-. ]\d{4}|(?<=[2-9])\d\d([-.])[2-9]\d\d\1\d{4})"
        r"(?![\w-]|\.\d)"
    ),
    Pattern(r"1[-. ](?<![\w.+/-]1.)\(?[2-9]\d\d\)?[-. ][2-9]\d\d[-. ]\d{4}(?![\w-]|\.\d)"),
)
_CALLED = Pattern(
    r"(?i)(?<![a-z])(?P<before>(?:phone|telephone|tel|mobile|cell|fax|sms|whatsapp|msisdn|handy)"
    r"(?:[_ ]?(?:number|no|nr))?\.?(?: (?:is|to|was|at))?[\"']?\s{0,2}[:=#]?\s{0,2}[\"']?"
    r"|(?:call|dial|text|ring|phon)(?:ed|ing|s)?(?: [a-z]{1,12}){0,2}(?: (?:at|on|under))? )"
    r"(?P<value>[+(]?\d[\d ()./-]{5,20}\d)(?![\w])"
)
_DATE = Pattern(r"\+?\d{4}-\d\d-\d\d|\+?\d{4} \d\d \d\d")


def _phone(text: str) -> str:
    for pattern in _PHONES:
        text = pattern.sub(lambda found: found[0] if _DATE.match(found[0]) else mark("phone"), text)
    return text


def _called(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        digits = sum(character.isdigit() for character in found["value"])
        given = 7 <= digits <= 15 and not _DATE.match(found["value"])
        return f"{found['before']}{mark('phone')}" if given else found[0]

    return _CALLED.sub(replace, text)


_MANY_DIGITS = Pattern(r"\d{4}[ -]?\d{4,6}[ -]?\d{4,5}")
_SOME_DIGITS = Pattern(r"\d\d[ ().-]{0,2}\d(?:[ ().-]{0,2}\d){4}")
_NAME_HINTS = (
    "pass", "pwd", "pswd", "secret", "key", "token", "credential", "sig", "auth", "cookie", "jwt", "bearer", "dsn",
    "kennwort", "contrasena", "phone", "tel", "mobile", "cell", "fax", "msisdn", "whatsapp", "sms", "cvv", "cvc", "ssn",
    "otp", "pan", "pat", "sas", "session", "nonce", "webhook", "connection", "-u ", "--user", "provided",
)  # fmt: skip

_CALL_HINTS = ("phone", "tel", "mobile", "cell", "fax", "sms", "whatsapp", "msisdn", "handy", "call", "dial", "text",
               "ring", "phon")  # fmt: skip

KEYS: tuple[Rule, ...] = (Rule(("private key",), _pem), *_prefixed())
"""What its own form gives away, wherever it stands."""
RULES: tuple[Rule, ...] = (
    KEYS[0],
    Rule(("://",), _url),
    Rule(("authorization", "cookie"), _header),
    *KEYS[1:],
    Rule(("bearer", "basic", "token", "apikey"), _scheme),
    Rule(_NAME_HINTS, _pairs),
    Rule((), _unnamed),
    Rule(("@", "%40"), _email),
    Rule((), lambda text: _card(text) if _MANY_DIGITS.search(text) else text),
    Rule((), lambda text: _phone(text) if _SOME_DIGITS.search(text) else text),
    Rule(_CALL_HINTS, _called),
)
"""In this order: what spans most comes first, so that no rule sees half of it."""
