"""What the problems speak of. Every language has a word for each concept."""

# Name -> grammatical gender
NAMES = {
    "Anna": "f",
    "Maria": "f",
    "Amina": "f",
    "Lena": "f",
    "Tom": "m",
    "David": "m",
    "Juma": "m",
    "Omar": "m",
}
NOUNS = (
    "mangoes", "oranges", "bananas", "eggs", "books", "pens", "chairs", "cups",
    "plates", "flowers", "shirts", "bags", "keys", "tickets", "balls", "coins",
)  # fmt: skip
# As many of the one as of the other, so that the number of problems does not depend on the signs
GAINS = ("buy", "find", "receive", "collect", "win", "take")
LOSSES = ("sell", "lose", "give away", "return", "throw away", "donate")
