"""Papers that objectives come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """
    A paper on arXiv.

    Args:
        key (`str`): Of the BibTeX entry.
        title (`str`): Its title.
        authors (`str`): As in BibTeX.
        year (`int`): Of the first version.
        number (`str`): Its arXiv identifier.
    """

    key: str
    title: str
    authors: str
    year: int
    number: str

    @property
    def citation(self) -> str:
        """BibTeX."""
        return f"""\
@article{{{self.key},
    title         = {{{{{self.title}}}}},
    author        = {{{self.authors}}},
    year          = {{{self.year}}},
    eprint        = {{{self.number}}},
    archivePrefix = {{arXiv}}
}}"""


SOLAR = Source(
    "he2026solar",
    "Soft Token Alignment for Cross-Lingual Reasoning",
    "He, Jiayi and Park, Jungsoo and Xu, Wei and Ritter, Alan",
    2026,
    "2606.26466",
)
MID_ALIGN = Source(
    "liu2025middle",
    "Middle-Layer Representation Alignment for Cross-Lingual Transfer in Fine-Tuned LLMs",
    "Liu, Danni and Niehues, Jan",
    2025,
    "2502.14830",
)
AFP = Source(
    "li2023improving",
    "Improving In-context Learning of Multilingual Generative Language Models with Cross-lingual Alignment",
    "Li, Chong and Wang, Shaonan and Zhang, Jiajun and Zong, Chengqing",
    2023,
    "2311.08089",
)
CAO = Source(
    "cao2020multilingual",
    "Multilingual Alignment of Contextual Word Representations",
    "Cao, Steven and Kitaev, Nikita and Klein, Dan",
    2020,
    "2002.03518",
)
MINOTAUR = Source(
    "sherborne2023optimal",
    "Optimal Transport Posterior Alignment for Cross-lingual Semantic Parsing",
    "Sherborne, Tom and Hosking, Tom and Lapata, Mirella",
    2023,
    "2307.04096",
)
INFOXLM = Source(
    "chi2020infoxlm",
    "InfoXLM: An Information-Theoretic Framework for Cross-Lingual Language Model Pre-Training",
    "Chi, Zewen and Dong, Li and Wei, Furu and Yang, Nan and Singhal, Saksham and Wang, Wenhui and Song, Xia and Mao, "
    "Xian-Ling and Huang, Heyan and Zhou, Ming",
    2020,
    "2007.07834",
)
FILTER = Source(
    "fang2020filter",
    "FILTER: An Enhanced Fusion Method for Cross-lingual Language Understanding",
    "Fang, Yuwei and Wang, Shuohang and Gan, Zhe and Sun, Siqi and Liu, Jingjing",
    2020,
    "2009.05166",
)
