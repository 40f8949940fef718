"""Named points in the frame of alignment objectives. To add one, describe it here."""

from __future__ import annotations

from .frame import Objective
from .sources import AFP, CAO, FILTER, INFOXLM, MID_ALIGN, MINOTAUR, SOLAR


# `None` turns alignment off
OBJECTIVES: dict[str, Objective | None] = {
    "solar": Objective(
        description="Cosine distance between the soft-token summary of each response and that of its pivot parallel.",
        source=SOLAR,
        status="abstract",
        choices="Only the abstract is public: temperature, top-k, the detached pivot, the pooled positions and the "
        "weight are our choices.",
    ),
    "mid_align": Objective(
        description="InfoNCE between the mean hidden states of parallel prompts at half depth.",
        representation="hidden_state",
        layers=(0.5,),
        positions="prompt",
        distance="info_nce",
        temperature=0.1,
        pivot_gradient="both",
        source=MID_ALIGN,
        status="adapted",
        choices="The original aligns plain parallel sentences, alternates task and alignment micro-batches, and takes "
        "every other sentence of the micro-batch as a negative (16 of 32 layers, temperature 0.1, gradient to both "
        "sides). Here the prompts of the training rows are aligned along with the task, and translations of the same "
        "item are no negatives. `alignment_dataset`, `alignment_alternate`, `positions='all'` and `negatives='naive'` "
        "give the original.",
    ),
    "hidden_cosine": Objective(
        description="Cosine distance between the mean last hidden states of parallel responses.",
        representation="hidden_state",
        layers=(-1,),
        status="control",
        choices="SOLAR with hidden states in place of soft tokens, at the same positions and with the same distance.",
    ),
    "soft_info_nce": Objective(
        description="InfoNCE between the soft-token summaries of parallel responses.",
        distance="info_nce",
        temperature=0.1,
        status="control",
        choices="SOLAR with a contrastive distance, which a collapse of all summaries does not meet.",
    ),
    "hard_token": Objective(
        description="Cosine distance between the mean embeddings of the tokens of parallel responses.",
        representation="hard_token",
        status="control",
        choices="SOLAR with the tokens of the response in place of the predicted probabilities. Only the embeddings "
        "feel it.",
    ),
    "l2_anchor": Objective(
        description="Mean squared difference of the mean hidden states of parallels at half depth, with the pivot "
        "kept near its start.",
        representation="hidden_state",
        layers=(0.5,),
        positions="all",
        distance="mse",
        pivot_gradient="both",
        anchor_weight=1.0,
        source=CAO,
        status="adapted",
        choices="The original aligns words of parallel sentences in an encoder, by a word aligner; here whole "
        "examples are aligned. Squared differences are averaged, not summed, over the dimensions.",
    ),
    "afp": Objective(
        description="InfoNCE between the last-token states of parallel prompts after the first block.",
        representation="hidden_state",
        layers=(1,),
        positions="prompt",
        pooling="last",
        distance="info_nce",
        temperature=0.05,
        direction="from_pivot",
        gather=True,
        pivot_gradient="both",
        source=AFP,
        status="adapted",
        choices="Layer, pooling, temperature, direction and gathering over ranks are those of the authors' code, "
        "which weights the language model loss with 1.5 (`alignment_weight=0.67` here). Translations of the same item "
        "are no negatives unless `negatives='naive'`; gathered negatives pass gradients to their ranks.",
    ),
    "soft_mmd": Objective(
        description="Maximum mean discrepancy (inverse multiquadric kernel) between the soft tokens of parallel "
        "responses.",
        pooling="none",
        distance="mmd",
        source=MINOTAUR,
        status="adapted",
        choices="The original compares latent states of an encoder, together with a divergence of posteriors that a "
        "decoder does not have. The width of the kernel follows the size of the pivot's tokens, and scales are "
        "averaged, not summed.",
    ),
    "info_xlm": Objective(
        description="InfoNCE against a queue of pivots from a momentum model, on the last token of prompts at two "
        "thirds of the depth.",
        representation="hidden_state",
        layers=(2 / 3,),
        positions="prompt",
        pooling="last",
        distance="info_nce",
        temperature=0.25,
        pivot_gradient="momentum",
        queue_size=256,
        source=INFOXLM,
        status="adapted",
        choices="The original takes the first token (layer 8 of 12), which sees nothing in a decoder, and dot "
        "products of an encoder's states; here the last token and cosines (`normalize=False` for dot products). Queue "
        "and temperature are the defaults of the authors' code; the momentum is ours.",
    ),
    "centroid": Objective(
        description="Cosine distance between the soft-token summary of each response and the mean over the other "
        "languages of its item.",
        target="centroid",
        status="control",
        choices="Our reading of a barycentre of all languages: for one vector per language under squared Euclidean "
        "distance it is the mean. Needs the translations of an item in one batch (`pivot_batching='grouped'`).",
    ),
    "answer_kl": Objective(
        description="Kullback-Leibler divergence from the pivot's next-token distribution where both languages give "
        "the same token at the end of the response.",
        representation="logits",
        positions="answer",
        pooling="none",
        distance="kl",
        temperature=1.0,
        source=FILTER,
        status="adapted",
        choices="The original is for encoders with one label per example (temperature 0.1 for classification, 6 for "
        "question answering). Here the shared tokens are a longest common subsequence of the last `answer_tokens`.",
    ),
    "none": None,
}
