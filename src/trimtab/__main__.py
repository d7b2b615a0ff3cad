"""`python -m trimtab`, which launchers of several processes start."""

from trimtab.cli import main

main()
