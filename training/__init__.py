"""Training LSTMs with sieved gradients: a drop-in layer, the papers' methods, the training loop and its reports."""
