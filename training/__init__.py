"""Training LSTMs with sieved gradients: a drop-in layer, the papers' methods, the training loop and its reports."""

if __name__ != "gradsieve.training":
    raise ImportError(f"{__name__} is gradsieve.training: import it by that name", name=__name__)
