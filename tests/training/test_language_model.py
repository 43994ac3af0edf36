"""The language model and its loss, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gradsieve.training.language_model import EMBEDDING_SPREAD, LanguageModel, evaluate
from gradsieve.training.text import TextError

V, I, H = 11, 5, 7


class Halves(nn.Module):
    """A dropout that anyone can foresee, and that records what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, values: Tensor) -> Tensor:
        self.shapes.append(tuple(values.shape))
        return values / 2


class Drawing(nn.LSTM):
    """An LSTM whose constructor draws more random numbers than nn.LSTM's."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        torch.rand(3)


def test_forward_is_embedding_lstm_and_linear_layer_with_dropout_between() -> None:
    torch.manual_seed(0)
    dropout = Halves()
    model = LanguageModel(V, nn.LSTM(I, H, num_layers=2), dropout, dropout)
    tokens = torch.randint(V, (4, 3))
    h, c = torch.randn(2, 3, H), torch.randn(2, 3, H)
    scores, state = model(tokens, (h, c))
    y, (last_h, last_c) = model.lstm(model.embedding.weight[tokens] / 2, (h, c))
    assert torch.allclose(scores, y / 2 @ model.decoder.weight.T + model.decoder.bias, atol=1e-6)
    assert torch.equal(state[0], last_h) and torch.equal(state[1], last_c)
    assert dropout.shapes == [(4, 3, I), (4, 3, H)]


def test_loss_is_the_mean_of_nats_and_the_state_has_no_history() -> None:
    torch.manual_seed(0)
    model = LanguageModel(V, nn.LSTM(I, H))
    tokens, targets = torch.randint(V, (4, 3)), torch.randint(V, (4, 3))
    loss, (h, c) = model.loss(tokens, targets, model.zero_state(3))
    scores, (last_h, last_c) = model(tokens, model.zero_state(3))
    probabilities = scores.softmax(dim=2)
    expected = -sum(probabilities[t, b, targets[t, b]].log().item() for t in range(4) for b in range(3)) / 12
    assert loss.item() == pytest.approx(expected)
    assert torch.equal(h, last_h) and torch.equal(c, last_c)
    assert loss.requires_grad and not h.requires_grad and not c.requires_grad


def test_first_weights() -> None:
    torch.manual_seed(0)
    model = LanguageModel(500, nn.LSTM(60, 40, num_layers=2))
    assert model.embedding.weight.std().item() == pytest.approx(EMBEDDING_SPREAD, rel=0.03)
    for name, parameter in model.lstm.named_parameters():
        if name.startswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx((3 * 40) ** -0.5, rel=0.05), name
    h, c = model.double().zero_state(3)
    assert h.shape == c.shape == (2, 3, 40) and h.dtype == torch.float64
    assert not h.any() and not c.any() and h is not c
    LanguageModel(V, nn.LSTM(I, H, bias=False))


def test_a_seed_is_the_same_model_for_any_class_of_lstm() -> None:
    models = []
    for lstm in (nn.LSTM, Drawing):
        layer = lstm(I, H)
        torch.manual_seed(3)
        models.append(LanguageModel(V, layer).state_dict())
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_tied_weights_are_one_parameter() -> None:
    torch.manual_seed(0)
    model = LanguageModel(V, nn.LSTM(H, H), tied=True)
    assert model.decoder.weight is model.embedding.weight
    assert sum(p.numel() for p in model.parameters()) == V * H + V + 8 * H * H + 8 * H
    assert model.embedding.weight.std().item() == pytest.approx(EMBEDDING_SPREAD, rel=0.2)
    loss, _ = model.loss(torch.randint(V, (4, 3)), torch.randint(V, (4, 3)), model.zero_state(3))
    assert abs(loss.item() - math.log(V)) < 0.3


def test_layers_that_make_no_language_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lstm\.bidirectional must be False, got True"):
        LanguageModel(V, nn.LSTM(I, H, bidirectional=True))
    with pytest.raises(ValueError, match=r"lstm\.batch_first must be False, got True"):
        LanguageModel(V, nn.LSTM(I, H, batch_first=True))
    with pytest.raises(ValueError, match=r"lstm\.proj_size must be 0, got 2"):
        LanguageModel(V, nn.LSTM(I, H, proj_size=2))
    with pytest.raises(ValueError, match=r"lstm\.input_size must be lstm\.hidden_size = 7 if tied, got 5"):
        LanguageModel(V, nn.LSTM(I, H), tied=True)


@pytest.mark.parametrize("steps", [1, 4, 5, 19, 100])
def test_evaluation_is_that_of_the_whole_text_at_once(steps: int) -> None:
    torch.manual_seed(0)
    model = LanguageModel(V, nn.LSTM(I, H), nn.Dropout(0.5))
    ids = torch.randint(V, (3 * 20 + 2,))
    found = evaluate(model, ids, 3, steps)
    model.eval()
    streams = ids[:60].view(3, 20)
    scores, _ = model(streams.T[:-1], model.zero_state(3))
    expected = -scores.log_softmax(dim=2).gather(2, streams.T[1:, :, None]).mean().item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_evaluation_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = LanguageModel(V, nn.LSTM(I, H), nn.Dropout(0.5))
    model.lstm.eval()
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    graphs: list[bool] = []
    model.decoder.register_forward_hook(lambda _layer, _inputs, scores: graphs.append(scores.requires_grad))
    evaluate(model, torch.arange(40) % V, 2, 8)
    assert graphs == [False] * 3
    assert [module.training for module in model.modules()] == modes
    assert True in modes and False in modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_modes_are_restored_after_an_error() -> None:
    model = LanguageModel(V, nn.LSTM(I, H))
    with pytest.raises(IndexError):
        evaluate(model, torch.full((40,), V), 2, 8)
    assert model.training


def test_a_validation_text_that_is_too_short_is_refused() -> None:
    model = LanguageModel(V, nn.LSTM(I, H))
    assert math.isfinite(evaluate(model, torch.zeros(8, dtype=torch.int64), 4, 8))
    with pytest.raises(TextError, match="the validation text has 7 tokens, and 4 streams need 8 or more"):
        evaluate(model, torch.zeros(7, dtype=torch.int64), 4, 8)
