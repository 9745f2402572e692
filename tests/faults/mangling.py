"""Records as no producer should send them: sound ones whose structure was tampered with, key, headers and size too."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from anomaly_daemon.domain.records import Headers, Message
from tests.faults.mutation import harmed
from tests.small import NAMES

START_S = 1_700_000_000
RECORD_BYTES_MAX = 1_000_000
_GIANTS_PER_MILLION = 300
_ODD_VALUES = (
    *("null", "true", "false", "NaN", "-NaN", "Infinity", "-Infinity", "1e309", "-1e309", "1e308", "1e301", "1e-400", "-0.0", "0x10", "01", "1."),
    *(".5", "+1", "1e", "1_000", "1,5", "[]", "{}", "[1]", "[[1]]", "[null]", '""', '"1"', '"fast"', '"NaN"', '"1e5"', '{"value":1}', '"\\ud800"'),
    *('"\\u0000"', '"\\x"', "'1'", "undefined", "--1", "1e99999999999", "tru", "nul", "9223372036854775808", "-9223372036854775809"),
    *("18446744073709551616", "123456789012345678901234567890", "9" * 5000, "0." + "3" * 5000),
)
_ODD_TIMES = (
    *('"2024-02-30T00:00:00Z"', '"2024-05-01T12:00:00Z"', '"yesterday"', '"1700000000"', "-1", "0", "1e18", "1e30", "99999999999", "1700000000000"),
    *("1700000000000000000", "1700000000.5", "null", "true", "[]", "{}", '""', '"24:00"', "NaN", "Infinity", "1e400", '"1970-01-01"'),
    *('"٢٠٢٤-٠١-٠١"', '"2024-05-01T12:00:00+99:99"', "-9223372036854775808"),
)
_WHOLE = (
    b"",
    b" ",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"0",
    b"NaN",
    b"{",
    b"}",
    b"\x00",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"{} {}",
    b"{}\n{}",
    b"// {}",
    b"flow=1",
    b"<xml/>",
    b"\x80\x04\x95pickle",
)


def mangled(dice: random.Random, number: int) -> Message:
    """One record, of an entity that no sound stream holds; now and then what was done leaves it a record that can be judged."""
    body = {name: round(dice.gauss(0, 1), 5) for name in NAMES} | {"time": START_S + 60 * number}
    fields = {f'"{name}"': json.dumps(value) for name, value in body.items()}
    key: bytes | None = b"mangled-%d" % (number % 97)
    headers: Headers = ()
    timestamp_ms: int | None = 0
    value: bytes | None
    match dice.randrange(12):
        case 0 | 1 | 2:
            value = _tampered(dice, fields)
        case 3:
            fields['"time"'] = dice.choice(_ODD_TIMES)
            value = _object(fields)
        case 4:
            value = harmed(dice, _object(fields))
        case 5:
            value = _object(fields)[: dice.randrange(60)]
        case 6:
            value = dice.choice(_WHOLE)
        case 7:
            value, key = _object(fields), dice.choice((None, b"", b"\xff\xfe", b"k" * 257, b"a\nb", b"\x00", b"\xed\xa0\x80", b"k" * 100_000))
        case 8:
            value, headers = harmed(dice, _object(fields)), _headers(dice)
        case 9:
            value = _nested(dice, fields)
        case 10:
            value, timestamp_ms = None if dice.random() < 0.5 else _object(fields), dice.choice((0, 1, 1_000, 1 << 50, 1_600_000_000_000))
        case _:
            value = _doubled(dice, fields)
    if dice.randrange(1_000_000) < _GIANTS_PER_MILLION:
        value = _giant(dice, fields)
    return Message("readings", key, value, headers, timestamp_ms)


def _tampered(dice: random.Random, fields: dict[str, str]) -> bytes:
    """Some fields of another type, range or spelling; some gone, some renamed."""
    for name in dice.sample(list(fields), dice.choice((1, 1, 2, 4))):
        match dice.randrange(6):
            case 0:
                del fields[name]
            case 1:
                fields[dice.choice(('"fl\\u00f6w"', '""', "flow", "1", '"\\ud800"', '"flow"'))] = fields.pop(name)
            case _:
                fields[name] = dice.choice(_ODD_VALUES)
    return _object(fields)


def _doubled(dice: random.Random, fields: dict[str, str]) -> bytes:
    """One key twice, the second time with an odd value."""
    text = _object(fields).decode()
    return f"{text[:-1]},{dice.choice(list(fields))}:{dice.choice(_ODD_VALUES)}}}".encode()


def _nested(dice: random.Random, fields: dict[str, str]) -> bytes:
    """Brackets within brackets, in a field that is watched or in one that is not."""
    depth, (opening, closing) = dice.choice((2, 399, 401, 2000, 50_000)), dice.choice((("[", "]"), ('{"a":', "}")))
    fields[dice.choice(['"deep"', *fields])] = opening * depth + dice.choice(("", "1")) + closing * dice.choice((depth, depth, depth - 1))
    return _object(fields)


def _giant(dice: random.Random, fields: dict[str, str]) -> bytes:
    """About as large as a record may be, a little more, or far more."""
    size = dice.choice((RECORD_BYTES_MAX - 200, RECORD_BYTES_MAX + 1, 3 * RECORD_BYTES_MAX))
    fields[dice.choice(['"extra"', '"flow"'])] = dice.choice((f'"{"x" * size}"', "9" * size, f"[{'1,' * (size // 2)}1]"))
    return _object(fields)


def _headers(dice: random.Random) -> Headers:
    names: tuple[str, ...] = ("", "a", "dead_letter.reason", "dead_letter.previous.reason", "ü" * 100, "content-type", "\x00")
    value: Callable[[], bytes] = lambda: dice.choice((b"", b"1", dice.randbytes(20), b"\xff" * 1000))  # noqa: E731 - one choice, many times
    return tuple((dice.choice(names), value()) for _ in range(dice.choice((1, 3, 40))))


def _object(fields: dict[str, str]) -> bytes:
    return ("{" + ",".join(f"{name}:{value}" for name, value in fields.items()) + "}").encode("utf-8", "surrogatepass")
