"""Tests of the documents: what they say is so, and the site is whole."""
