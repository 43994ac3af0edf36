"""Tests of training/reports/."""
