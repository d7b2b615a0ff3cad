"""Reads YAML strictly: nothing that a user wrote is silently taken for something else.

>>> parse_yaml("{template: chat, successors: 4}")
{'template': 'chat', 'successors': 4}
>>> text_wanted(True)
'YAML takes yes, no, on and off for true or false: put a text in quotation marks'
"""

import datetime
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from trimtab.errors import ConfigurationError, TrimtabError, shown

_OTHER_BASE = re.compile(r"[-+]?0[0-9_]+$|.*:")
"""Whole numbers that YAML reads in base eight or sixty."""


class PlainLoader(yaml.SafeLoader):
    """Loads plain values. Refuses keys that are given twice, numbers such as `010` and `1:30`, which YAML reads in
    base eight and sixty, and texts that hold half of a character."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(key, "a list or mapping is no name: write a text before the colon")
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _refused(key, f"{key.value} is given twice: drop one of them")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number in base ten, or in the base of its prefix 0x or 0b."""
        whole = node.tag.endswith(":int")
        value: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        if _OTHER_BASE.match(node.value) and (whole or ":" in node.value):
            base = 60 if ":" in node.value else 8
            raise _refused(
                node,
                f"{node.value} is {value} to YAML, by base {base}: put it in quotation marks if it is a text, else "
                "write the number in base ten without leading zeros",
            )
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text of whole characters."""
        text = str(self.construct_scalar(node))
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _refused(node, f"{text!r} holds half of a character (a lone surrogate): mend the text") from None
        return text


PlainLoader.add_constructor("tag:yaml.org,2002:str", PlainLoader.construct_text)
for _kind in ("int", "float"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", PlainLoader.construct_number)


def _refused(node: yaml.Node, why: str) -> ConstructorError:
    return ConstructorError(None, None, why, node.start_mark)


def parse_yaml(text: str, origin: str = "the text", error: type[TrimtabError] = ConfigurationError) -> Any:
    """The value that a YAML text holds; `origin` is how messages call the text.

    Raises:
        TrimtabError: an `error`, where it cannot be read.
    """
    try:
        return yaml.load(text, PlainLoader)
    except (AttributeError, IndexError, KeyError, TypeError):  # what PyYAML raises for `!!bool 5` and its kin
        reason = "a tag, such as !!bool, does not fit its value: leave the tag out"
    except (yaml.YAMLError, ValueError, RecursionError) as fault:  # ValueError: a date such as 2024-99-99
        reason = " ".join(str(fault).split())
    raise error(f"{origin} cannot be read as YAML: {reason}")


def read_mapping(
    file: Path, what: str, *, remedy: str, example: str, error: type[TrimtabError] = ConfigurationError
) -> dict[str, Any]:
    """The mapping in a YAML file that messages call `what`; an empty file holds an empty one.

    Raises:
        TrimtabError: an `error`: the file cannot be read, for which `remedy` says what to do; it is not YAML; or it
            holds something else than a mapping from texts, such as `example`.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"the {what} {file} is not UTF-8 text (byte {fault.start}): save it as UTF-8") from None
    except OSError as fault:
        raise error(f"the {what} {file} cannot be read ({fault.strerror}): {remedy}") from None
    values = parse_yaml(text, f"the {what} {file}", error)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise error(f"the {what} {file} is no mapping: write lines such as `{example}`")
    for name in values:
        if not isinstance(name, str):
            raise error(f"the {what} {file} has the name {shown(name, 80)}: {text_wanted(name)}")
    return values


def text_wanted(value: object) -> str:
    """The remedy where YAML gave this value and a text is needed."""
    if isinstance(value, bool):
        return "YAML takes yes, no, on and off for true or false: put a text in quotation marks"
    if isinstance(value, int | float):
        return "YAML takes it for a number: put a text in quotation marks"
    if isinstance(value, datetime.date):
        return "YAML takes it for a date: put a text in quotation marks"
    if value is None:
        return "YAML takes nothing, ~ and null for no value: give a text, in quotation marks if it is one of these"
    if isinstance(value, dict | list):
        return "give one text; YAML takes `a: b`, [a] and {a} for a mapping or list unless they are in quotation marks"
    return "give a text"
