"""Keeps the build in a fresh folder: what an earlier one left in `build/` must not get into a wheel."""

import tempfile

from setuptools import setup

with tempfile.TemporaryDirectory(prefix="gradsieve-build-") as folder:
    setup(options={"build": {"build_base": folder}})
