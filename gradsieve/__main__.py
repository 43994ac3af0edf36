"""`python -m gradsieve` is the same as `gradsieve`."""

import sys

from gradsieve.cli.application import main

sys.exit(main())
