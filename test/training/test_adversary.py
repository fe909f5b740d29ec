"""The critic and the fast network: each learns its own part, and together they make features alike."""

import torch

from mila_ros.training.adversary import PatchCritic, adversarial_losses, rising


def test_the_adversary_teaches_each_side_only_its_own() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(8)
    slow, fast = torch.randn(2, 8, 16, 16, requires_grad=True), torch.randn(2, 8, 16, 16, requires_grad=True)
    verdict, fooled = adversarial_losses(critic, slow, fast)
    parts = list(critic.parameters())
    of_verdict = torch.autograd.grad(verdict, [fast, slow, *parts], allow_unused=True, retain_graph=True)
    assert of_verdict[0] is None and of_verdict[1] is None and all(g is not None for g in of_verdict[2:])
    of_fooled = torch.autograd.grad(fooled, [fast, slow, *parts], allow_unused=True)
    assert of_fooled[0] is not None and all(g is None for g in of_fooled[1:])


def test_what_is_made_by_another_is_told_apart_and_then_made_alike() -> None:
    """A critic that learns sees the difference; who follows its advice comes to look like the other."""
    torch.manual_seed(0)
    critic, shift = PatchCritic(4, 16), torch.nn.Parameter(torch.full((1, 4, 1, 1), 2.0))
    teach = torch.optim.Adam(critic.parameters(), 1e-2, betas=(0.5, 0.99))
    learn = torch.optim.Adam([shift], 2e-2, betas=(0.5, 0.99))
    verdicts = []
    for step in range(300):
        slow, fast = torch.randn(4, 4, 16, 16), torch.randn(4, 4, 16, 16) + shift
        verdict, fooled = adversarial_losses(critic, slow, fast)
        for optimizer in (teach, learn):
            optimizer.zero_grad()
        (verdict + rising(step, 100) * fooled).backward()
        teach.step()
        learn.step()
        verdicts.append(verdict.item())
    assert min(verdicts[:100]) < 1.0  # 2: it cannot tell
    assert shift.abs().mean().item() < 0.7
