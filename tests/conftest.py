"""What the tests share."""

from __future__ import annotations

import os

os.environ.setdefault("COLUMNS", "120")  # of the tables and messages that tests read
