"""How YAML is read here, and what is said where it made something else of a text without quotation marks.

>>> parse_yaml("{template: chat, successors: 4}")
{'template': 'chat', 'successors': 4}
>>> text_wanted(True)
'YAML takes yes, no, on and off for true or false: put a text in quotation marks'
"""

import datetime
import re
from collections.abc import Hashable
from typing import Any

import yaml

_OTHER_BASE = re.compile(r"[-+]?0[0-9_]+$|.*:")
"""Whole numbers that YAML reads in base eight or sixty."""


class PlainLoader(yaml.SafeLoader):
    """YAML of plain values, whose texts hold no halves of characters.

    A key stands once in a mapping: a second would silently take the first one's place. Numbers in base eight or sixty
    are refused, which nobody means by `010` or `1:30`.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a list or mapping is no name: write a text before the colon", key.start_mark
                )
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice: drop one of them", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number in base ten, or in one that its prefix 0x or 0b says."""
        whole = node.tag.endswith(":int")
        value: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        if _OTHER_BASE.match(node.value) and (whole or ":" in node.value):
            base = 60 if ":" in node.value else 8
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value} is {value} to YAML, by base {base}: put it in quotation marks if it is a text, else "
                "write the number in base ten without leading zeros",
                node.start_mark,
            )
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text of whole characters."""
        text = str(self.construct_scalar(node))
        try:
            text.encode()
        except UnicodeEncodeError:
            raise yaml.constructor.ConstructorError(
                None, None, f"{text!r} holds half of a character (a lone surrogate): mend the text", node.start_mark
            ) from None
        return text


PlainLoader.add_constructor("tag:yaml.org,2002:str", PlainLoader.construct_text)
for _kind in ("int", "float"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", PlainLoader.construct_number)


def parse_yaml(text: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is none: a ValueError for dates such as 2024-99-99.
    """
    try:
        return yaml.load(text, PlainLoader)
    except (AttributeError, IndexError, KeyError, TypeError):  # what PyYAML raises for `!!bool 5` and its kin
        raise yaml.YAMLError("a tag, such as !!bool, does not fit its value: leave the tag out") from None


def text_wanted(value: object) -> str:
    """What to do where YAML gave this value and a text is wanted."""
    if isinstance(value, bool):
        return "YAML takes yes, no, on and off for true or false: put a text in quotation marks"
    if isinstance(value, int | float):
        return "YAML takes it for a number: put a text in quotation marks"
    if isinstance(value, datetime.date):
        return "YAML takes it for a date: put a text in quotation marks"
    if value is None:
        return "YAML takes nothing, ~ and null for no value: give a text, in quotation marks if it is one of these"
    return "give a text"
