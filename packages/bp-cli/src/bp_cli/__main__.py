"""`python -m bp_cli` is `backprop`."""

import sys

from bp_cli.main import main

sys.exit(main())
