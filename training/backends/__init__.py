"""Backends: what computes a layer's passes.  Float, the golden integers, or a device; one interface."""

from gradsieve.training.backends.backend import Backend, BackwardPass, ForwardPass
from gradsieve.training.backends.float_backend import OPERATIONS, PROBE, FloatBackend, sieving_pays
from gradsieve.training.backends.integer_backends import DeviceBackend, GoldenBackend, fitting_config

__all__ = [
    "OPERATIONS",
    "PROBE",
    "Backend",
    "BackwardPass",
    "DeviceBackend",
    "FloatBackend",
    "ForwardPass",
    "GoldenBackend",
    "fitting_config",
    "sieving_pays",
]
