"""Sequential cross attention: who looks at whom, that it starts as nothing, and what it costs."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mila_ros.models.config import ModelConfig
from mila_ros.models.cross_attention import CrossScale, CrossTask, SequentialCrossAttention
from mila_ros.models.flops import _FUSED_ON_CPU, count_flops
from mila_ros.models.mila import Mila


def maps(count: int, channels: int, height: int, width: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, channels, height, width, requires_grad=True) for _ in range(count)]


def test_one_task_has_nobody_to_ask_and_passes_through() -> None:
    (alone,) = maps(1, 32, 4, 6)
    assert CrossTask(1, 32)([alone])[0] is alone


def test_each_task_asks_all_the_others_everywhere() -> None:
    tasks = maps(3, 32, 4, 6)
    first, *_ = CrossTask(3, 32, shrink=2)(tasks)
    (gradient,) = torch.autograd.grad(first[0, :, 0, 0].sum(), tasks[2], retain_graph=True)
    assert gradient[0].abs().amax(dim=0).min() > 0  # from one corner to every position of another task
    assert not gradient[1].any()
    own = torch.autograd.grad(first[0, 0, 0, 0], tasks[0])[0]
    assert own[0, :, 1:].abs().max() == 0  # its own map is added where it is, not asked


def test_each_scale_asks_its_own_task_alone() -> None:
    finer, coarser = maps(2, 32, 8, 12), maps(2, 32, 4, 6)
    asked, _ = CrossScale(2, 32)(finer, coarser)
    assert asked.shape == finer[0].shape
    mine, other = torch.autograd.grad(asked[0, :, 3, 3].sum(), coarser, allow_unused=True)
    assert mine.abs().max() > 0 and other is None


def test_it_starts_as_nothing_at_all() -> None:
    module = SequentialCrossAttention(3, 16, width=32).eval()
    p16, p32 = torch.randn(1, 16, 6, 10), torch.randn(1, 16, 3, 5)
    torch.testing.assert_close(module.deepest(p32), p32)
    for was, now in zip((p16, p32), module(p16, p32), strict=True):
        torch.testing.assert_close(now, was)


def test_a_network_with_it_answers_and_costs_more_where_it_is_slow() -> None:
    plain = ModelConfig.tiny()
    model = Mila(ModelConfig.from_dict(plain.to_dict() | {"cross_attention": True})).eval()
    with torch.inference_mode():
        answers = model.predict(model.features(torch.rand(1, 3, 96, 128)), plain.tasks, torch.ones(1), (48, 64))
    assert {task: answer.shape[-2:] for task, answer in answers.items()} == dict.fromkeys(plain.tasks, (48, 64))
    usual, own = count_flops(Mila(plain), 96, 128), count_flops(model, 96, 128)
    assert own.slow > usual.slow and own.fast_frame == usual.fast_frame


def test_attention_costs_what_the_docstring_says() -> None:
    tasks, channels, width, rows, columns = 3, 32, 64, 4, 5
    module = SequentialCrossAttention(tasks, channels, width).eval()
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        p32 = module.deepest(torch.randn(1, channels, rows, columns))
        module(torch.randn(1, channels, 2 * rows, 2 * columns), p32)
    counted = counter.get_flop_counts()["Global"][torch.ops.aten._scaled_dot_product_flash_attention_for_cpu]
    square = (rows * columns) ** 2
    said = 20 * tasks * (tasks - 1) * width * square + 16 * tasks * width * square + 4 * channels * square
    assert counted == said
