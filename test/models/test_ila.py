"""Local attention by tiles against a plain reference, gradients included; and what it is for: finding what moved."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mila_ros.errors import UserError
from mila_ros.models.config import ModelConfig
from mila_ros.models.ila import LocalAttention
from mila_ros.models.propagation import Keyframe, Propagation
from mila_ros.models.propagations import make_propagation


def reference(attention: LocalAttention, features: Tensor, described: Tensor, carried: Tensor) -> Tensor:
    """One window a query, gathered by unfold: slow, and plainly what the method says."""
    p = attention.window
    q, k, v = attention.query(features), attention.key(described), attention.value(carried)
    b, c, h, w = q.shape
    keys = F.unfold(k, p, padding=p // 2).view(b, c, p * p, h * w)
    values = F.unfold(v, p, padding=p // 2).view(b, v.shape[1], p * p, h * w)
    inside = F.unfold(torch.ones(1, 1, h, w, dtype=q.dtype), p, padding=p // 2).view(1, p * p, h * w) > 0.5
    scores = (q.view(b, c, 1, h * w) * keys).sum(dim=1) * c**-0.5 + attention.position_bias[None, :, None]
    weights = scores.masked_fill(~inside, float("-inf")).softmax(dim=1)
    return (weights[:, None] * values).sum(dim=2).view(b, v.shape[1], h, w)


def make(window: int, tile: int, query_channels: int = 4) -> LocalAttention:
    torch.manual_seed(0)
    attention = LocalAttention(6, 5, 7, query_channels, value_channels=4, window=window, tile=tile).double()
    torch.nn.init.normal_(attention.position_bias)
    return attention


@pytest.mark.parametrize("window", [1, 3, 9])
@pytest.mark.parametrize("tile", [2, 5, 10])
@pytest.mark.parametrize("size", [(10, 10), (7, 13), (3, 2)])
def test_tiles_agree_with_the_reference(window: int, tile: int, size: tuple[int, int]) -> None:
    attention = make(window, tile)
    features = torch.randn(2, 6, *size, dtype=torch.float64)
    described = torch.randn(2, 5, *size, dtype=torch.float64)
    carried = torch.randn(2, 7, *size, dtype=torch.float64)
    found = attention(features, attention.remember(described, carried))
    torch.testing.assert_close(found, reference(attention, features, described, carried))


def test_half_precision_on_a_cpu_agrees_with_the_reference() -> None:
    attention = make(window=5, tile=4)
    features, described, carried = (torch.randn(2, c, 7, 10, dtype=torch.float64) for c in (6, 5, 7))
    expected = reference(attention, features, described, carried)
    attention = attention.to(torch.bfloat16)
    half = [x.to(torch.bfloat16) for x in (features, described, carried)]
    with torch.inference_mode():
        found = attention(half[0], attention.remember(*half[1:]))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)


def test_gradients_agree_with_the_reference() -> None:
    attention = make(window=5, tile=4)
    inputs = [torch.randn(1, c, 6, 9, dtype=torch.float64, requires_grad=True) for c in (6, 5, 7)]
    weight = torch.randn(1, 4, 6, 9, dtype=torch.float64)
    leaves = [*inputs, *attention.parameters()]
    tiled = (attention(inputs[0], attention.remember(inputs[1], inputs[2])) * weight).sum()
    plain = (reference(attention, *inputs) * weight).sum()
    ours = torch.autograd.grad(tiled, leaves)
    theirs = torch.autograd.grad(plain, leaves)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
        assert torch.isfinite(a).all()


def test_a_shifted_picture_is_found_again() -> None:
    attention = LocalAttention(16, 16, 3, query_channels=16, value_channels=3, window=7, tile=5)
    with torch.no_grad():
        for layer in (attention.query, attention.key):
            layer.weight.copy_(40 * torch.eye(16).view(16, 16, 1, 1))
            layer.bias.zero_()
        attention.value.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        attention.value.bias.zero_()
    torch.manual_seed(1)
    described, carried = F.normalize(torch.randn(1, 16, 20, 25), dim=1), torch.randn(1, 3, 20, 25)
    moved = torch.roll(described, (2, -3), dims=(2, 3))
    found = attention(moved, attention.remember(described, carried))
    expected = torch.roll(carried, (2, -3), dims=(2, 3))
    torch.testing.assert_close(found[..., 3:-3, 4:-4], expected[..., 3:-3, 4:-4], atol=1e-3, rtol=0)


def test_nothing_outside_the_picture_takes_weight() -> None:
    attention = make(window=9, tile=5)
    carried = torch.ones(1, 7, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        attention.value.bias.zero_()
    found = attention(
        torch.randn(1, 6, 8, 8, dtype=torch.float64),
        attention.remember(torch.randn(1, 5, 8, 8, dtype=torch.float64), carried),
    )
    # The value of a constant map is constant: a leak at the border would pull it towards zero there.
    expected = attention.value(carried)[:, :, :1, :1].expand_as(found)
    torch.testing.assert_close(found, expected)


def propagation(channels: int, **values: object) -> Propagation:
    names = {"classes": ("wall", "floor"), "channels": channels, "query_channels": channels}
    return make_propagation(ModelConfig(**(names | values)))  # type: ignore[arg-type]


def keyframe(described: Tensor, carried: Tensor, detail: Tensor | None = None) -> Keyframe:
    b, _, h, w = described.shape
    return Keyframe(described, carried, torch.zeros(b, 3, 2 * h, 2 * w) if detail is None else detail)


@pytest.mark.parametrize("attention", ["shared", "task"])
def test_before_training_propagation_brings_back_what_moved(attention: str) -> None:
    torch.manual_seed(2)
    carry = propagation(32, attention=attention).eval()
    described, carried = torch.randn(1, 32, 20, 25), torch.randn(1, 32, 20, 25)
    shift = {"shifts": (2, -3), "dims": (2, 3)}
    found = carry(torch.roll(described, **shift), carry.remember(keyframe(described, carried)), ["depth", "normals"])
    assert set(found) == {"depth", "normals"}
    expected = torch.roll(carried, **shift)
    inside = (..., slice(3, -3), slice(4, -4))
    for brought in found.values():
        assert F.cosine_similarity(brought.coarse[inside], expected[inside], dim=1).quantile(0.02) > 0.99
    unmoved = F.cosine_similarity(carried[inside], expected[inside], dim=1)
    assert unmoved.mean() < 0.1


@pytest.mark.parametrize("query_channels", [4, 16])
def test_where_it_looked_is_told_beside_what_it_found(query_channels: int) -> None:
    """The mean displacement is the attention-weighted mean of the window's offsets; the values are as without it."""
    plain = make(window=5, tile=3, query_channels=query_channels)
    attention = LocalAttention(6, 5, 7, query_channels, value_channels=4, window=5, tile=3, locate=True).double()
    attention.load_state_dict(plain.state_dict())
    features, described, carried = (torch.randn(2, c, 7, 10, dtype=torch.float64) for c in (6, 5, 7))
    found, shift = attention.look(features, attention.remember(described, carried))
    torch.testing.assert_close(found, reference(plain, features, described, carried))
    torch.testing.assert_close(attention(features, attention.remember(described, carried)), found)
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(10.0), indexing="ij")
    places = torch.stack([columns, rows])[None].double().repeat(2, 2, 1, 1)[:, :4]
    for number, own in ((0, columns), (1, rows)):
        torch.nn.init.zeros_(plain.value.bias)
        plain.value.weight.data = torch.eye(4, dtype=torch.float64)[:, :, None, None]
        expected = reference(plain, features, described, places)[:, number] - own
        torch.testing.assert_close(shift[:, number], expected)


@pytest.mark.parametrize("attention", ["shared", "task"])
def test_warped_details_arrive_where_things_have_moved(attention: str) -> None:
    torch.manual_seed(2)
    carry = propagation(32, attention=attention, warp=True).eval()
    described, carried, detail = (torch.randn(1, c, h, w) for c, h, w in ((32, 20, 25), (32, 20, 25), (5, 40, 50)))
    memory = carry.remember(keyframe(described, carried, detail))
    found = carry(torch.roll(described, (2, -3), (2, 3)), memory, ["depth", "normals"])
    for brought in found.values():
        for got, was, scale in ((brought.coarse, carried, 1), (brought.detail, detail, 2)):
            expected = torch.roll(was, (2 * scale, -3 * scale), (2, 3))
            inside = (..., slice(4 * scale, -4 * scale), slice(5 * scale, -5 * scale))
            likeness = F.cosine_similarity(got[inside], expected[inside], dim=1)
            assert likeness.quantile(0.1) > 0.9
            assert likeness.mean() > 0.95


def test_each_task_looks_for_itself_and_only_when_it_is_wanted() -> None:
    torch.manual_seed(0)
    carry = propagation(8, attention="task", window=3).eval()
    described, carried = torch.randn(1, 8, 6, 8), torch.randn(1, 8, 6, 8)
    memory = carry.remember(keyframe(described, carried))
    asked: list[str] = []
    for task, part in carry.look_ups().items():
        part.attention.query.register_forward_hook(lambda *_, task=task: asked.append(task))
        torch.nn.init.normal_(part.attention.query.weight)
    found = carry(described, memory, ["normals", "depth"])
    assert asked == ["normals", "depth"]
    assert not torch.allclose(found["normals"].coarse, found["depth"].coarse)


def test_several_keyframes_share_one_softmax() -> None:
    """One window over two keyframes is the mean of what each holds, weighted by their summed exponentials."""
    attention = make(window=5, tile=4)
    both = LocalAttention(6, 5, 7, query_channels=4, value_channels=4, window=5, tile=4, frames=2).double()
    both.load_state_dict(attention.state_dict() | {"age_bias": torch.tensor([0.0, -0.7], dtype=torch.float64)})
    features = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    frames = [(torch.randn(2, 5, 7, 9, dtype=torch.float64), torch.randn(2, 7, 7, 9).double()) for _ in range(3)]
    tiles = [both.remember(*frame) for frame in frames]
    together = both(features, both.joined(tiles[0], tiles[1:]))  # the third is one too many
    sums, answers = [], []
    for (described, carried), age in zip(frames, (0.0, -0.7)):
        q, k = attention.query(features), attention.key(described)
        keys = F.unfold(k, 5, padding=2).view(2, 4, 25, 63)
        inside = F.unfold(torch.ones(1, 1, 7, 9).double(), 5, padding=2).view(1, 25, 63) > 0.5
        scores = (q.view(2, 4, 1, 63) * keys).sum(dim=1) * 0.5 + attention.position_bias[None, :, None] + age
        sums.append(scores.masked_fill(~inside, float("-inf")).exp().sum(dim=1).view(2, 1, 7, 9))
        answers.append(reference(attention, features, described, carried))
    expected = (answers[0] * sums[0] + answers[1] * sums[1]) / (sums[0] + sums[1])
    torch.testing.assert_close(together, expected)
    alone = both(features, tiles[0])  # the first keyframe of all
    torch.testing.assert_close(alone, answers[0])


def test_the_last_keyframes_are_remembered_and_no_more() -> None:
    carry = propagation(8, window=3, frames=3, tile=5).eval()
    memory = None
    for number in range(5):
        features = torch.full((1, 8, 6, 8), float(number))
        memory = carry.remember(keyframe(features, features), memory)
    side = 5 + 3 - 1
    tiles = memory.together["all"]
    assert tiles.keys.shape[2] == 3 * side * side
    centre = tiles.values.detach()[0, 0, side * side // 2 :: side * side, 0]
    assert [round(float(value)) for value in centre] == [4, 3, 2]
    other = torch.zeros(1, 8, 7, 9)
    assert carry.remember(keyframe(other, other), memory).together["all"].keys.shape[2] == side * side


def test_a_keyframe_of_another_size_is_refused() -> None:
    carry = propagation(8, window=3)
    memory = carry.remember(keyframe(torch.zeros(1, 8, 6, 8), torch.zeros(1, 8, 6, 8)))
    with pytest.raises(ValueError, match="make a new keyframe"):
        carry(torch.zeros(1, 8, 6, 9), memory, ["depth"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frames": 0}, "at least one keyframe"),
        ({"attention": "both"}, '"shared" or "task"'),
        ({"warp": True, "frames": 2}, "set frames to 1"),
        (
            {"propagation": "warp"},
            'one of attention, alignment, attention.alignment, laps, learned-flow, accel; got "warp"',
        ),
        ({"propagation": "laps", "warp": True}, "warp: for local attention, which propagation: laps has not"),
        ({"propagation": "alignment", "frames": 2, "attention": "task"}, "attention, frames: for local attention"),
    ],
)
def test_impossible_propagation_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        propagation(8, **values)
