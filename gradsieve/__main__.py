"""`python -m gradsieve` is the same as `gradsieve`."""

import sys

from gradsieve.cli import main

sys.exit(main())
