"""A small real tokenizer, trained in memory, and a few parallel reasoning texts to train it and models on."""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast


# ChatML. What follows the assistant header, end of turn included, is marked as generated for `assistant_only_loss`.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- message['content'] + '<|im_end|>' }}"
    "{%- endif %}"
    "{{- '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# One item per entry: the same problem in every language, with the same numbers in the same steps.
PARALLEL_TEXTS: list[dict[str, dict[str, str]]] = [
    {
        "en": {
            "question": "Anna has 3 apples and buys 4 more. How many apples does she have?",
            "response": "Anna starts with 3 apples. She buys 4 more, so 3 + 4 = 7. The answer is 7.",
            "answer": "7",
        },
        "de": {
            "question": "Anna hat 3 Äpfel und kauft 4 weitere. Wie viele Äpfel hat sie?",
            "response": "Anna hat am Anfang 3 Äpfel. Sie kauft 4 weitere, also 3 + 4 = 7. Die Antwort ist 7.",
            "answer": "7",
        },
        "sw": {
            "question": "Anna ana matofaa 3 na ananunua mengine 4. Ana matofaa mangapi?",
            "response": "Anna anaanza na matofaa 3. Ananunua mengine 4, kwa hiyo 3 + 4 = 7. Jibu ni 7.",
            "answer": "7",
        },
        "th": {
            "question": "แอนนามีแอปเปิล 3 ผล และซื้อเพิ่มอีก 4 ผล เธอมีแอปเปิลกี่ผล",
            "response": "ตอนแรกแอนนามีแอปเปิล 3 ผล เธอซื้อเพิ่มอีก 4 ผล ดังนั้น 3 + 4 = 7 คำตอบคือ 7",
            "answer": "7",
        },
    },
    {
        "en": {
            "question": "A box holds 6 eggs. How many eggs are in 5 boxes?",
            "response": "Each box holds 6 eggs. There are 5 boxes, so 5 * 6 = 30. The answer is 30.",
            "answer": "30",
        },
        "de": {
            "question": "In eine Schachtel passen 6 Eier. Wie viele Eier sind in 5 Schachteln?",
            "response": "In jeder Schachtel sind 6 Eier. Es gibt 5 Schachteln, also 5 * 6 = 30. Die Antwort ist 30.",
            "answer": "30",
        },
        "sw": {
            "question": "Sanduku moja lina mayai 6. Kuna mayai mangapi katika masanduku 5?",
            "response": "Kila sanduku lina mayai 6. Kuna masanduku 5, kwa hiyo 5 * 6 = 30. Jibu ni 30.",
            "answer": "30",
        },
        "th": {
            "question": "กล่องหนึ่งใส่ไข่ได้ 6 ฟอง มีไข่กี่ฟองในกล่อง 5 กล่อง",
            "response": "แต่ละกล่องมีไข่ 6 ฟอง มีกล่อง 5 กล่อง ดังนั้น 5 * 6 = 30 คำตอบคือ 30",
            "answer": "30",
        },
    },
    {
        "en": {
            "question": "Juma had 20 shillings and spent 8. How many shillings are left?",
            "response": "Juma had 20 shillings. He spent 8, so 20 - 8 = 12 are left. The answer is 12.",
            "answer": "12",
        },
        "de": {
            "question": "Juma hatte 20 Schilling und gab 8 aus. Wie viele Schilling sind übrig?",
            "response": "Juma hatte 20 Schilling. Er gab 8 aus, also sind 20 - 8 = 12 übrig. Die Antwort ist 12.",
            "answer": "12",
        },
        "sw": {
            "question": "Juma alikuwa na shilingi 20 na akatumia 8. Zimebaki shilingi ngapi?",
            "response": "Juma alikuwa na shilingi 20. Alitumia 8, kwa hiyo zimebaki 20 - 8 = 12. Jibu ni 12.",
            "answer": "12",
        },
        "th": {
            "question": "จูมามีเงิน 20 ชิลลิง และใช้ไป 8 ชิลลิง เหลือเงินกี่ชิลลิง",
            "response": "จูมามีเงิน 20 ชิลลิง เขาใช้ไป 8 ชิลลิง ดังนั้นเหลือ 20 - 8 = 12 คำตอบคือ 12",
            "answer": "12",
        },
    },
    {
        "en": {
            "question": "24 children form 4 equal teams. How many children are in each team?",
            "response": "There are 24 children and 4 teams. We divide: 24 / 4 = 6. The answer is 6.",
            "answer": "6",
        },
        "de": {
            "question": "24 Kinder bilden 4 gleich große Teams. Wie viele Kinder sind in jedem Team?",
            "response": "Es gibt 24 Kinder und 4 Teams. Wir teilen: 24 / 4 = 6. Die Antwort ist 6.",
            "answer": "6",
        },
        "sw": {
            "question": "Watoto 24 wanaunda timu 4 zilizo sawa. Kuna watoto wangapi katika kila timu?",
            "response": "Kuna watoto 24 na timu 4. Tunagawanya: 24 / 4 = 6. Jibu ni 6.",
            "answer": "6",
        },
        "th": {
            "question": "เด็ก 24 คนแบ่งเป็น 4 ทีมเท่า ๆ กัน แต่ละทีมมีเด็กกี่คน",
            "response": "มีเด็ก 24 คนและ 4 ทีม เราหาร 24 / 4 = 6 คำตอบคือ 6",
            "answer": "6",
        },
    },
    {
        "en": {
            "question": "A bus has 15 people. 5 get off and 9 get on. How many people are on the bus?",
            "response": "The bus has 15 people. 5 get off: 15 - 5 = 10. 9 get on: 10 + 9 = 19. The answer is 19.",
            "answer": "19",
        },
        "de": {
            "question": "In einem Bus sind 15 Personen. 5 steigen aus und 9 steigen ein. Wie viele sind im Bus?",
            "response": "Im Bus sind 15 Personen. 5 steigen aus: 15 - 5 = 10. 9 steigen ein: 10 + 9 = 19. Die Antwort "
            "ist 19.",
            "answer": "19",
        },
        "sw": {
            "question": "Basi lina watu 15. Watu 5 wanashuka na 9 wanapanda. Kuna watu wangapi kwenye basi?",
            "response": "Basi lina watu 15. Watu 5 wanashuka: 15 - 5 = 10. Watu 9 wanapanda: 10 + 9 = 19. Jibu ni 19.",
            "answer": "19",
        },
        "th": {
            "question": "รถเมล์มีคน 15 คน ลง 5 คน และขึ้น 9 คน บนรถเมล์มีกี่คน",
            "response": "รถเมล์มีคน 15 คน ลง 5 คน 15 - 5 = 10 ขึ้น 9 คน 10 + 9 = 19 คำตอบคือ 19",
            "answer": "19",
        },
    },
    {
        "en": {
            "question": "One pen costs 2 euros. How much do 3 pens and a book for 11 euros cost?",
            "response": "3 pens cost 3 * 2 = 6 euros. With the book it is 6 + 11 = 17 euros. The answer is 17.",
            "answer": "17",
        },
        "de": {
            "question": "Ein Stift kostet 2 Euro. Wie viel kosten 3 Stifte und ein Buch für 11 Euro?",
            "response": "3 Stifte kosten 3 * 2 = 6 Euro. Mit dem Buch sind es 6 + 11 = 17 Euro. Die Antwort ist 17.",
            "answer": "17",
        },
        "sw": {
            "question": "Kalamu moja inagharimu euro 2. Kalamu 3 na kitabu cha euro 11 ni bei gani?",
            "response": "Kalamu 3 zinagharimu 3 * 2 = 6. Pamoja na kitabu ni 6 + 11 = 17. Jibu ni 17.",
            "answer": "17",
        },
        "th": {
            "question": "ปากกาด้ามละ 2 ยูโร ปากกา 3 ด้ามกับหนังสือราคา 11 ยูโร รวมเป็นเงินเท่าไร",
            "response": "ปากกา 3 ด้ามราคา 3 * 2 = 6 ยูโร รวมกับหนังสือเป็น 6 + 11 = 17 ยูโร คำตอบคือ 17",
            "answer": "17",
        },
    },
    {
        "en": {
            "question": "Sara reads 10 pages a day. How many pages does she read in 7 days?",
            "response": "Sara reads 10 pages every day. In 7 days she reads 7 * 10 = 70 pages. The answer is 70.",
            "answer": "70",
        },
        "de": {
            "question": "Sara liest 10 Seiten am Tag. Wie viele Seiten liest sie in 7 Tagen?",
            "response": "Sara liest jeden Tag 10 Seiten. In 7 Tagen liest sie 7 * 10 = 70 Seiten. Die Antwort ist 70.",
            "answer": "70",
        },
        "sw": {
            "question": "Sara anasoma kurasa 10 kwa siku. Anasoma kurasa ngapi kwa siku 7?",
            "response": "Sara anasoma kurasa 10 kila siku. Kwa siku 7 anasoma kurasa 7 * 10 = 70. Jibu ni 70.",
            "answer": "70",
        },
        "th": {
            "question": "ซาราอ่านหนังสือวันละ 10 หน้า เธออ่านได้กี่หน้าใน 7 วัน",
            "response": "ซาราอ่านวันละ 10 หน้า ใน 7 วันเธออ่าน 7 * 10 = 70 หน้า คำตอบคือ 70",
            "answer": "70",
        },
    },
    {
        "en": {
            "question": "A farmer has 2 cows and 13 goats. How many animals does he have after selling 6 goats?",
            "response": "He has 2 + 13 = 15 animals. After selling 6 goats he has 15 - 6 = 9. The answer is 9.",
            "answer": "9",
        },
        "de": {
            "question": "Ein Bauer hat 2 Kühe und 13 Ziegen. Wie viele Tiere hat er nach dem Verkauf von 6 Ziegen?",
            "response": "Er hat 2 + 13 = 15 Tiere. Nach dem Verkauf von 6 hat er 15 - 6 = 9. Die Antwort ist 9.",
            "answer": "9",
        },
        "sw": {
            "question": "Mkulima ana ng'ombe 2 na mbuzi 13. Ana wanyama wangapi baada ya kuuza mbuzi 6?",
            "response": "Ana wanyama 2 + 13 = 15. Baada ya kuuza mbuzi 6 ana 15 - 6 = 9. Jibu ni 9.",
            "answer": "9",
        },
        "th": {
            "question": "ชาวนามีวัว 2 ตัวและแพะ 13 ตัว หลังจากขายแพะ 6 ตัว เขามีสัตว์กี่ตัว",
            "response": "เขามีสัตว์ 2 + 13 = 15 ตัว หลังจากขายแพะ 6 ตัว เขามี 15 - 6 = 9 ตัว คำตอบคือ 9",
            "answer": "9",
        },
    },
]
LANGUAGES = list(PARALLEL_TEXTS[0])


def parallel_rows(languages: Iterable[str] = tuple(LANGUAGES)) -> list[dict[str, str | int]]:
    """`PARALLEL_TEXTS` in long format, item by item: `language`, `parallel_id`, `question`, `response`, `answer`."""
    languages = list(languages)
    return [
        {"language": language, "parallel_id": index, **item[language]}
        for index, item in enumerate(PARALLEL_TEXTS)
        for language in languages
    ]


def _all_texts() -> Iterator[str]:
    for row in parallel_rows():
        yield f"{row['question']}\n{row['response']}"


def train_tokenizer(texts: Iterable[str] | None = None, vocab_size: int = 384) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template, trained on `texts` (`PARALLEL_TEXTS` by default).

    Any text round-trips, as every byte has a token. `<pad>`, `<bos>` and the end-of-sequence token `<|im_end|>` are
    the ids 0, 1 and 2, as in the configs of `models.tiny_model`; none is added to plain text.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<bos>", "<|im_end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_all_texts() if texts is None else texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
