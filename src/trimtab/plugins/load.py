"""Loads plug-ins: those that are installed, by the entry point `trimtab.plugins`, and those that `plugins:` names.

A plug-in is a module that adds entries to registries while it is imported.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from trimtab.errors import ConfigurationError
from trimtab.plugins.user_errors import one_line_faults
from trimtab.plugins.user_functions import find_module, import_module

GROUP = "trimtab.plugins"


def load_plugins(locations: Iterable[str] = ()) -> None:
    """Import the installed plug-ins, and modules (`package.mine`) or files (`mine.py`) by their locations.

    Raises:
        ConfigurationError: a plug-in does not exist, cannot be imported, or adds an entry that cannot be used.
    """
    load_installed()
    for location in locations:
        if find_module(location) is None:
            raise ConfigurationError(
                f"there is no plug-in {location}: give the path of its file from the working directory, or the name of "
                "its module"
            )
        import_module(location)


@cache
def load_installed() -> None:
    """Import the installed plug-ins, once in a process."""
    for point in entry_points(group=GROUP):
        package = "an installed package" if point.dist is None else point.dist.name
        with one_line_faults(f"the plug-in {point.value} of {package}", f"mend {package}, or uninstall it"):
            point.load()
