"""`python -m bp_data`."""

from bp_data.cli import main

main()
