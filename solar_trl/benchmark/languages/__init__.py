"""The languages of the benchmark, one module each. Written for it by hand; no native speaker has reviewed them."""

from .bengali import BENGALI
from .chinese import CHINESE
from .english import ENGLISH
from .german import GERMAN
from .japanese import JAPANESE
from .language import Language
from .spanish import SPANISH
from .swahili import SWAHILI
from .telugu import TELUGU
from .thai import THAI


LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (ENGLISH, GERMAN, SPANISH, SWAHILI, THAI, BENGALI, TELUGU, CHINESE, JAPANESE)
}

__all__ = ["LANGUAGES", "Language"]
