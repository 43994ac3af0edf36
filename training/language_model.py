"""A language model around any LSTM layer, and its loss over a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradsieve.training.text import TextError, side_by_side

EMBEDDING_SPREAD = 0.5
"""Standard deviation of the first embeddings: it keeps x well inside the engines' input format, ±4 by default.

Gates see a sum of I such values times weights of up to H**-0.5: about 0.3 where I is H, at any size.
"""

State = tuple[Tensor, Tensor]
"""h and c, (layers, batch, H) each."""


class LanguageModel(nn.Module):
    """Embedding, an LSTM, and a linear layer to the scores of the next token.

    `lstm` is an `nn.LSTM` or has its interface; I is its input size and H its hidden size.  `input_dropout` is applied
    to the embeddings (T, B, I), `output_dropout` to the outputs of the LSTM (T, B, H).  `tied` makes the embeddings the
    weights of the linear layer too.

    All weights are drawn anew, those of `lstm` too: a seed set before this means the same model for an LSTM of any
    class.  Raises ValueError for an LSTM that reads its text backwards, expects the batch first or projects its
    output, and for tied weights if I is not H.
    """

    def __init__(
        self,
        tokens: int,
        lstm: nn.LSTM,
        input_dropout: nn.Module | None = None,
        output_dropout: nn.Module | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        for name in ("bidirectional", "batch_first", "proj_size"):
            value = getattr(lstm, name)
            if value:
                raise ValueError(f"lstm.{name} must be {type(value)()}, got {value}")
        if tied and lstm.input_size != lstm.hidden_size:
            raise ValueError(
                f"lstm.input_size must be lstm.hidden_size = {lstm.hidden_size} if tied, got {lstm.input_size}"
            )
        self.embedding = nn.Embedding(tokens, lstm.input_size)
        self.lstm = lstm
        self.lstm.reset_parameters()
        self.decoder = nn.Linear(lstm.hidden_size, tokens)
        self.input_dropout = nn.Identity() if input_dropout is None else input_dropout
        self.output_dropout = nn.Identity() if output_dropout is None else output_dropout
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_SPREAD)
        if tied:
            self.decoder.weight = self.embedding.weight
        for name, parameter in self.lstm.named_parameters():
            # A forget bias of 1 would saturate cells and make the gradients look sparser than they are.
            if name.startswith("bias"):
                nn.init.zeros_(parameter)

    def zero_state(self, batch: int) -> State:
        """The state at the beginning of `batch` streams."""
        h = self.embedding.weight.new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        return h, torch.zeros_like(h)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores (T, B, tokens) of what follows each token of (T, B), and the state after the last."""
        y, state = self.lstm(self.input_dropout(self.embedding(tokens)), state)
        return self.decoder(self.output_dropout(y)), state

    def loss(self, tokens: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """The mean loss in nats a token, and the state after the last token without its history."""
        scores, (h, c) = self(tokens, state)
        return cross_entropy(scores.flatten(0, 1), targets.flatten()), (h.detach(), c.detach())


def evaluate(model: LanguageModel, ids: Tensor, batch: int, steps: int) -> float:
    """The loss in nats a token over a text of token numbers (1-D), in `batch` streams read `steps` tokens at a time.

    The state is carried from window to window, and the last, shorter one counts too.  The model is in evaluation mode
    meanwhile.  Raises TextError if the text has not two tokens for every stream.
    """
    if len(ids) < 2 * batch:
        raise TextError(f"the validation text has {len(ids)} tokens, and {batch} streams need {2 * batch} or more")
    streams = side_by_side(ids, batch).to(model.embedding.weight.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return _evaluate(model, streams, steps)
    finally:
        for module, mode in modes:
            module.training = mode


def _evaluate(model: LanguageModel, streams: Tensor, steps: int) -> float:
    tokens, targets = streams[:-1], streams[1:]
    state = model.zero_state(streams.shape[1])
    total = 0.0
    for inputs, successors in zip(tokens.split(steps), targets.split(steps), strict=True):
        loss, state = model.loss(inputs, successors, state)
        total += loss.item() * successors.numel()
    return total / targets.numel()
