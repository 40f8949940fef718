"""The model card names the method, its settings and the pairs."""

import pytest
from helpers import SPEC, solar_trainer, token_rows
from models import tiny_model

from solar_trl.model_card import SETTINGS, add_alignment_section
from solar_trl.objectives import OBJECTIVES


def test_card_of_a_saved_checkpoint(tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("qwen3"),
        token_rows(SPEC),
        tokenizer,
        tmp_path,
        config={"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "alignment_weight": 0.7},
    )
    trainer.train()
    card = (tmp_path / "solar" / "README.md").read_text()
    for part in (
        "2606.26466",
        "he2026solar",
        "| `alignment_weight` | `0.7` |",
        "- solar",
        "This model was trained with SOLAR",
    ):
        assert part in card, part
    assert all(f"`{name}`" in card for name in SETTINGS)
    assert "| sw | 3 | 2 | 1 |" in card
    assert card.index("Cross-lingual alignment") < card.index("### Framework versions")
    trainer.create_model_card()
    assert (tmp_path / "solar" / "README.md").read_text().count("### Cross-lingual alignment") == 1


def test_card_without_alignment(tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={"max_steps": 1, "alignment_weight": 0.0}
    )
    trainer.create_model_card()
    assert "Alignment was off." in (tmp_path / "solar" / "README.md").read_text()


def test_card_of_another_shape(tokenizer, tmp_path):
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path)
    path = tmp_path / "README.md"
    path.write_text("# Mine\n")
    add_alignment_section(path, trainer.args, None)
    assert path.read_text().startswith("# Mine\n\n### Cross-lingual alignment\n")


@pytest.mark.parametrize("preset", [name for name, objective in OBJECTIVES.items() if objective])
def test_card_names_the_objective(preset, tokenizer, tmp_path):
    """Each preset is named with its own source, and nothing is ascribed to SOLAR that is not."""
    trainer = solar_trainer(
        tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config={"alignment_objective": preset}
    )
    trainer.create_model_card()
    card, objective = (tmp_path / "solar" / "README.md").read_text(), OBJECTIVES[preset]
    assert objective.description in card and objective.choices in card
    assert "Changed from the preset" not in card
    assert f"| `alignment_objective` | `{preset!r}` |" in card and f"- {preset.replace('_', '-')}\n" in card
    if objective.source is not None:
        assert objective.source.citation in card and objective.source.title in card
    assert ("2606.26466" in card) == (preset == "solar")


def test_card_names_what_was_changed(tokenizer, tmp_path):
    config = {"alignment_objective": "mid_align", "alignment_kwargs": {"layers": [1], "negatives": "naive"}}
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config)
    trainer.create_model_card()
    card = (tmp_path / "solar" / "README.md").read_text()
    assert "Changed from the preset: `layers`, `negatives`." in card and "negatives `'naive'`" in card
