import torch

from helpers.generation.sampling import NO_TOKEN, draw


def test_draw_is_that_of_torch_multinomial():
    ours, torchs = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for seed in range(50):
        torch.manual_seed(seed)
        probabilities = (3 * torch.randn(500)).softmax(-1)
        probabilities[:100] = 0  # as a warper leaves them
        drawn = torch.multinomial(probabilities, 1, generator=torchs)
        assert draw(probabilities, ours) == drawn


def test_nothing_is_drawn_from_what_is_not_a_number():
    assert draw(torch.full((5,), float("nan")), torch.Generator()) == NO_TOKEN
