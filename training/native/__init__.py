"""The float passes in compiled code: C++ that is built for the user's PyTorch and CPU on first use (`library`)."""
