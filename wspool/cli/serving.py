"""What `wspool serve` makes of its options: who answers, what goes wrong, and what is said about it."""

import json
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Final

from wspool.cli.imported import imported
from wspool.cli.usage import tell, usage_error, warn
from wspool.server.echo import EchoModel
from wspool.server.faults.script import FAULTS, Fault, FaultRule
from wspool.server.ledger import Entry
from wspool.server.lookup import LookupModel
from wspool.server.models import Model, ScriptedModel

__all__ = ["Book", "fault_rule", "find_model", "shown_log"]

#: Longest line about one request, in characters: some of it is a client's own words.
_LONGEST: Final = 400


def find_model(name: str | None, script: Path | None) -> Model:
    """Who answers. Ends the command if that cannot be found out."""
    if script is not None:
        if name is not None:
            usage_error("--model and --script both say who answers; give one of them")
        try:
            return ScriptedModel.from_file(script)
        except (OSError, ValueError) as problem:
            usage_error(f"the script cannot be used: {problem}")
    match name:
        case None:
            return LookupModel(otherwise=EchoModel())
        case "lookup":
            return LookupModel()
        case "echo":
            return EchoModel()
        case _:
            return _imported_model(name)


def _imported_model(name: str) -> Model:
    found = imported("--model", name, "echo, lookup, pkg.mod:name or ./file.py:name")
    try:
        model = found() if isinstance(found, type) else found
    except Exception as problem:  # whatever the class raises
        usage_error(f"--model {name!r} cannot be used: {type(problem).__name__}: {problem}")
    if not callable(getattr(model, "respond", None)):
        usage_error(f"--model {name!r} has no method respond(request); see wspool.server.Model")
    who: Model = model
    return who


def fault_rule(text: str) -> FaultRule:
    """What `NAME` or `NAME@N` asks for. Ends the command if there is no such fault."""
    name, at, number = text.partition("@")
    if name not in FAULTS:
        usage_error(f"--fault {text!r}: there is no fault {name!r}; there are {', '.join(sorted(FAULTS))}")
    if not at:
        return FaultRule(Fault(name))
    if not number.isdecimal() or int(number) < 1:
        usage_error(f"--fault {text!r}: what stands behind @ is the number of a request, from 1")
    fault = Fault(name)
    if fault.concerns_connection():
        return FaultRule(fault, connection=int(number))
    return FaultRule(fault, create=int(number))


class Book:
    """What is done with the line of a request: to the file if there is one, to standard error if asked."""

    def __init__(self, file: RawIOBase | None, *, verbose: bool) -> None:
        self._file = file
        self._verbose = verbose

    def __call__(self, entry: Entry) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(entry, separators=(",", ":")).encode("ascii") + b"\n")
            except OSError as problem:
                # The server is what others wait for; and half a ledger is worse than none.
                warn(f"no ledger from here on: {problem}")
                self._file = None
        if self._verbose:
            tell(_one_line(_words(entry)))


def _words(entry: Entry) -> Sequence[str]:
    parent = f"continues {entry['previous_response_id']}" if entry["previous_response_id"] else ""
    return (
        f"{entry['transport']} {entry['connection']}.{entry['sequence']}",
        f"lane {entry['lane']}" if entry["lane"] else "",
        entry["response_id"] or "",
        f"{parent} ({entry['parent_from'] or 'not found'})" if parent else "",
        f"{entry['input_items']} of {entry['context_items']} items",
        f"{entry['outcome']} {entry['error_code'] or ''}".strip(),
        f"after {entry['ended'] - entry['received']:.3f} s",
        f"fault {entry['fault']}" if entry["fault"] else "",
    )


def _one_line(words: Sequence[str]) -> str:
    text = ", ".join(filter(None, words))[:_LONGEST]
    return "".join(character if character.isprintable() else "?" for character in text)


class _OneLine(logging.Formatter):
    """The message in one line, without what could steer a terminal; then the traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _one_line([record.getMessage()])


@contextmanager
def shown_log(name: str, *, verbose: bool) -> Generator[None]:
    """Have the log *name* on standard error: what is refused if *verbose*, else only what went wrong."""
    logger = logging.getLogger(name)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    before = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:  # the process may go on: a program may call the command
        logger.removeHandler(handler)
        logger.propagate = before[0]
        logger.setLevel(before[1])
