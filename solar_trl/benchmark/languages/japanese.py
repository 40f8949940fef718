"""Japanese: the verb last, particles after the nouns, number and counter after the object. Words stand apart."""

from .language import Language, forms


JAPANESE = Language(
    code="ja",
    name="Japanese",
    templates={
        "has": "{name} は {noun} を {n} {unit} 持っています。",
        "event": "{pronoun} は {noun} を {n} {unit} {verb}",
        "then": "次に {pronoun} は {noun} を {n} {unit} {verb}",
        "last": "最後に {pronoun} は {noun} を {n} {unit} {verb}",
        "ask": "今 {name} は {noun} を 何 {unit} 持っていますか。",
        "first": "初めに {name} は {noun} を {n} {unit} 持っています。",
        "calculation": "{event}： {before} {sign} {amount} = {after}",
        "answer": "答えは {n} です。",
        "stop": "。",
    },
    pronouns={"f": "彼女", "m": "彼"},
    names=forms(
        ["name"],
        {
            "Anna": "アンナ",
            "Maria": "マリア",
            "Amina": "アミナ",
            "Lena": "レナ",
            "Tom": "トム",
            "David": "デイビッド",
            "Juma": "ジュマ",
            "Omar": "オマル",
        },
    ),
    nouns=forms(
        ["noun", "unit"],
        {
            "mangoes": ("マンゴー", "個"),
            "oranges": ("オレンジ", "個"),
            "bananas": ("バナナ", "本"),
            "eggs": ("卵", "個"),
            "books": ("本", "冊"),
            "pens": ("ペン", "本"),
            "chairs": ("椅子", "脚"),
            "cups": ("カップ", "個"),
            "plates": ("皿", "枚"),
            "flowers": ("花", "本"),
            "shirts": ("シャツ", "枚"),
            "bags": ("かばん", "個"),
            "keys": ("鍵", "本"),
            "tickets": ("切符", "枚"),
            "balls": ("ボール", "個"),
            "coins": ("硬貨", "枚"),
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "買います",
            "find": "見つけます",
            "receive": "受け取ります",
            "collect": "集めます",
            "win": "獲得します",
            "take": "取ります",
            "sell": "売ります",
            "lose": "なくします",
            "give away": "配ります",
            "return": "返します",
            "throw away": "捨てます",
            "donate": "寄付します",
        },
    ),
)
