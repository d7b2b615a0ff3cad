"""The YAML files in which users name things: what a name stands for, one mapping a file.

>>> read_named_values(Path("paths.yaml"), "path map", "mend --path-map", "name: folder", AssetError)  # doctest: +SKIP
{'me/tiny': '~/models/tiny'}
"""

from pathlib import Path
from typing import Any

import yaml

from trimtab.config.yaml_values import parse_yaml, text_wanted
from trimtab.errors import TrimtabError, shown


def read_named_values(file: Path, what: str, unread: str, line: str, error: type[TrimtabError]) -> dict[str, Any]:
    """The mapping in a file that errors call `what`; an empty file, or one of comments alone, has no names.

    Raises:
        TrimtabError: an `error`: the file cannot be read, for which `unread` is the remedy, is not YAML, or is no
            mapping, of which `line` is an example.
    """
    try:
        values = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except OSError as fault:
        raise error(f"the {what} {file} cannot be read ({fault.strerror}): {unread}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise error(f"the {what} {file} is not YAML: {' '.join(str(fault).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise error(f"the {what} {file} is no mapping: write one `{line}` a line")
    wrong = next((name for name in values if not isinstance(name, str)), None)
    if wrong is not None or None in values:
        raise error(f"the {what} {file} has the name {shown(wrong, 80)}: {text_wanted(wrong)}")
    return values
