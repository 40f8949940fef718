"""The collator and the sampler."""

import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairing import COLUMNS, MULTIPLE, prepared
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from solar_trl import DataCollatorForPivotAlignment, ParallelGroupSampler
from solar_trl.data import PIVOT_COLUMN, PivotTable, attach_pairs, resolve_pairs


def collator_and_rows(spec, multiple_pivots="first", seed=0):
    dataset = prepared(spec)
    pairs = resolve_pairs(dataset, COLUMNS, "train dataset", multiple_pivots=multiple_pivots)
    pivots = PivotTable(seed)
    pivots.add(dataset.select([0]), resolve_pairs(prepared([("en", 0, [1]), ("sw", 0, [1])]), COLUMNS, "other"))
    rows = attach_pairs(dataset, pairs, pivots.add(dataset, pairs), languages := [])
    rows = rows.remove_columns(["language", "parallel_id"])
    return DataCollatorForPivotAlignment(DataCollatorForLanguageModeling(pad_token_id=0), pivots), rows, languages


def pairs_of(batch, spec, indices):
    """(row, tokens of the pivot's response) by following the batch's own indices."""
    alignment = batch["alignment"]
    found = {}
    for example, pivot in zip(alignment["examples"].tolist(), alignment["pivots"].tolist(), strict=True):
        if pivot < len(alignment["rows"]):
            source, row = batch, alignment["rows"][pivot]
        else:
            source, row = alignment["pivot_batch"], pivot - len(alignment["rows"])
        labels = source["labels"][row]
        found[indices[alignment["rows"][example]]] = labels[labels != -100].tolist()
    return found


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(len(MULTIPLE))), st.integers(1, len(MULTIPLE)))
def test_every_example_meets_its_pivot_once(order, size):
    collator, rows, _ = collator_and_rows(MULTIPLE)
    indices = order[:size]
    batch = collator([rows[i] for i in indices])
    wanted = {1: [1], 5: [4]}
    assert pairs_of(batch, MULTIPLE, indices) == {i: wanted[i] for i in indices if i in wanted}
    # Appended exactly when no row of the batch is that pivot
    missing = (1 in indices and not {0, 3} & set(indices)) + (5 in indices and 4 not in indices)
    appended = batch["alignment"]["pivot_batch"]
    assert (0 if appended is None else len(appended["input_ids"])) == missing
    # The main batch is that of the inner collator
    plain = collator.collator([{k: v for k, v in rows[i].items() if not k.startswith("solar")} for i in indices])
    assert list(batch) == [*plain, "alignment"]
    assert all(torch.equal(batch[key], plain[key]) for key in plain)
    languages = batch["alignment"]["languages"]
    assert languages.shape == (size,)


def test_shared_pivot_is_appended_once():
    collator, rows, _ = collator_and_rows([("en", 1, [1]), ("sw", 1, [2]), ("th", 1, [3]), ("de", 1, [4])])
    batch = collator([rows[i] for i in (1, 2, 3)])
    assert len(batch["alignment"]["pivot_batch"]["input_ids"]) == 1
    assert batch["alignment"]["pivots"].tolist() == [3, 3, 3]


def test_rows_without_pairing_columns_pass_through():
    collator, _, _ = collator_and_rows(MULTIPLE)
    batch = collator([{"input_ids": [1, 2], "labels": [1, 2]}])
    assert "alignment" not in batch


def test_batches_can_be_pickled_and_tables_shared_with_workers():
    collator, rows, _ = collator_and_rows(MULTIPLE)
    clone = pickle.loads(pickle.dumps(collator))
    a, b = collator([rows[1], rows[5]]), clone([rows[1], rows[5]])
    assert torch.equal(a["alignment"]["pivots"], b["alignment"]["pivots"])


def test_sampled_pivots_depend_on_seed_epoch_and_item_alone():
    spec = [("en", item, [10 * item + k]) for item in range(30) for k in range(3)]
    spec += [(language, item, [7]) for item in range(30) for language in ("sw", "th")]

    def draws(seed, epoch):
        collator, rows, _ = collator_and_rows(spec, "sample", seed)
        collator.pivots.set_epoch(epoch)
        indices = list(range(90, 150))
        together = pairs_of(collator([rows[i] for i in indices]), spec, indices)
        alone = {}
        for i in indices:
            alone.update(pairs_of(collator([rows[i]]), spec, [i]))
        assert together == alone  # whatever the batch
        for i in range(90, 150, 2):
            assert together[i] == together[i + 1]  # translations share their partner
            assert together[i][0] // 10 == spec[i][1]
        return [together[i][0] % 10 for i in range(90, 150, 2)]

    assert draws(0, 0) == draws(0, 0)
    assert draws(0, 0) != draws(0, 1) and draws(0, 0) != draws(1, 0)
    counts = np.bincount([d for epoch in range(5) for d in draws(0, epoch)], minlength=3)
    assert counts.min() > 25  # of 50 each


GROUPS = st.lists(st.integers(-1, 6), min_size=0, max_size=40)


@settings(max_examples=200, deadline=None)
@given(GROUPS, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_every_row_once_per_epoch(groups, batch_size, seed, epoch):
    sampler = ParallelGroupSampler(groups, batch_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(groups))) and len(sampler) == len(groups)
    again = ParallelGroupSampler(groups, batch_size, seed)
    again.set_epoch(epoch)
    assert list(again) == order


def splits(groups, order, batch_size):
    """How many groups lie in more batches than they need to."""
    batches = {}
    for position, row in enumerate(order):
        if groups[row] >= 0:
            batches.setdefault(groups[row], set()).add(position // batch_size)
    sizes = np.bincount([g for g in groups if g >= 0])
    return sum(len(batches[g]) > -(-sizes[g] // batch_size) for g in batches)


@pytest.mark.parametrize(
    ("groups", "batch_size", "allowed"),
    [
        (np.repeat(np.arange(50), 4), 8, 0),  # two groups fill a batch
        (np.repeat(np.arange(50), 4), 4, 0),
        (np.concatenate([np.repeat(np.arange(40), 3), np.full(60, -1)]), 4, 2),  # singles fill the gaps
        (np.concatenate([np.repeat(np.arange(40), 5), np.repeat(np.arange(40, 80), 3)]), 8, 2),
        (np.repeat(np.arange(40), 11), 16, 25),  # nothing fits beside a group: every boundary but two splits one
        (np.repeat(np.arange(20), 10), 4, 10),  # larger than a batch: 3 batches each, where it starts one
    ],
)
def test_groups_stay_whole_where_they_can(groups, batch_size, allowed):
    groups = np.random.default_rng(0).permutation(groups)
    sampler = ParallelGroupSampler(groups, batch_size)
    assert splits(groups, list(sampler), batch_size) <= allowed
    # The measure itself is not blind
    assert splits(groups, np.random.default_rng(1).permutation(len(groups)), batch_size) > len(set(groups)) // 2


@pytest.mark.parametrize("batch_size", [8, 16, 32])
@pytest.mark.parametrize("sizes", [(1, 4), (3, 4), (1, 11), (2, 6, 11), (5, 8)])
def test_groups_of_all_sizes_come_all_through_the_epoch(sizes, batch_size):
    """Large groups hold the languages with few rows: none may be used up early."""
    rng = np.random.default_rng(0)
    size_of = rng.choice(sizes, 3000)
    groups = rng.permutation(np.repeat(np.arange(3000), size_of))
    order = list(ParallelGroupSampler(groups, batch_size))
    for size in sizes:
        positions = np.array([i for i, row in enumerate(order) if size_of[groups[row]] == size]) / len(order)
        counts, _ = np.histogram(positions, bins=5, range=(0, 1))
        # An even fifth each, but for chance and for what is left over at the end
        assert abs(positions.mean() - 0.5) < 0.06 and counts.min() > 0.7 * counts.mean(), (size, counts)


def test_another_order_each_epoch_and_seed():
    sampler = ParallelGroupSampler(np.repeat(np.arange(20), 3), 6)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    orders.append(tuple(ParallelGroupSampler(np.repeat(np.arange(20), 3), 6, seed=1)))
    assert len(set(orders)) == 4
    # Groups change their company too
    companions = [
        frozenset(frozenset(row // 3 for row in order[i : i + 6]) for i in range(0, 60, 6)) for order in orders
    ]
    assert len(set(companions)) == 4


def test_sampler_bad_input():
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        ParallelGroupSampler([1, 2], 0)


def test_pivot_table_forgets_what_is_truncated():
    collator, rows, _ = collator_and_rows(MULTIPLE)
    pivots = collator.pivots
    size = len(pivots)
    dataset = Dataset.from_list([pivots[0], pivots[1]])
    pairs = resolve_pairs(prepared([("en", 0, [1]), ("sw", 0, [1])]), COLUMNS, "x")
    assert pivots.add(dataset, pairs) == size
    pivots.truncate_last()
    assert len(pivots) == size
    with pytest.raises(IndexError):
        pivots[size]
    assert rows[1][PIVOT_COLUMN] < size
