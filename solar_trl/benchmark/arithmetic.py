"""Parallel arithmetic word problems with step-by-step solutions, in the long format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets import Dataset, Features, Value

from ..evaluation.answers import extract_number
from .clones import clone_text, is_clone, parse_clone
from .items import SPLITS, Item, ProblemSpace
from .languages import LANGUAGES


_FEATURES = Features(
    {
        "prompt": Value("string"),
        "completion": Value("string"),
        "answer": Value("string"),
        "language": Value("string"),
        "parallel_id": Value("int64"),
        "steps": Value("int64"),
    }
)
_BASE_FEATURES = Features({"text": Value("string"), "language": Value("string")})


def load_parallel_arithmetic(
    languages: Sequence[str] = tuple(LANGUAGES),
    n: int = 1000,
    seed: int = 0,
    split: str = "train",
    resources: Mapping[str, int | float] | None = None,
    steps: Sequence[int] = (1, 2),
    max_number: int = 30,
    max_amount: int = 9,
    num_pieces: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """
    Parallel word problems with solutions: every item in every language, in the same order for each.

    The texts are templated: somebody has a number of things, gains or loses some in each step, and the question is how
    many there are in the end. The solution retells each step with its calculation and ends in a sentence with the
    answer. Everything is made on the spot, offline; same arguments, same rows. No native speaker has reviewed the
    languages.

    Splits are disjoint by construction: a hash of its calculation (such as 12 + 5 - 3) puts an item into a split, so
    that no calculation of the test split occurs as a whole in training or in [`load_base_corpus`], for any seeds.
    Within a split all items are different. A larger `n` gives the same items and then more.

    Args:
        languages (`Sequence[str]`, *optional*):
            `"en"`, `"de"`, `"es"`, `"sw"`, `"th"`, `"bn"`, `"te"`, `"zh"`, `"ja"` (all by default), and clones of
            English such as `"en-x1"`, see [`clone_language`].
        n (`int`, *optional*, defaults to `1000`):
            Items. Each has one row per language.
        seed (`int`, *optional*, defaults to `0`):
            Which items. Items of different seeds overlap by chance only, but see `num_pieces`.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"validation"` or `"test"`: 45, 10 and 20 % of all calculations. The other 25 % are those of the
            base corpus.
        resources (`Mapping[str, int | float]`, *optional*):
            How many of the items a language has: a number of rows (`int`) or a share of `n` (`float`). Languages not
            named have all. They are always the first items, so that a language with fewer has a subset of those
            with more, in one dataset and from one to the next, and English has the parallel of every row.
        steps (`Sequence[int]`, *optional*, defaults to `(1, 2)`):
            Numbers of reasoning steps, of 1 to 3, in turn: each is as frequent as the others.
        max_number (`int`, *optional*, defaults to `30`):
            Largest number that occurs. The tokenizer needs the same, see [`build_tokenizer`].
        max_amount (`int`, *optional*, defaults to `9`):
            Largest amount gained or lost in a step. The smallest is 2, so that every noun is a plural.
        num_pieces (`int`, *optional*):
            Cut the split into so many disjoint pieces and draw from piece number `seed`, so that no two seeds share an
            item.
        split_seed (`int`, *optional*, defaults to `0`):
            Another cut into splits. Only datasets with the same split seed are disjoint.

    Returns:
        [`~datasets.Dataset`]: Item by item, `prompt`, `completion` (it starts with a space, so that the prompt's
        tokens are a prefix of the whole), `answer` (digits), `language`, `parallel_id` (number of the item in this
        dataset, from 0) and `steps`.

    Raises:
        ValueError: If a language, the split or an option is unknown or out of range, there are fewer than `n` items,
            or English would lack an item of another language.
        TypeError: If a resource is neither a number of rows nor a share.

    Examples:
    ```python
    >>> from solar_trl.benchmark import load_parallel_arithmetic

    >>> dataset = load_parallel_arithmetic(["en", "de", "sw"], n=100, resources={"sw": 10})
    >>> len(dataset), dataset["language"][:].count("sw")
    (210, 10)
    ```
    """
    check_languages(languages)
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}, expected one of {', '.join(map(repr, SPLITS))}.")
    _check_count("n", n)
    counts = _rows_per_language(languages, n, resources or {})
    space = ProblemSpace(split, tuple(steps), max_number, max_amount, split_seed)
    rows: dict[str, list] = {name: [] for name in _FEATURES}
    for parallel_id, item in enumerate(space.sample(n, seed, num_pieces)):
        for language in languages:
            if parallel_id < counts[language]:
                story, question, solution = render(item, language)
                row = {
                    "prompt": f"{story} {question}",
                    "completion": f" {solution}",
                    "answer": str(item.answer),
                    "language": language,
                    "parallel_id": parallel_id,
                    "steps": len(item.deltas),
                }
                for name, value in row.items():
                    rows[name].append(value)
    return Dataset.from_dict(rows, features=_FEATURES)


def load_base_corpus(
    languages: Sequence[str] = tuple(LANGUAGES),
    n_solved: int = 10_000,
    n_stories: int = 10_000,
    seed: int = 0,
    steps: Sequence[int] = (1, 2),
    max_number: int = 30,
    max_amount: int = 9,
    num_pieces: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """
    Text for a base model that solves problems in English and has seen the other languages, but no solution in them.

    Its items are disjoint from the three splits of [`load_parallel_arithmetic`], for any seeds.

    Args:
        languages (`Sequence[str]`, *optional*):
            Of the stories, in turn; clones included.
        n_solved (`int`, *optional*, defaults to `10000`):
            Rows with a problem and its solution, in English.
        n_stories (`int`, *optional*, defaults to `10000`):
            Rows with two stories (about as long as a solved problem) without question or solution, over all languages
            together. Every story is an item of its own: no two languages tell the same one.
        seed, steps, max_number, max_amount, num_pieces, split_seed:
            As in [`load_parallel_arithmetic`].

    Returns:
        [`~datasets.Dataset`]: `text` and `language`; solved problems first, then stories. Shuffle it.

    Raises:
        ValueError: As in [`load_parallel_arithmetic`].
    """
    check_languages(languages)
    _check_count("n_solved", n_solved)
    _check_count("n_stories", n_stories)
    space = ProblemSpace("base", tuple(steps), max_number, max_amount, split_seed)
    items = space.sample(n_solved + 2 * n_stories, seed, num_pieces)
    rows: dict[str, list[str]] = {"text": [], "language": []}
    for item in items[:n_solved]:
        rows["text"].append(" ".join(render(item, "en")))
        rows["language"].append("en")
    for i in range(n_stories):
        language = languages[i % len(languages)]
        pair = items[n_solved + 2 * i : n_solved + 2 * i + 2]
        rows["text"].append(" ".join(render(item, language)[0] for item in pair))
        rows["language"].append(language)
    return Dataset.from_dict(rows, features=_BASE_FEATURES)


def render(item: Item, language: str) -> tuple[str, str, str]:
    """The story, the question and the solution of an item in one language or clone."""
    if is_clone(language):
        story, question, solution = (clone_text(text, language) for text in render(item, "en"))
        return story, question, solution
    words = LANGUAGES[language]
    return words.story(item), words.question(item), words.solution(item)


def final_answer(text: str) -> str | None:
    """
    The answer in a response to one of the problems, in any of their languages; `None` if there is no number.

    It is read by [`~solar_trl.evaluation.extract_number`], as the answers of other benchmarks are.
    """
    return extract_number(text)


def check_languages(languages: Sequence[str]) -> None:
    """Refuse languages that the benchmark does not have."""
    if isinstance(languages, str):
        raise TypeError(f"`languages` is {languages!r}, expected a list of codes such as [{languages!r}].")
    if not languages:
        raise ValueError(f"`languages` is empty, expected codes such as {', '.join(map(repr, LANGUAGES))}.")
    for code in languages:
        if is_clone(code):
            parse_clone(code)
        elif code not in LANGUAGES:
            raise ValueError(
                f"The benchmark has no language {code!r}. It has {', '.join(map(repr, LANGUAGES))}, and clones of "
                "English such as 'en-x1'."
            )
    if len(set(languages)) < len(languages):
        raise ValueError(f"`languages` names a language twice: {list(languages)}.")


def _check_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"`{name}` is {count!r}, expected a whole number.")
    if count < 0:
        raise ValueError(f"`{name}` is {count}, expected at least 0.")


def _rows_per_language(languages: Sequence[str], n: int, resources: Mapping[str, int | float]) -> dict[str, int]:
    counts = dict.fromkeys(languages, n)
    for language, amount in resources.items():
        if language not in counts:
            raise ValueError(f"`resources` names {language!r}, which is not in `languages` ({list(languages)}).")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(f"`resources[{language!r}]` is {amount!r}, expected rows (int) or a share (float).")
        limit = f"{n} rows (`n`)" if isinstance(amount, int) else "a share of 1"
        if not 0 <= amount <= (n if isinstance(amount, int) else 1):
            raise ValueError(
                f"`resources[{language!r}]` is {amount}, expected from 0 to {limit}. Rows are whole numbers, shares "
                "have a decimal point."
            )
        counts[language] = amount if isinstance(amount, int) else round(amount * n)
    most = max(counts, key=lambda language: counts[language])
    if "en" in counts and counts["en"] < counts[most]:
        raise ValueError(
            f"`resources` gives English {counts['en']} rows and {most!r} {counts[most]}: English is the pivot and "
            "must have the items of all others. Raise it or leave it out, which gives it all."
        )
    return counts
