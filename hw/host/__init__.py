"""The host's side: registers, commands, packets in and out, and the readout of the weight gradients."""
