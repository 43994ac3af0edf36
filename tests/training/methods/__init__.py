"""Tests of training/methods/."""
