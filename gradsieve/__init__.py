"""Sparse-gradient LSTM engines: generated as Verilog, proven against a golden model, used from PyTorch."""
