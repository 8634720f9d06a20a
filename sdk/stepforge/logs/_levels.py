"""Levels that change while the program runs: by a call, or by a file that is looked at once a second."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from stepforge.errors import InvalidInput

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_WORD = re.compile(r"(?:(?P<logger>[\w.]+)=)?(?P<level>[A-Za-z]+)")
logger = logging.getLogger("stepforge.logs")


def level_of(given: str | int) -> int:
    """logging's number of a level. Raises InvalidInput for a name that is none.

    >>> level_of("debug"), level_of(30)
    (10, 30)
    """
    if isinstance(given, int):
        return given
    if given.upper() not in LEVELS:
        raise InvalidInput(f"log level {given!r} is none: choose from {', '.join(LEVELS)}")
    return logging.getLevelNamesMapping()[given.upper()]


def set_level(level: str | int, *, logger: str | None = None) -> None:
    """Change what is logged from now on: of everything, or of one logger and those below it.

    Raises InvalidInput for a level that is none.
    """
    logging.getLogger(logger).setLevel(level_of(level))


def parse(text: str) -> dict[str | None, int]:
    """Levels by logger, None for all: `INFO stepforge.local=DEBUG`. Raises InvalidInput."""
    found: dict[str | None, int] = {}
    for word in text.split():
        match = _WORD.fullmatch(word)
        if match is None:
            raise InvalidInput(f"{word!r} is no level: write INFO, or stepforge.local=DEBUG for one logger")
        found[match["logger"]] = level_of(match["level"])
    return found


class LevelFile:
    """A file whose words are the levels. Without the file those of the start hold."""

    def __init__(self, path: Path, level: int) -> None:
        self._path, self._level = path, level
        self._seen: tuple[int, int] | None = None
        self._set: set[str] = set()

    def look(self) -> None:
        """Take up what changed since the last look. A malformed file changes nothing, and a warning says why."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size)
            text = self._path.read_text() if seen != self._seen else ""
            if not text.strip():
                return  # nothing new, or somebody is about to write it
        except (OSError, ValueError):
            seen, text = (0, 0), ""
        if seen == (self._seen or (0, 0)):
            return
        self._seen = seen
        try:
            levels = parse(text)
        except InvalidInput as error:
            logger.warning("%s is left aside: %s", self._path, error)
            return
        for gone in self._set - levels.keys():
            logging.getLogger(gone).setLevel(logging.NOTSET)
        self._set = {name for name in levels if name is not None}
        for name, level in {None: self._level, **levels}.items():
            logging.getLogger(name).setLevel(level)
        said = {name or "all": logging.getLevelName(level) for name, level in levels.items()}
        logger.warning("log levels changed", extra={"levels": said or {"all": logging.getLevelName(self._level)}})
