"""`python -m trimtab`: the command line, as accelerate's launcher starts it in several processes."""

from trimtab.cli import main

main()
