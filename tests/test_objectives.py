"""The readable reference and the schedule."""

import pytest
import torch

from solar_trl.objectives import alignment_loss, pair_distances, scheduled_weight, soft_token_summary, soft_tokens


def test_soft_tokens_by_hand():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    logits = torch.tensor([0.7, 0.2, 0.1]).log().reshape(1, 1, 3)
    torch.testing.assert_close(soft_tokens(logits, embeddings), torch.tensor([[[1.0, 0.5]]]))
    torch.testing.assert_close(soft_tokens(logits, embeddings, top_k=1), embeddings[:1].reshape(1, 1, 2))
    two = torch.tensor([[[7 / 9, 2 / 9]]])
    torch.testing.assert_close(soft_tokens(logits, embeddings, top_k=2), two)
    squared = torch.tensor([0.49, 0.04, 0.01]) / 0.54
    torch.testing.assert_close(
        soft_tokens(logits, embeddings, temperature=0.5), (squared @ embeddings).reshape(1, 1, 2)
    )
    torch.testing.assert_close(soft_tokens(logits, embeddings, top_k=3), soft_tokens(logits, embeddings))


def test_summary_pools_the_masked_positions():
    logits, embeddings = torch.randn(2, 4, 5), torch.randn(5, 3)
    tokens = soft_tokens(logits, embeddings)
    mask = torch.tensor([[True, False, True, False], [False] * 4])
    summary = soft_token_summary(logits, embeddings, mask)
    torch.testing.assert_close(summary[0], (tokens[0, 0] + tokens[0, 2]) / 2)
    assert summary[1].tolist() == [0.0, 0.0, 0.0]


def test_alignment_loss():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[-2.0, 0.0], [4.0, 4.0]])
    torch.testing.assert_close(pair_distances(a, b), torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(alignment_loss(a, b), torch.tensor(1.0))
    nothing = torch.zeros(0, 2, requires_grad=True)
    loss = alignment_loss(nothing, nothing)
    loss.backward()
    assert loss.item() == 0 and nothing.grad.shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_tokens(torch.zeros(1, 1, 3), torch.zeros(3, 2), temperature=0), "`temperature` is 0"),
        (lambda: soft_tokens(torch.zeros(1, 1, 3), torch.zeros(3, 2), top_k=4), "`top_k` is 4"),
        (lambda: soft_tokens(torch.zeros(1, 1, 3), torch.zeros(4, 2)), "3 entries but the embeddings 4 rows"),
        (lambda: soft_token_summary(torch.zeros(1, 2, 3), torch.zeros(3, 2), torch.ones(1, 3)), "`mask` has shape"),
        (lambda: alignment_loss(torch.zeros(1, 2), torch.zeros(2, 2)), "must both have shape"),
        (lambda: alignment_loss(torch.zeros(1, 2), torch.zeros(1, 2), distance="dot"), "'dot'"),
        (lambda: scheduled_weight(1.0, "step", 0.0, 0.0), "'step'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError) as info:
        call()
    assert message in str(info.value)


def test_schedule():
    def values(schedule, warmup, points=(0, 0.1, 0.2, 0.6, 1.0)):
        return [scheduled_weight(2.0, schedule, warmup, progress) for progress in points]

    assert values("constant", 0.0) == [2.0] * 5
    assert values("constant", 0.2) == pytest.approx([0, 1, 2, 2, 2])
    assert values("linear_decay", 0.0) == pytest.approx([2, 1.8, 1.6, 0.8, 0])
    assert values("linear_decay", 0.2) == pytest.approx([0, 1, 2, 1, 0])
    assert values("cosine_decay", 0.2) == pytest.approx([0, 1, 2, 1, 0])
    assert values("cosine_decay", 0.0, (0.25,)) == pytest.approx([1 + 2**-0.5])
    assert values("constant", 1.0) == pytest.approx([0, 0.2, 0.4, 1.2, 2.0])
