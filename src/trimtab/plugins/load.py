"""Loads plug-ins: installed ones by the entry point `trimtab.plugins`, and those that an experiment's `plugins:` names.

A plug-in is a module that adds entries to registries while it is imported.

    >>> load_plugins(["my_losses.py"])                                                  # doctest: +SKIP
"""

import logging
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from trimtab.errors import ConfigurationError, TrimtabError
from trimtab.plugins.user_errors import fault_in
from trimtab.plugins.user_functions import import_module

GROUP = "trimtab.plugins"
_log = logging.getLogger(__name__)


def load_plugins(places: Iterable[str] = ()) -> None:
    """Import the installed plug-ins, and modules or files (`mine.py`) by their places.

    Raises:
        ConfigurationError: one is not there, cannot be imported, or adds an entry that cannot be used.
    """
    load_installed()
    for place in places:
        import_module(place)


@cache
def load_installed() -> None:
    for point in entry_points(group=GROUP):
        package = "an installed package" if point.dist is None else point.dist.name
        try:
            point.load()
        except TrimtabError as error:
            raise ConfigurationError(f"the plug-in {point.value} of {package}: {error}") from None
        except (Exception, SystemExit) as error:
            _log.info("the plug-in %s cannot be imported", point.value, exc_info=True)
            raise ConfigurationError(
                f"the plug-in {point.value} of {package} cannot be imported {fault_in(error)}: mend or uninstall it"
            ) from error
