"""Streams whose rows carry their pivot: what `carry_pivots` makes of a stream, against brute force."""

import itertools
import json
from collections import Counter

import pytest
from accelerate.data_loader import prepare_data_loader
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
    concatenate_datasets,
    interleave_datasets,
)
from datasets import load_dataset as load
from datasets.distributed import split_dataset_by_node
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from solar_trl.data import assign_parallel_id, carry_pivots, concatenate_parallel, to_long_format
from solar_trl.data.example_iterables import endless, in_one_shard


def make_rows(items):
    """One row per language of each item, each with a text of its own."""
    return [
        {"text": f"{n}.{i} {language}", "language": language, "parallel_id": item}
        for n, (item, languages) in enumerate(items)
        for i, language in enumerate(languages)
    ]


def stream_of(rows, num_shards=1):
    """A stream of shards that hold whole items."""
    runs = [[row] for row in rows[:1]]
    for before, row in itertools.pairwise(rows):
        same = row["parallel_id"] not in (None, "") and row["parallel_id"] == before["parallel_id"]
        runs[-1].append(row) if same else runs.append([row])

    def read(shards):
        for shard in shards:
            yield from (dict(row) for run in shard for row in run)

    shards = [tuple(tuple(run) for run in runs[i::num_shards]) for i in range(num_shards)]
    return IterableDataset.from_generator(read, gen_kwargs={"shards": shards})


def expected_pivots(rows):
    """Text of each row -> text of the first pivot of its run of equal ids, or `None`."""
    found = {}
    for i, row in enumerate(rows):
        same = range(i, i + 1)
        if row["parallel_id"] not in (None, ""):
            start, stop = i, i + 1
            while start and rows[start - 1]["parallel_id"] == row["parallel_id"]:
                start -= 1
            while stop < len(rows) and rows[stop]["parallel_id"] == row["parallel_id"]:
                stop += 1
            same = range(start, stop)
        pivots = [
            rows[k]["text"] for k in same if rows[k]["language"] == "en" and row["parallel_id"] not in (None, "")
        ]
        found[row["text"]] = None if row["language"] == "en" or not pivots else pivots[0]
    return found


def carried(rows):
    return {row["text"]: row["pivot"] and row["pivot"]["text"] for row in rows}


ITEMS = [(item, ["sw", "en", "th", "de"][item % 2 : 2 + item % 3]) for item in range(30)]
LANGUAGES = st.lists(st.sampled_from(["en", "sw", "th"]), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 4), st.none()), LANGUAGES), min_size=1, max_size=12),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 20)),
    st.integers(0, 2),
)
def test_every_row_once_with_its_pivot(items, num_shards, shuffle_buffer, epoch):
    """Ids that come again, rows without an id, several pivots and none, in any order and number of shards."""
    # Runs of equal ids in different shards, or one after the other in a shard, would be other items
    items = [(item, languages) for i, (item, languages) in enumerate(items) if not i or item != items[i - 1][0]]
    num_shards = 1 if len({item for item, _ in items}) < len(items) else num_shards
    rows = make_rows(items)
    stream = carry_pivots(
        stream_of(rows, num_shards), multiple_pivots="first", shuffle_buffer=shuffle_buffer, seed=epoch
    )
    stream.set_epoch(epoch)
    out = list(stream)
    assert sorted(row["text"] for row in out) == sorted(row["text"] for row in rows)
    assert carried(out) == expected_pivots(rows)
    originals = {row["text"]: row for row in rows}
    for row in out:
        pivot = row.pop("pivot")
        assert row == originals[row["text"]]
        assert pivot is None or pivot == originals[pivot["text"]]
    # Items stay whole, and in their own order; rows without an id are on their own
    places = [tuple(int(x) for x in row["text"].split()[0].split(".")) for row in out]
    units = [n if items[n][0] is not None else (n, i) for n, i in places]
    runs = [list(run) for _, run in itertools.groupby(range(len(out)), key=units.__getitem__)]
    assert len(runs) == len(set(units))
    assert all([places[k] for k in run] == sorted(places[k] for k in run) for run in runs)


def test_features_are_kept():
    rows = make_rows(ITEMS)
    table = Dataset.from_list(rows).cast_column("parallel_id", Value("int32"))
    plain = carry_pivots(table.to_iterable_dataset(3))
    assert plain.features == Features({**table.features, "pivot": dict(table.features)})
    labels = table.cast_column("language", ClassLabel(names=["de", "en", "sw", "th"]))
    stream = carry_pivots(labels.to_iterable_dataset(3))
    assert list(stream) == list(plain) and stream.features == plain.features
    # Types are still applied by whatever comes next
    mixed = interleave_datasets([plain, plain], stopping_strategy="all_exhausted")
    assert mixed.features == plain.features
    assert list(mixed)[::2] == list(plain) == list(mixed.map())[1::2]


def test_splits_files_and_several_id_columns(tmp_path):
    rows = [
        {"text": f"{s}{i}{x}", "language": x, "source": s, "id": i} for s in "ab" for i in (1, 2) for x in ("en", "sw")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    splits = load("json", data_files={"train": str(path)}, streaming=True, cache_dir=str(tmp_path))
    found = carry_pivots(splits, parallel_id_column=["source", "id"], pivot_language=["eng", "en"])
    assert isinstance(found, IterableDatasetDict)
    assert carried(found["train"]) == {
        row["text"]: None if row["language"] == "en" else row["text"][:2] + "en" for row in rows
    }


def counted(n_items, languages=("en", "sw", "th")):
    """A stream that counts the rows that were read from it."""
    read = Counter()

    def rows():
        for row in make_rows([(item, list(languages)) for item in range(n_items)]):
            read["rows"] += 1
            yield row

    return IterableDataset.from_generator(rows), read


@pytest.mark.parametrize("shuffle_buffer", [None, 1, 10])
def test_bounded_memory(shuffle_buffer):
    """Never more rows are read ahead than the buffer, the item at hand and the first row of the next one."""
    stream, read = counted(400)
    ahead = []
    carrying = carry_pivots(stream, shuffle_buffer=shuffle_buffer)
    read.clear()  # the first row, which shows the columns
    for given_out, _ in enumerate(carrying):
        ahead.append(read["rows"] - given_out)
    bound = 3 * (shuffle_buffer or 1) + 3 + 1
    assert len(ahead) == read["rows"] == 1200
    # The interleaving of shards, which `shuffle` puts first, holds an item more
    assert max(ahead) <= bound + (0 if shuffle_buffer is None else 2 * 3)


def test_an_item_without_end():
    stream = IterableDataset.from_generator(lambda: (dict(make_rows([(0, ["sw"])])[0]) for _ in range(20_000)))
    with pytest.raises(ValueError, match="More than 10,000 rows in a row have the id 0"):
        list(carry_pivots(stream))


@pytest.mark.parametrize("shuffle_buffer", [None, 7])
@pytest.mark.parametrize(("num_shards", "ranks", "workers"), [(1, 2, 0), (1, 1, 2), (3, 2, 2), (4, 2, 2), (5, 3, 0)])
def test_every_row_once_over_shards_ranks_and_workers(num_shards, ranks, workers, shuffle_buffer):
    rows = make_rows(ITEMS)
    stream = carry_pivots(stream_of(rows, num_shards), multiple_pivots="first", shuffle_buffer=shuffle_buffer)
    assert stream.num_shards == num_shards
    out = []
    for rank in range(ranks):
        part = split_dataset_by_node(stream, rank=rank, world_size=ranks)
        out += DataLoader(part, batch_size=None, num_workers=workers)
    assert sorted(row["text"] for row in out) == sorted(row["text"] for row in rows)
    assert carried(out) == expected_pivots(rows)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_every_row_once_as_accelerate_splits(num_shards, workers):
    rows = make_rows([(item, ["en", "sw", "th", "de"]) for item in range(12)])
    stream = carry_pivots(stream_of(rows, num_shards))
    out = []
    for rank in range(2):
        loader = DataLoader(stream, batch_size=4, collate_fn=list, num_workers=workers)
        out += prepare_data_loader(loader, num_processes=2, process_index=rank, dispatch_batches=False)
    out = [row for batch in out for row in batch]
    assert sorted(row["text"] for row in out) == sorted(row["text"] for row in rows)
    assert carried(out) == expected_pivots(rows)


def test_order_by_seed_and_epoch():
    rows = make_rows([(item, ["en", "sw"]) for item in range(40)])

    def order(seed, epoch, num_shards=2):
        stream = carry_pivots(stream_of(rows, num_shards), shuffle_buffer=15, seed=seed)
        stream.set_epoch(epoch)
        return [row["parallel_id"] for row in stream]

    assert order(0, 0) == order(0, 0) and order(0, 1) == order(0, 1)
    orders = [tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert order(0, 0)[::2] == order(0, 0)[1::2]  # whole items
    assert len(set(order(0, 0)[:30])) > 12 and max(order(0, 0, 1)[:10]) > 10  # and not nearly in the old order


def test_sources_whose_ids_collide():
    """Each row has the pivot of its own source, however the sources are mixed afterwards."""
    sources = [
        [{**row, "text": f"{name} {row['text']}"} for row in make_rows([(i, ["en", "sw"]) for i in range(20)])]
        for name in ("a", "b")
    ]
    streams = [
        carry_pivots(Dataset.from_list(rows).to_iterable_dataset(), shuffle_buffer=5, seed=i)
        for i, rows in enumerate(sources)
    ]
    for probabilities in (None, [0.3, 0.7]):
        mixed = list(interleave_datasets(streams, probabilities, seed=1, stopping_strategy="all_exhausted"))
        assert {row["text"][0] for row in mixed[:10]} == {"a", "b"}
        assert len({row["text"] for row in mixed}) == 80
        for row in mixed:
            assert (row["pivot"] is None) == (row["language"] == "en")
            assert row["pivot"] is None or row["pivot"]["text"].split(".")[0] == row["text"].split(".")[0]
    # Before, they are one item, and its pivots clash
    with pytest.raises(ValueError, match="parallel_id=0 has 2 pivots of different content"):
        list(carry_pivots(interleave_datasets([Dataset.from_list(rows).to_iterable_dataset() for rows in sources])))


def test_wide_rows_and_files_by_language():
    """What the other helpers make of streams has the translations of an item next to each other."""
    wide = Dataset.from_list(
        [{"q": f"q{i}", "sw_q": f"sw{i}", "th_q": f"th{i}" if i % 2 else None} for i in range(50)]
    )
    stream = wide.to_iterable_dataset(2).shuffle(seed=3, buffer_size=10)
    stream = carry_pivots(to_long_format(stream, fields="q"))
    orders = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        out = list(stream)
        assert len(out) == 125
        for row in out:
            assert row["pivot"] is None if row["language"] == "en" else row["pivot"]["q"] == "q" + row["q"][2:]
        orders.append([row["q"] for row in out])
    assert orders[0] != orders[1]  # the shuffling of the wide rows follows the epoch

    files = {name: Dataset.from_list([{"id": i, "q": f"{name}{i}"} for i in range(9)]) for name in ("en", "sw")}
    joined = concatenate_parallel({name: rows.to_iterable_dataset() for name, rows in files.items()}, on=["id"])
    assert {row["q"]: row["pivot"] and row["pivot"]["q"] for row in carry_pivots(joined)} == {
        f"{name}{i}": None if name == "en" else f"en{i}" for i in range(9) for name in ("en", "sw")
    }


def one_per_language(n, num_shards):
    """Streams of one language each; Thai lacks every seventh item, and its shards are cut elsewhere."""
    tables = {
        language: Dataset.from_list(
            [{"id": i, "text": f"{language}{i}"} for i in range(n) if language != "th" or i % 7 != 5]
        )
        for language in ("en", "sw", "th")
    }
    return {
        language: table.to_iterable_dataset(num_shards=num_shards - (language == "th" and num_shards > 1))
        for language, table in tables.items()
    }


def in_order(how, num_shards=4):
    """Streams that go by the order of all rows, with the pivot that each text should have."""
    if how == "adjacent":
        languages = [("en", "sw", "th")[: 2 + i % 2] for i in range(16)]
        rows = [{"language": x, "text": f"{x}{i}"} for i, own in enumerate(languages) for x in own]
        stream = assign_parallel_id(Dataset.from_list(rows).to_iterable_dataset(num_shards))
    else:
        parts = one_per_language(20, num_shards)
        if how == "position":
            del parts["th"]
        stream = concatenate_parallel(parts, on=None if how == "position" else "id")
        rows = [row for part in parts.values() for row in part]
    return stream, {row["text"]: None if row["text"][:2] == "en" else "en" + row["text"][2:] for row in rows}


HOW = ["position", "id", "adjacent"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2), (4, 1)])
def test_rows_in_order_are_all_read_once(how, num_shards, ranks, workers):
    """Streams that are read side by side, or numbered, are no rows short in a dataloader worker."""
    stream, pivots = in_order(how, num_shards)
    for split_first in (False, True):
        out, items = [], {}
        for rank in range(ranks):
            part = stream if ranks == 1 else split_dataset_by_node(stream, rank=rank, world_size=ranks)
            for row in DataLoader(part, batch_size=None, num_workers=workers):
                items.setdefault(row["text"][2:], set()).add(row["parallel_id"])
            part = carry_pivots(part if split_first else stream)
            if ranks > 1 and not split_first:
                part = split_dataset_by_node(part, rank=rank, world_size=ranks)
            out += DataLoader(part, batch_size=None, num_workers=workers)
        assert sorted(row["text"] for row in out) == sorted(pivots)
        assert carried(out) == pivots
        # Every item has one number, which ours are
        assert items == {str(i): {i} for i in range(len(items))}


@pytest.mark.parametrize("how", HOW)
def test_streams_that_are_split_already(how):
    """What is split over nodes before is split after, so that items stay whole until they carry their pivots."""
    out = []
    for rank in range(2):
        if how == "adjacent":
            languages = [{"language": x, "text": f"{x}{i}"} for i in range(16) for x in ("en", "sw")]
            rows = split_dataset_by_node(Dataset.from_list(languages).to_iterable_dataset(4), rank, 2)
            stream, n = assign_parallel_id(rows), 32
        else:
            parts = one_per_language(20, 4)
            if how == "position":
                del parts["th"]
            parts = {language: split_dataset_by_node(part, rank, 2) for language, part in parts.items()}
            stream, n = concatenate_parallel(parts, on=None if how == "position" else "id"), 40 + 17 * (how == "id")
        out += DataLoader(carry_pivots(stream), batch_size=None, num_workers=2)
    texts = {row["text"]: row["pivot"] and row["pivot"]["text"] for row in out}
    assert len(out) == len(texts) == n
    assert texts == {text: None if text[:2] == "en" else "en" + text[2:] for text in texts}
    parts = one_per_language(20, 4)
    parts["en"] = split_dataset_by_node(parts["en"], 0, 2)
    with pytest.raises(ValueError, match="split over nodes in different ways"):
        concatenate_parallel(parts)


@pytest.mark.parametrize("how", HOW)
def test_order_of_rows_in_order(how):
    """Epochs and shuffled shards change nothing before `carry_pivots`; its buffer shuffles whole items."""
    stream, pivots = in_order(how)
    assert stream.num_shards == 1
    straight = [row["text"] for row in stream]
    stream.set_epoch(1)
    assert [row["text"] for row in stream] == straight
    orders = []
    shuffled = carry_pivots(in_order(how)[0], shuffle_buffer=10, seed=3)
    for epoch in (0, 1):
        shuffled.set_epoch(epoch)
        rows = list(shuffled)
        assert carried(rows) == pivots and len(rows) == len(pivots)
        orders.append([row["text"] for row in rows])
        items = [text[2:] for text in orders[-1]]
        assert len([item for item, _ in itertools.groupby(items)]) == len(set(items))
    assert orders[0] != orders[1] and straight not in orders


@pytest.mark.parametrize("how", HOW)
def test_state_of_rows_in_order(how):
    straight = list(in_order(how)[0])
    for taken in range(len(straight) + 1):
        stream, _ = in_order(how)
        iterator = iter(stream)
        for _ in range(taken):
            next(iterator)
        state = json.loads(json.dumps(stream.state_dict()))
        again, _ = in_order(how)
        again.load_state_dict(state)
        assert list(again) == straight[taken:]


def continued(ids, on, taken):
    """What comes after the first rows of a join, from a state."""

    def joined():
        tables = {language: Dataset.from_dict({"id": own}) for language, own in ids.items()}
        return concatenate_parallel({x: t.to_iterable_dataset() for x, t in tables.items()}, on, check_numbers="off")

    stream, again = joined(), joined()
    iterator = iter(stream)
    for _ in range(taken):
        next(iterator)
    again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    return [f"{row['language']} {row['id']}" for row in again]


def test_state_holds_what_was_seen():
    """Ids that did not ascend before are still known, and so are the rows that were read."""
    assert continued({"en": [3, 1, 5, 6], "sw": [3, 1, 5, 6]}, "id", 4) == ["en 5", "sw 5", "en 6", "sw 6"]
    with pytest.raises(ValueError, match=r"5 in 'en' \(row 2\), 6 in 'sw' \(row 2\).*but 1 comes after 3"):
        continued({"en": [3, 1, 5, 6], "sw": [3, 1, 6]}, "id", 4)
    with pytest.raises(ValueError, match="The id 3 stands in several rows of 'en', the last of them row 1"):
        continued({"en": [3, 3], "sw": [3, 4]}, "id", 2)
    with pytest.raises(ValueError, match="'en' has 4, 'sw' has 2"):
        continued({"en": [1, 2, 3, 4], "sw": [1, 2]}, None, 2)


def test_file_by_file():
    """Joined file by file and then concatenated, a stream has shards for ranks and workers."""
    streams = one_per_language(20, 4)
    files = [
        concatenate_parallel({language: streams[language].shard(4, i) for language in ("en", "sw")}, on="id")
        for i in range(4)
    ]
    stream = carry_pivots(concatenate_datasets(files), shuffle_buffer=3)
    assert stream.num_shards == 4
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        out = []
        for rank in range(2):
            out += DataLoader(split_dataset_by_node(stream, rank, 2), batch_size=None, num_workers=2)
        assert len(out) == 40
        assert carried(out) == {f"{x}{i}": None if x == "en" else f"en{i}" for x in ("en", "sw") for i in range(20)}


@pytest.mark.parametrize("taken", [0, 1, 5, 40])
def test_state_is_that_of_the_row(taken):
    rows = make_rows(ITEMS)
    straight = [row["text"] for row in carry_pivots(stream_of(rows, 3), multiple_pivots="first")]
    stream = carry_pivots(stream_of(rows, 3), multiple_pivots="first")
    iterator = iter(stream)
    for _ in range(taken):
        next(iterator)
    state = json.loads(json.dumps(stream.state_dict()))
    again = carry_pivots(stream_of(rows, 3), multiple_pivots="first")
    again.load_state_dict(state)
    assert [row["text"] for row in again] == straight[taken:]


def test_a_stream_without_end():
    rows = make_rows([(item, ["en", "sw"]) for item in range(9)])
    stream = carry_pivots(stream_of(rows, 2), shuffle_buffer=20)
    iterator = iter(endless(stream))
    passes = [[next(iterator)["text"] for _ in range(18)] for _ in range(3)]
    for epoch, found in enumerate(passes):
        stream.set_epoch(epoch)
        assert found == [row["text"] for row in stream]
    assert len(set(map(tuple, passes))) == 3
    assert list(endless(stream.filter(lambda row: False))) == []

    # Its state too, in a later pass
    stream = endless(carry_pivots(stream_of(rows, 2)))
    iterator = iter(stream)
    for _ in range(25):
        next(iterator)
    state = stream.state_dict()
    rest = [next(iterator)["text"] for _ in range(20)]
    again = endless(carry_pivots(stream_of(rows, 2)))
    again.load_state_dict(state)
    iterator = iter(again)
    assert [next(iterator)["text"] for _ in range(20)] == rest


def test_one_shard_for_all():
    rows = make_rows(ITEMS)
    stream = in_one_shard(carry_pivots(stream_of(rows, 5), multiple_pivots="first"))
    counts, out = [], []
    for rank in range(2):
        loader = DataLoader(stream, batch_size=4, collate_fn=list, num_workers=2)
        batches = list(prepare_data_loader(loader, num_processes=2, process_index=rank, dispatch_batches=False))
        counts.append(len(batches))
        out += [row["text"] for batch in batches for row in batch]
    assert counts[0] == counts[1] and set(out) == {row["text"] for row in rows}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"language_column": "lang"}, ValueError, "no column 'lang' (`language_column`)"),
        ({"parallel_id_column": ["parallel_id", "source"]}, ValueError, "no column 'source' (`parallel_id_column`)"),
        ({"multiple_pivots": "sample"}, ValueError, "`multiple_pivots` is 'sample'"),
        ({"shuffle_buffer": 0}, ValueError, "`shuffle_buffer` is 0"),
    ],
)
def test_bad_options(change, error, message):
    with pytest.raises(error) as info:
        carry_pivots(stream_of(make_rows(ITEMS)), **change)
    assert message in str(info.value)


def test_bad_data():
    table = Dataset.from_list(make_rows(ITEMS))
    with pytest.raises(TypeError, match="to_iterable_dataset"):
        carry_pivots(table)
    with pytest.raises(ValueError, match="already has a column 'pivot'"):
        carry_pivots(carry_pivots(table.to_iterable_dataset()))
    several = make_rows([(1, ["en", "sw", "en"])])
    with pytest.raises(ValueError, match="parallel_id=1 has 2 pivots of different content"):
        list(carry_pivots(stream_of(several)))
    several[2]["text"] = several[0]["text"]  # identical ones are one
    assert [row["pivot"] is None for row in carry_pivots(stream_of(several))] == [True, False, True]
    with pytest.raises(TypeError, match="holds 7; languages must be strings"):
        list(carry_pivots(stream_of([{"text": "a", "language": 7, "parallel_id": 1}])))
    with pytest.raises(TypeError, match=r"holds 1\.5; ids must be"):
        list(carry_pivots(stream_of([{"text": "a", "language": "en", "parallel_id": 1.5}])))
