"""Texts as games' records have them, in which nobody's number stands, and texts in which somebody's does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator


def _floats(rng: random.Random, count: int, places: int) -> list[str]:
    return [f"{rng.uniform(-200, 200):{rng.choice(['', '+'])}.{places}f}" for _ in range(count)]


def signed_rows(rng: random.Random) -> str:
    """Offsets, as animation curves have them."""
    return "\n".join(" ".join(f"{rng.randint(-999, 999):+d}" for _ in range(8)) for _ in range(6))


def decimal_rows(rng: random.Random) -> str:
    return "\n".join(" ".join(_floats(rng, 8, rng.randint(1, 6))) for _ in range(6))


def whole_rows(rng: random.Random) -> str:
    """Integers of one width in each table, by spaces, commas or bars."""
    digits, between = rng.randint(1, 19), rng.choice([" ", ", ", ",", " | ", "\t"])
    rows = [[str(rng.randrange(10 ** (digits - 1), 10**digits)) for _ in range(5)] for _ in range(8)]
    return "\n".join(between.join(row) for row in rows)


def four_by_four(rng: random.Random) -> str:
    return "\n".join(" ".join(str(rng.randint(1000, 9999)) for _ in range(4)) for _ in range(12))


def drawing(rng: random.Random) -> str:
    """A path as SVG writes it."""
    point = lambda: f"{rng.randint(1000, 9999)} {rng.randint(1000, 9999)}"  # noqa: E731
    return "M 0 0 \n" + "".join(f"Q {point()} {point()} \nL {point()} \n" for _ in range(30)) + "z"


def padded_rows(rng: random.Random) -> str:
    """Frames and clocks, with zeros before them."""
    width = rng.randint(2, 6)
    return "\n".join(" ".join(f"{rng.randrange(10**width):0{width}d}" for _ in range(6)) for _ in range(6))


def markdown_table(rng: random.Random) -> str:
    head = "| unit | hp | gold | seen at | seed |\n| --- | ---: | ---: | --- | ---: |\n"
    row = "| {} | {} | {:,} | 2026-{:02d}-{:02d} {:02d}:{:02d}:{:02d} | {} |"
    return head + "\n".join(
        row.format(
            rng.choice(["orc", "elf", "bat"]),
            rng.randint(1, 99_999),
            rng.randrange(10**9),
            *(rng.randint(1, 12), rng.randint(10, 28), rng.randint(0, 23), rng.randint(0, 59), rng.randint(0, 59)),
            rng.getrandbits(63),
        )
        for _ in range(8)
    )


def l_system(rng: random.Random) -> str:
    axiom = "".join(rng.choice(["F", "+", "-", "[", "]", "X", "F(12.5)", "+(137.5)", "-(22.5)"]) for _ in range(80))
    angle = rng.choice([22.5, 25.7, 90, 137.5])
    return f"angle {angle}; X -> F+[[X]-X]-F[-FX]+X; F -> FF; {axiom}; +{angle} -{angle} +{2 * angle} -{3 * angle}"


def sound(rng: random.Random) -> str:
    notes = " ".join(str(rng.randint(35, 81)) for _ in range(16))
    low, high = rng.randint(200, 999), rng.randint(1000, 20_000)
    text = f"ring at {low} {high} {rng.randint(100, 999)}; dial {low} {low * 2} {low * 4}; text at {low} {high} 320"
    return (
        f"drums: {notes}; band {low}-{high}-{high * 2} Hz; {rng.uniform(-40, 0):+.1f} dBFS at 44100 48000 96000; "
        f"cell {low} {high} {low}; call of {low} Hz at {rng.randint(1, 9)}000 ms; {text}; "
        f"mobile: {rng.choice([320, 480])} {rng.choice([768, 1024])} 1280"
    )


def action_units(rng: random.Random) -> str:
    units = rng.sample(range(1, 46), 8)
    keys = {f"AU{unit}": round(rng.random(), rng.randint(2, 17)) for unit in units}
    return f"{'+'.join(map(str, units))} ; {json.dumps(keys)}; on{rng.randint(1, 99)} apex{rng.randint(1, 999)}"


def personality(rng: random.Random) -> str:
    traits = dict(zip(("O", "C", "E", "A", "ES"), _floats(rng, 5, 4), strict=True))
    moods = " ".join(_floats(rng, 6, 2))
    return (
        f"Traits {json.dumps(traits)}. PAD {moods}. The smith @Brannoc calls the guard at 12:30, gives 1,500,000 gold, "
        f"and remembers day {rng.randint(1, 400)} of the year {rng.randint(1000, 1999)}-{rng.randint(2000, 2999)}."
    )


def nested(rng: random.Random) -> str:
    """Scenes as JSON: identifiers, seeds, times and polygons."""
    return json.dumps(
        {
            "id": rng.getrandbits(63),
            "seed": rng.getrandbits(rng.choice([32, 53, 64])),
            "hash": f"{rng.getrandbits(128):032x}",
            "uuid": f"{rng.getrandbits(32):08x}-{rng.getrandbits(16):04x}-4{rng.getrandbits(12):03x}-8000-"
            f"{rng.getrandbits(48):012x}",
            "made_ms": 1_790_000_000_000 + rng.getrandbits(32),
            "polygon": [[round(rng.uniform(0, 999), 15), rng.randrange(10**15)] for _ in range(6)],
            "layers": "256-512-1024",
            "version": "2.415.3001",
            "address": "10.200.300.4000",
            "sprite": "hero@2x.png",
        }
    )


def code(rng: random.Random) -> str:
    size = rng.randint(1, 9)
    return (
        f"@cache\ndef f(x):\n    return hidden@self.weight + W@x.T[{size}:{size * 100}, 200:300]\n"
        f"git@host.internal:a/b.git 127.0.0.1:8080 v{size}.200.3000 {rng.random()!r} {rng.random():.17e} 0x{size:016x}"
    )


def isolated(rng: random.Random) -> str:
    """One long number in a sentence, said to be what it is."""
    name = rng.choice(["seed", "id", "entity id:", "hash =", "frame", "timestamp", "checksum", "guid:", "player_id="])
    digits = rng.randint(8, 19)
    return f"The troll (level 4) has {name} {rng.randrange(10 ** (digits - 1), 10**digits)} and 300 hp."


HARMLESS: tuple[Callable[[random.Random], str], ...] = (
    signed_rows,
    decimal_rows,
    whole_rows,
    four_by_four,
    drawing,
    padded_rows,
    markdown_table,
    l_system,
    sound,
    action_units,
    personality,
    nested,
    code,
    isolated,
)


def harmless(count: int, *, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Name of a generator and a text of it, `count` of each."""
    for make in HARMLESS:
        rng = random.Random(f"{seed}:{make.__name__}")
        for _ in range(count):
            yield make.__name__, make(rng)


TRUE: tuple[tuple[str, str, str], ...] = (
    # Kind, text, what must be found in it.
    ("email", "Write to ann.lee+game@mail.example.org today", "ann.lee+game@mail.example.org"),
    ("email", "<mailto:Ann_Lee@example.co.uk>", "Ann_Lee@example.co.uk"),
    ("email", '{"from":"ann@example.museum"}', "ann@example.museum"),
    ("email", "signed in as ann%40example.com.", "ann%40example.com"),
    ("email", "jürgen@müller.example is the owner", "jürgen@müller.example"),
    ("email", "ann [at] example [dot] org", "ann [at] example [dot] org"),
    ("email", "ann(at)example.org", "ann(at)example.org"),
    ("email", "ann＠example．org", "ann＠example．org"),
    ("email", "| 12 | ann@example.io | 400 |", "ann@example.io"),
    ("email", "from _ann@example.org_, in italics", "_ann@example.org"),
    ("email", "ann@empresa.com.py", "ann@empresa.com.py"),
    ("email", "ann@example.xn--p1ai", "ann@example.xn--p1ai"),
    ("email", "ann@exam\u200bple.org", "ann@exam\u200bple.org"),
    ("phone", "_+49 30 901820_", "+49 30 901820"),
    ("phone", "Phone numbers: 07911 123456 and 07911 654321", "07911 654321"),
    ("phone", "phones: 030 901820, 030 901830; 030 901840", "030 901840"),
    ("phone", "Telefonnummer: 030 901820", "030 901820"),
    ("phone", "Tel.-Nr.: 030 901820", "030 901820"),
    ("phone", "Phone (home): 030 901820", "030 901820"),
    ("phone", "+14155550123", "+14155550123"),
    ("phone", "Ann, +1 415 555 0123 20 10", "+1 415 555 0123"),
    ("phone", "Ann (+1 (415) 555-0123)", "+1 (415) 555-0123"),
    ("phone", "at +49 30 901820, or later", "+49 30 901820"),
    ("phone", "at +49 (0)30 901820", "+49 (0)30 901820"),
    ("phone", "at +49 (0) 30 / 901820", "+49 (0) 30 / 901820"),
    ("phone", "+44 20 7946 0958", "+44 20 7946 0958"),
    ("phone", "+33 6 12 34 56 78", "+33 6 12 34 56 78"),
    ("phone", "+39 06 698 12345.", "+39 06 698 12345"),
    ("phone", "+7 912 345-67-89", "+7 912 345-67-89"),
    ("phone", "+86 138 1234 5678", "+86 138 1234 5678"),
    ("phone", "+91-98765-43210", "+91-98765-43210"),
    ("phone", "+55 11 91234-5678", "+55 11 91234-5678"),
    ("phone", "+1.415.555.0123", "+1.415.555.0123"),
    ("phone", "+4531234567", "+4531234567"),
    ("phone", "or 0049 30 901820 from abroad", "0049 30 901820"),
    ("phone", "(415) 555-0123", "(415) 555-0123"),
    ("phone", "Ann: 415-555-0123", "415-555-0123"),
    ("phone", "Ann,415.555.0123,London", "415.555.0123"),
    ("phone", "1-415-555-0123", "1-415-555-0123"),
    ("phone", "phone: 5550123", "5550123"),
    ("phone", "Tel. 030 / 901 820", "030 / 901 820"),
    ("phone", "Telefon: 030-901820", "030-901820"),
    ("phone", "mobile: 07700 900123", "07700 900123"),
    ("phone", "cell 415 555 0123? No, cell: 415 555 0123", "415 555 0123"),
    ("phone", "fax no. 020 7946 0958", "020 7946 0958"),
    ("phone", '{"phone_number": "612 34 56 78"}', "612 34 56 78"),
    ("phone", "call me at 555-0123 tonight", "555-0123"),
    ("phone", "text us on 07700 900123", "07700 900123"),
    ("phone", "name,phone\n1,+14155550123,34\n2,+14155550124,27", "+14155550124"),
    ("phone", "+１４１５５５５０１２３", "+１４１５５５５０１２３"),
    ("phone", "+49\u00a030\u00a0901820", "+49\u00a030\u00a0901820"),
    ("card", "4111111111111111", "4111111111111111"),
    ("card", "paid with 4111 1111 1111 1111, 12/27", "4111 1111 1111 1111"),
    ("card", "paid with 5500-0055-5555-5559", "5500-0055-5555-5559"),
    ("card", "4111 1111 1111 1111 123", "4111 1111 1111 1111"),
    ("card", "amex 3782 822463 10005", "3782 822463 10005"),
    ("card", "378282246310005", "378282246310005"),
    ("card", "6011111111111117 and 3530111333300000", "3530111333300000"),
    ("card", "visa 4222222222222", "4222222222222"),
    ("card", "id 9876543210123456, paid with 4111111111111111", "4111111111111111"),
    ("card", "id,card_number,age\n1,4111111111111111,34\n2,5500005555555559,27", "5500005555555559"),
    ("card", "４１１１１１１１１１１１１１１１", "４１１１１１１１１１１１１１１１"),
    ("card", "# 4111111111111111/2712", "4111111111111111"),
    ("email", "o'brien.j@uni.example.de;", "o'brien.j@uni.example.de"),
    ("phone", "My number is 07911 123456", "07911 123456"),
    ("phone", "+41 44 668 18 00", "+41 44 668 18 00"),
    ("phone", "+61 2 9876 5432", "+61 2 9876 5432"),
    ("phone", "+46-8-123 456 78", "+46-8-123 456 78"),
    ("phone", "Phone 2125557890", "2125557890"),
    ("phone", "Mobilnummer: 0171/1234567", "0171/1234567"),
    ("phone", "tel:+1-201-555-0123", "+1-201-555-0123"),
    ("phone", "my phone is 415 555 0123", "415 555 0123"),
    ("card", "CC: 5105 1051 0510 5100 exp 01/28", "5105 1051 0510 5100"),
    ("card", "{'pan':'4000056655665556'}", "4000056655665556"),
    ("card", "5555.5555.5555.4444", "5555.5555.5555.4444"),
    ("card", "2223003122003222", "2223003122003222"),
    ("card", "Diners card 30569309025904", "30569309025904"),
)
