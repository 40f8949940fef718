"""Spanish: "cuántos" agrees with the noun, no subject pronouns, the subject after the verb in questions."""

from .concepts import NAMES
from .language import Language, forms


SPANISH = Language(
    code="es",
    name="Spanish",
    templates={
        "has": "{name} tiene {n} {noun}.",
        "event": "{name} {verb} {n} {noun}",
        "then": "Luego {verb} {n} {noun}",
        "last": "Finalmente {verb} {n} {noun}",
        "ask": "¿{many} {noun} tiene {name} ahora?",
        "first": "Al principio {name} tiene {n} {noun}.",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "La respuesta es {n}.",
        "stop": ".",
    },
    pronouns={"f": "", "m": ""},
    names=forms(["name"], {name: name for name in NAMES}),
    nouns=forms(
        ["noun", "many"],
        {
            "mangoes": ("mangos", "Cuántos"),
            "oranges": ("naranjas", "Cuántas"),
            "bananas": ("plátanos", "Cuántos"),
            "eggs": ("huevos", "Cuántos"),
            "books": ("libros", "Cuántos"),
            "pens": ("bolígrafos", "Cuántos"),
            "chairs": ("sillas", "Cuántas"),
            "cups": ("tazas", "Cuántas"),
            "plates": ("platos", "Cuántos"),
            "flowers": ("flores", "Cuántas"),
            "shirts": ("camisas", "Cuántas"),
            "bags": ("bolsas", "Cuántas"),
            "keys": ("llaves", "Cuántas"),
            "tickets": ("boletos", "Cuántos"),
            "balls": ("pelotas", "Cuántas"),
            "coins": ("monedas", "Cuántas"),
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "compra",
            "find": "encuentra",
            "receive": "recibe",
            "collect": "recoge",
            "win": "gana",
            "take": "toma",
            "sell": "vende",
            "lose": "pierde",
            "give away": "regala",
            "return": "devuelve",
            "throw away": "tira",
            "donate": "dona",
        },
    ),
)
