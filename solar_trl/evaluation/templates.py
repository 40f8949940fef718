"""What prompts say in each language, and the words that announce an answer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ..data.languages import normalize_language


@dataclass(frozen=True)
class Template:
    """
    The words of a prompt in one language.

    Args:
        question (`str`): Heading of the question in few-shot prompts.
        answer (`str`): Heading of the answer in few-shot prompts.
        solve (`str`): Instruction for problems with a number as the answer.
        choose (`str`): Instruction for multiple choice.
        cause (`str`): Question for the cause of a premise (XCOPA).
        effect (`str`): Question for its effect.
        cues (`tuple[str, ...]`): What announces an answer; the first one is what the instructions ask for.
    """

    question: str
    answer: str
    solve: str
    choose: str
    cause: str
    effect: str
    cues: tuple[str, ...]


# Of our own writing. `{cue}` becomes the first cue.
TEMPLATES = {
    "en": Template(
        "Question",
        "Answer",
        "Solve the problem step by step. End with “{cue}” and the number.",
        "Choose the correct option. End with “{cue}” and its letter.",
        "What was the cause?",
        "What happened as a result?",
        ("The answer is", "answer"),
    ),
    "de": Template(
        "Frage",
        "Antwort",
        "Löse die Aufgabe Schritt für Schritt. Schließe mit „{cue}“ und der Zahl.",
        "Wähle die richtige Möglichkeit. Schließe mit „{cue}“ und ihrem Buchstaben.",
        "Was war die Ursache?",
        "Was geschah daraufhin?",
        ("Die Antwort ist", "Antwort lautet", "Antwort"),
    ),
    "fr": Template(
        "Question",
        "Réponse",
        "Résous le problème étape par étape. Termine par « {cue} » et le nombre.",
        "Choisis la bonne option. Termine par « {cue} » et sa lettre.",
        "Quelle en était la cause ?",
        "Que s'est-il passé ensuite ?",
        ("La réponse est", "réponse"),
    ),
    "es": Template(
        "Pregunta",
        "Respuesta",
        "Resuelve el problema paso a paso. Termina con «{cue}» y el número.",
        "Elige la opción correcta. Termina con «{cue}» y su letra.",
        "¿Cuál fue la causa?",
        "¿Qué ocurrió como resultado?",
        ("La respuesta es", "respuesta"),
    ),
    "it": Template(
        "Domanda",
        "Risposta",
        "Risolvi il problema passo dopo passo. Concludi con «{cue}» e il numero.",
        "Scegli l'opzione corretta. Concludi con «{cue}» e la sua lettera.",
        "Qual è stata la causa?",
        "Che cosa è successo di conseguenza?",
        ("La risposta è", "risposta"),
    ),
    "pt": Template(
        "Pergunta",
        "Resposta",
        "Resolva o problema passo a passo. Termine com “{cue}” e o número.",
        "Escolha a opção correta. Termine com “{cue}” e a letra dela.",
        "Qual foi a causa?",
        "O que aconteceu como resultado?",
        ("A resposta é", "resposta"),
    ),
    "ru": Template(
        "Вопрос",
        "Ответ",
        "Реши задачу шаг за шагом. В конце напиши «{cue}» и число.",
        "Выбери правильный вариант. В конце напиши «{cue}» и его букву.",
        "Что было причиной?",
        "Что произошло в результате?",
        ("Ответ:", "Ответ"),
    ),
    "zh": Template(
        "问题",
        "解答",
        "请一步一步地解题，最后写“{cue}”和数字。",
        "请选择正确的选项，最后写“{cue}”和选项的字母。",
        "原因是什么？",
        "结果是什么？",
        ("答案是", "答案为", "答案"),
    ),
    "ja": Template(
        "問題",
        "解答",
        "順を追って問題を解き、最後に「{cue}」と数を書いてください。",
        "正しい選択肢を選び、最後に「{cue}」とその文字を書いてください。",
        "その原因は何でしたか。",
        "その結果、何が起こりましたか。",
        ("答えは", "答え"),
    ),
    "ko": Template(
        "문제",
        "풀이",
        "문제를 단계별로 풀고, 마지막에 “{cue}”라고 쓴 다음 숫자를 쓰세요.",
        "맞는 보기를 고르고, 마지막에 “{cue}”라고 쓴 다음 그 글자를 쓰세요.",
        "원인은 무엇이었습니까?",
        "그 결과 무슨 일이 일어났습니까?",
        ("정답은", "답은", "정답", "답"),
    ),
    "th": Template(
        "คำถาม",
        "คำตอบ",
        "จงแก้โจทย์ทีละขั้นตอน แล้วจบด้วย “{cue}” และตัวเลข",
        "จงเลือกข้อที่ถูกต้อง แล้วจบด้วย “{cue}” และตัวอักษรของข้อนั้น",
        "สาเหตุคืออะไร",
        "ผลที่ตามมาคืออะไร",
        ("คำตอบคือ", "คำตอบ"),
    ),
    "bn": Template(
        "প্রশ্ন",
        "উত্তর",
        "ধাপে ধাপে সমস্যাটির সমাধান করুন। শেষে “{cue}” এবং সংখ্যাটি লিখুন।",
        "সঠিক বিকল্পটি বেছে নিন। শেষে “{cue}” এবং বিকল্পটির অক্ষর লিখুন।",
        "এর কারণ কী ছিল?",
        "এর ফলে কী হয়েছিল?",
        ("উত্তর হল", "উত্তর হলো", "উত্তর"),
    ),
    "te": Template(
        "ప్రశ్న",
        "సమాధానం",
        "సమస్యను దశలవారీగా పరిష్కరించండి. చివరగా “{cue}” అని, ఆ సంఖ్యను రాయండి.",
        "సరైన ఎంపికను ఎంచుకోండి. చివరగా “{cue}” అని, దాని అక్షరాన్ని రాయండి.",
        "దీనికి కారణం ఏమిటి?",
        "దీని ఫలితంగా ఏమి జరిగింది?",
        ("సమాధానం", "జవాబు"),
    ),
    "ta": Template(
        "கேள்வி",
        "பதில்",
        "கணக்கைப் படிப்படியாகத் தீர்க்கவும். இறுதியில் “{cue}” என்றும் எண்ணையும் எழுதவும்.",
        "சரியான விருப்பத்தைத் தேர்ந்தெடுக்கவும். இறுதியில் “{cue}” என்றும் அதன் எழுத்தையும் எழுதவும்.",
        "இதற்குக் காரணம் என்ன?",
        "இதன் விளைவாக என்ன நடந்தது?",
        ("பதில்", "விடை"),
    ),
    "hi": Template(
        "प्रश्न",
        "उत्तर",
        "समस्या को चरण-दर-चरण हल करें। अंत में “{cue}” और संख्या लिखें।",
        "सही विकल्प चुनें। अंत में “{cue}” और उसका अक्षर लिखें।",
        "इसका कारण क्या था?",
        "इसके परिणामस्वरूप क्या हुआ?",
        ("उत्तर है", "उत्तर"),
    ),
    "ar": Template(
        "السؤال",
        "الجواب",
        "حل المسألة خطوة بخطوة، واختم بعبارة «{cue}» ثم العدد.",
        "اختر الخيار الصحيح، واختم بعبارة «{cue}» ثم حرفه.",
        "ماذا كان السبب؟",
        "ماذا حدث نتيجة لذلك؟",
        ("الإجابة هي", "الجواب هو", "الإجابة", "الجواب"),
    ),
    "sw": Template(
        "Swali",
        "Jibu",
        "Tatua swali hatua kwa hatua. Malizia kwa “{cue}” na nambari.",
        "Chagua jibu sahihi. Malizia kwa “{cue}” na herufi yake.",
        "Sababu ilikuwa nini?",
        "Nini kilitokea kama matokeo?",
        ("Jibu ni", "Jibu"),
    ),
    "id": Template(
        "Pertanyaan",
        "Jawaban",
        "Selesaikan soal ini langkah demi langkah. Akhiri dengan “{cue}” dan angkanya.",
        "Pilih opsi yang benar. Akhiri dengan “{cue}” dan hurufnya.",
        "Apa penyebabnya?",
        "Apa yang terjadi sebagai akibatnya?",
        ("Jawabannya adalah", "jawaban adalah", "jawaban"),
    ),
    "vi": Template(
        "Câu hỏi",
        "Trả lời",
        "Hãy giải bài toán từng bước. Kết thúc bằng “{cue}” và con số.",
        "Hãy chọn phương án đúng. Kết thúc bằng “{cue}” và chữ cái của phương án đó.",
        "Nguyên nhân là gì?",
        "Kết quả là điều gì đã xảy ra?",
        ("Đáp án là", "câu trả lời là", "đáp án"),
    ),
    "tr": Template(
        "Soru",
        "Cevap",
        "Problemi adım adım çöz. Sonunda “{cue}” ve sayıyı yaz.",
        "Doğru seçeneği seç. Sonunda “{cue}” ve harfini yaz.",
        "Bunun nedeni neydi?",
        "Bunun sonucunda ne oldu?",
        ("Cevap:", "cevap", "yanıt"),
    ),
    "et": Template(
        "Küsimus",
        "Vastus",
        "Lahenda ülesanne samm-sammult. Lõpeta sõnadega „{cue}“ ja arvuga.",
        "Vali õige variant. Lõpeta sõnadega „{cue}“ ja selle tähega.",
        "Mis oli selle põhjus?",
        "Mis selle tagajärjel juhtus?",
        ("Vastus on", "vastus"),
    ),
    "ht": Template(
        "Kesyon",
        "Repons",
        "Rezoud pwoblèm nan etap pa etap. Fini ak “{cue}” epi nimewo a.",
        "Chwazi bon opsyon an. Fini ak “{cue}” epi lèt li.",
        "Ki sa ki te lakòz sa?",
        "Ki sa ki te rive apre sa?",
        ("Repons lan se", "repons"),
    ),
}
FALLBACK = "en"


def template_for(language: str) -> tuple[Template, bool]:
    """The template of a language code (`"sw"`, `"swh_Latn"`), and whether it is in that language or the fallback."""
    code = short_code(language)
    if code in TEMPLATES:
        return TEMPLATES[code], True
    return TEMPLATES[FALLBACK], False


# FLORES and ISO 639-3 codes of the languages above; others need `langcodes`
_THREE_LETTERS = {
    "eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "por": "pt", "rus": "ru", "zho": "zh",
    "cmn": "zh", "jpn": "ja", "kor": "ko", "tha": "th", "ben": "bn", "tel": "te", "tam": "ta", "hin": "hi",
    "ara": "ar", "arb": "ar", "swa": "sw", "swh": "sw", "ind": "id", "vie": "vi", "tur": "tr", "est": "et",
    "ekk": "et", "hat": "ht", "quy": "qu", "que": "qu",
}  # fmt: skip


def short_code(language: str) -> str:
    """`"sw"` for `"sw"`, `"SW"`, `"sw-TZ"`, `"swh_Latn"`; a code that is not known comes back in lower case."""
    code = language.strip().lower().replace("_", "-").split("-")[0]
    if len(code) == 3 and code not in _THREE_LETTERS:
        with suppress(ImportError, ValueError):
            return normalize_language(code)
    return _THREE_LETTERS.get(code, code)
